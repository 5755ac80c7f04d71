"""``make fuzz``: each target in turn, guided by coverage, until the time is over.

``python -m tests.fuzz MINUTES [TARGET …]``. What a target raises ends the run; the input is in ``corpus/`` then, to be
committed with the mend. ``python -m tests.fuzz --one TARGET SECONDS FOLDER`` is what runs for each target.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import click

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import CORPUS, TARGETS

# What libFuzzer calls the file of an input that raised.
_FOUND = "crash-"


def main(minutes: float, names: list[str]) -> int:
    """All of them for the same time; 1 when one found something."""
    if find_spec("atheris") is None:
        click.echo(
            "atheris is not to be had for this Python: random inputs, 100,000 for each target, without its guidance"
        )
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-n", "auto", "tests/fuzz"],
            env=os.environ | {"HIVEL_FUZZ": "100000"}, check=False,
        ).returncode  # fmt: skip
    seconds = max(1, round(minutes * 60 / len(names)))
    with tempfile.TemporaryDirectory(prefix="hivel-fuzz-") as folder:
        for name in names:
            click.echo(f"== {name}: {seconds} s")
            grown = Path(folder) / name
            grown.mkdir()
            for number, seed in enumerate(seeds(name)):
                (grown / f"seed-{number}").write_bytes(seed)
            command = [sys.executable, "-m", "tests.fuzz", "--one", name, str(seconds), str(grown)]
            if subprocess.run(command, check=False).returncode and (kept := _keep(name, grown)):
                click.echo(f"found: {kept}")
                return 1
    return 0


def _keep(name: str, grown: Path) -> list[str]:
    kept = []
    for found in grown.parent.glob(f"{_FOUND}*"):
        body = found.read_bytes()
        place = CORPUS / name / hashlib.sha256(body).hexdigest()[:12]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(body)
        kept.append(str(place))
    return kept


def one(name: str, seconds: int, grown: Path) -> None:
    """Never returns: atheris ends the process."""
    import atheris  # type: ignore[import-not-found]

    target = TARGETS[name]
    atheris.instrument_all()
    atheris.Setup(
        [
            sys.argv[0], str(grown), f"-max_total_time={seconds}", "-max_len=20000", "-print_final_stats=1",
            f"-artifact_prefix={grown.parent}/{_FOUND.removesuffix('crash-')}",
        ],
        target,
    )  # fmt: skip
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        one(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        sys.exit(main(float(sys.argv[1]), sys.argv[2:] or list(TARGETS)))
