"""From start to durable: the three doors by which a build reports itself, each as the process that a build starts.

``make bench BENCH=doors`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer
from tests.benchmarks.drain import server
from tests.benchmarks.output import machine, say, table, target

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
ROUNDS = 40
TOKEN = "bench-token"
BARE, EMIT = "python -c pass", "hivel-agent emit"
# What a Jenkins build has in its environment.
BUILD = {
    "JOB_NAME": "deploy/shop",
    "JENKINS_URL": "http://jenkins.test/",
    "GIT_COMMIT": "ab" * 20,
    "GIT_BRANCH": "main",
}


def main() -> None:
    """Print the table."""
    machine("msgspec", "uvicorn")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path(sys.prefix), prefix="doors-")))
        jenkins = stack.enter_context(LocalServer(LocalJenkins().app))
        hivel = stack.enter_context(server(0))
        intake = _daemon(stack, folder, jenkins.url, hivel)
        doors = _doors(folder, intake, hivel)
        seconds: dict[str, list[float]] = {name: [] for name in doors}
        for _ in range(ROUNDS):
            for name, run in doors.items():
                started = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - started)
    medians = {name: median(found) * 1000 for name, found in seconds.items()}
    rows = [(name, f"{ms:.1f}", f"{ms / medians[BARE]:.2f}") for name, ms in medians.items()]
    say(f"\nFrom the start of the process to its end, medians of {ROUNDS} rounds by turns:")
    table(("", "ms", f"of {BARE}"), rows)
    say(f"\nload now {os.getloadavg()[0]:.1f}")
    target(f"{EMIT}, of {BARE}", medians[EMIT] / medians[BARE], below=4)


def _daemon(stack: ExitStack, folder: Path, jenkins: str, hivel: str) -> str:
    """Start it; returns the address of its intake."""
    (folder / "spool").mkdir()
    (folder / "config.toml").write_text(
        f'[hivel]\nurl = "{hivel}"\n[[jenkins]]\nname = "main"\nurl = "{jenkins}"\n[outbox]\npath = "outbox.db"\n'
        '[monitoring]\nlisten = ""\n[hook]\nspool = "spool"\n[intake]\nlisten = "127.0.0.1:0"\n'
    )
    log = folder / "agent.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent", "run", "--config", str(folder / "config.toml")],
            cwd=ROOT, stderr=stream, env=_environment() | {"HIVEL_API_TOKEN": TOKEN, "HIVEL_AGENT_INTAKE_TOKEN": TOKEN},
        )  # fmt: skip
    stack.callback(process.wait)
    stack.callback(process.terminate)
    while "event=started" not in (told := log.read_text()):
        if process.poll() is not None:
            raise SystemExit(told)
        time.sleep(0.05)
    return told.partition("what=intake url=")[2].split()[0]


def _environment() -> dict[str, str]:
    """With byte code on disk, as on any machine where the agent was installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _doors(folder: Path, intake: str, hivel: str) -> dict[str, Callable[[], object]]:
    numbers = count(1)
    command = Path(sys.prefix) / "bin" / "hivel-agent"
    emit = [str(command)] if command.exists() else [sys.executable, "-m", "agent"]

    def report() -> str:
        fields = {"job": "deploy/shop", "build_number": next(numbers), "build_url": "http://jenkins.test/job/x/1/"}
        return json.dumps(fields | {"status": "SUCCESS", "stage": "Deploy", "environment": "production",
                                    "repo_url": "https://git.example.com/shop", "branch": "main"})  # fmt: skip

    def run(arguments: list[str], **environment: str) -> None:
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env=_environment() | environment)

    def by_emit() -> None:
        run([*emit, "emit", "--config", str(folder / "config.toml"), "--status", "SUCCESS", "--strict"],
            **BUILD, BUILD_NUMBER=str(next(numbers)))  # fmt: skip

    def by_curl(url: str, header: str) -> None:
        run(["curl", "-sS", "--fail", "-H", header, "-H", "Content-Type: application/json", "-d", report(), url])

    def by_spool() -> None:
        file = folder / f"{next(numbers)}.json"
        run(["sh", "-c", 'printf %s "$1" >"$2" && sync "$2" && mv "$2" "$3"', "sh", report(), str(file),
             str(folder / "spool")])  # fmt: skip

    return {
        BARE: lambda: run([sys.executable, "-c", "pass"]),
        EMIT: by_emit,
        "curl to the intake": lambda: by_curl(f"{intake}/v1/events", f"Authorization: Bearer {TOKEN}"),
        "a file, synced and moved into the spool": by_spool,
        "curl straight to Hivel, stored nowhere": lambda: by_curl(
            f"{hivel}/api/hooks/v2/deployment", f"X-API-Token: {TOKEN}"
        ),
    }


if __name__ == "__main__":
    main()
