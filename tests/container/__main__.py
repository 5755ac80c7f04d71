"""``python -m tests.container``: prepares what needs the network, tells the stories without one, and cleans up.

Exit code 0: all is as it has to be, or this machine cannot boot a container, which is said then.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.container.debian import PYTHON, SUITE, CannotBootError, archive, require_tools
from tests.container.log import say, step
from tests.container.story import EXIT_CANNOT_BOOT

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "container"
PATIENCE_S = 3600.0


def main() -> int:
    """Everything, and the exit code."""
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the folders are removed then, too
    readme = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "installation.md"
    try:
        require_tools()
        with _folder() as folder, ThreadPoolExecutor() as pool:
            share = pool.submit(_share, folder / "share")  # both wait for the network much of the time
            step("Debian by debootstrap", lambda: archive(CACHE).name)
            step("what is to be installed", share.result)
            code = _tell(folder, readme)
    except CannotBootError as error:
        say(f"\nSKIPPED: {error}")
        return 0
    say(f"{'all is well' if code == 0 else 'not all is well'}, {time.monotonic() - begun:.0f} s")
    return 0 if code == EXIT_CANNOT_BOOT else code


@contextmanager
def _folder() -> Iterator[Path]:
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=CACHE))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _share(share: Path) -> str:
    """The wheel, what the package is built of, and the locked dependencies in the files whose hashes are locked."""
    wheels, environment = share / "wheels", share.parent / "pip"
    _run("/usr/bin/python3", "-m", "venv", str(environment))
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "download", "-qq"]
    # The lock file is complete, so that no dependency has to be looked for, and pip may download for another Python.
    of = ("--python-version", PYTHON[SUITE], "--no-deps", "--require-hashes")
    _run(*pip, *of, "-r", "requirements-postgresql.txt", "-d", str(wheels))
    _run(*pip, "wheel", "-d", str(wheels))  # pip fetches it to build the dependencies that are no wheels
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(share / "dist"), ".")
    for name in (
        "requirements.txt",
        "requirements-postgresql.txt",
        "README.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "LICENSE",
    ):
        shutil.copy(ROOT / name, share)
    for name in ("systemd", "packaging", "docs"):
        shutil.copytree(ROOT / name, share / name)
    return ", ".join(path.name for path in (share / "dist").iterdir())


def _tell(folder: Path, readme: Path) -> int:
    """In namespaces of its own: no network but loopback, and processes that end with this one."""
    command = [
        "setpriv", "--pdeathsig=KILL", "--",
        "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
        sys.executable, "-m", "tests.container.story", str(folder), str(archive(CACHE)), str(readme.resolve()),
    ]  # fmt: skip
    try:
        return subprocess.run(command, cwd=ROOT, timeout=PATIENCE_S, check=False).returncode
    except subprocess.TimeoutExpired:
        say(f"\nFAILED: it was not done after {PATIENCE_S:.0f} s")
        return 1


def _run(*command: str) -> None:
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"\n{command[0]} failed:\n{done.stdout}")


if __name__ == "__main__":
    sys.exit(main())
