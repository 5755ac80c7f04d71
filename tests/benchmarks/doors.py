"""What reporting costs a build: from the start of a command to a report that is on the disk, by every door.

``make bench BENCH=doors`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from tests.benchmarks.drain import server
from tests.benchmarks.output import machine, say, table, target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
ROUNDS = 40
WARMING_UP = 3
TOKEN = "bench-token"
BY_INTAKE = 100_000  # builds with higher numbers report themselves there
PYTHON = [sys.executable, "-c"]
EMIT = [*PYTHON, "from agent.main import main; main()", "emit", "--strict", "--status", "SUCCESS"]
BARE, FLOOR = "python -c pass", "the same, with argparse, json, sqlite3"
OUTBOX, SPOOL = "hivel-agent emit, into the outbox", "hivel-agent emit, into the spool folder"
DEFAULTS = "the same, where the configuration names no paths"
INTAKE, HIVEL = "curl to the intake", "curl straight to a local Hivel"
MOVE, SYNC = "mv into the spool folder", "the same, the file and the folder synced"


@dataclass
class Door:
    """A command for each round; ``variables`` are added to the environment."""

    name: str
    command: Callable[[int], list[str]]
    variables: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[int], None] = lambda _: None
    seconds: list[float] = field(default_factory=list)

    def go(self, number: int) -> None:
        """Once, from start to end of the process."""
        self.prepare(number)
        command, environment = self.command(number), plain_environment() | self.variables
        began = time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        self.seconds.append(time.perf_counter() - began)


def plain_environment() -> dict[str, str]:
    """As little as a build may have; without what keeps Python from storing what it compiled."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "HOME")}
    return kept | {"PYTHONPATH": str(ROOT)}


def jenkins(number: int) -> dict[str, object]:
    """A report of a stage: it becomes an event at once."""
    return {
        "job": "deploy/shop", "build_number": str(number), "stage": "Deploy", "environment": "production",
        "status": "SUCCESS", "repo_url": "https://git.example.test/acme/shop.git", "branch": "main",
    }  # fmt: skip


def hivel_event(number: int) -> dict[str, object]:
    return {
        "deployment_id": f"bench-{number}", "event_type": "completed", "status": "success", "environment": "production",
        "repo_url": "https://git.example.test/acme/shop.git", "branch": "main", "start_time": "2026-11-23T12:00:00Z",
        "end_time": "2026-11-23T12:01:00Z",
    }  # fmt: skip


def options(number: int) -> list[str]:
    return [word for name, text in jenkins(number).items() for word in (f"--{name.replace('_', '-')}", str(text))]


def curl(url: str, header: str, body: dict[str, object]) -> list[str]:
    return ["curl", "-sSf", "-H", header, "-H", "Content-Type: application/json", "-d", json.dumps(body), url]


@contextmanager
def daemon(folder: Path, hivel: str) -> Iterator[str]:
    """The URL of the intake of a daemon in this folder."""
    for name in ("hivel.token", "intake.token"):
        (folder / name).write_text(TOKEN)
        (folder / name).chmod(0o600)
    (folder / "config.toml").write_text(
        f'[hivel]\nurl = "{hivel}"\ntoken_file = "hivel.token"\n[[jenkins]]\nname = "main"\n'
        'url = "http://127.0.0.1:9/"\npoll_interval = "1h"\n[outbox]\npath = "outbox.db"\n[monitoring]\nlisten = ""\n'
        '[web]\nlisten = ""\n[hook]\nspool = "spool"\n[intake]\nlisten = "127.0.0.1:0"\ntoken_file = "intake.token"\n'
    )
    log = folder / "agent.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent", "run", "--config", str(folder / "config.toml")],
            stderr=file, env=plain_environment(),
        )  # fmt: skip
    try:
        while "event=started" not in log.read_text():
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.02)
        yield re.findall(r"what=intake url=(\S+)", log.read_text())[0]
    finally:
        process.terminate()
        process.wait()


def doors(folder: Path, intake: str, hivel: str) -> list[Door]:
    """All of them, and what they are compared with."""
    elsewhere = folder / "spool-of-emit"
    without_outbox = folder / "without-outbox.toml"
    without_outbox.write_text(f'[outbox]\npath = "nowhere.db"\n[hook]\nspool = "{elsewhere}"\n')
    (folder / "defaults.toml").write_text('[hivel]\nurl = "https://hivel.example.test"\n')
    usual = f"import agent.sources.reports.emit as emit; emit.DEFAULT_OUTBOX = {str(folder / 'outbox.db')!r}; {EMIT[2]}"
    moved = folder / "spool-of-mv"
    for place in (elsewhere, moved):
        place.mkdir()

    def write(number: int) -> None:
        (folder / f"{number}.json").write_text(json.dumps(jenkins(number)))

    def synced(number: int) -> list[str]:
        script = 'sync "$1" && mv "$1" "$2" && sync "$2"'
        return ["sh", "-c", script, "sh", str(folder / f"{number}.json"), str(moved)]

    return [
        Door(BARE, lambda _: [*PYTHON, "pass"]),
        Door(FLOOR, lambda _: [*PYTHON, "import argparse, json, sqlite3"]),
        Door(OUTBOX, lambda number: [*EMIT, *options(number)], {"HIVEL_AGENT_CONFIG": str(folder / "config.toml")}),
        Door(
            DEFAULTS,
            lambda number: [*PYTHON, usual, *EMIT[3:], *options(10_000 + number)],
            {"HIVEL_AGENT_CONFIG": str(folder / "defaults.toml")},
        ),
        Door(SPOOL, lambda number: [*EMIT, *options(number)], {"HIVEL_AGENT_CONFIG": str(without_outbox)}),
        Door(
            INTAKE,
            lambda number: curl(f"{intake}/v1/events", f"Authorization: Bearer {TOKEN}", jenkins(BY_INTAKE + number)),
        ),
        Door(
            HIVEL,
            lambda number: curl(f"{hivel}/api/hooks/v2/deployment", f"X-API-Token: {TOKEN}", hivel_event(number)),
        ),
        Door(MOVE, lambda number: ["mv", str(folder / f"{number}.json"), str(moved)], prepare=write),
        Door(SYNC, synced, prepare=write),
    ]


def stored(folder: Path) -> tuple[int, int, int]:
    """How many reports came through: by ``emit`` into the outbox (two of them) and the spool folder, and by HTTP."""
    with SqliteOutbox(folder / "outbox.db", Clock()) as outbox:
        numbers = [int(each.run.number) for each in outbox.all_deployments()]
        waiting = len(outbox.reports(1_000_000))
    by_intake = sum(number > BY_INTAKE for number in numbers)
    return len(numbers) - by_intake + waiting, len(list((folder / "spool-of-emit").iterdir())), by_intake


def main() -> None:
    """Measure and print."""
    if shutil.which("curl") is None:
        raise SystemExit("curl is needed")
    with tempfile.TemporaryDirectory(dir=Path(sys.prefix)) as name, server(0) as hivel:
        folder = Path(name)
        with daemon(folder, hivel) as intake:
            all_doors = doors(folder, intake, hivel)
            machine("starlette", "uvicorn", "msgspec")
            say(f"{ROUNDS} rounds by turns; milliseconds from the start of a process to its end")
            say()
            for number in range(1, WARMING_UP + ROUNDS + 1):
                for door in all_doors:
                    door.go(number)
        rounds = WARMING_UP + ROUNDS
        if stored(folder) != (2 * rounds, rounds, rounds):
            raise SystemExit(f"reports are missing: {stored(folder)}")
    report(all_doors)


def report(all_doors: list[Door]) -> None:
    seconds = {door.name: door.seconds[WARMING_UP:] for door in all_doors}
    medians = {name: median(values) for name, values in seconds.items()}
    rows = [
        [
            name,
            f"{1000 * medians[name]:.1f}",
            f"{1000 * quantiles(values, n=10)[-1]:.1f}",
            f"{medians[name] / medians[BARE]:.2f}",
            f"{medians[name] / medians[HIVEL]:.2f}",
        ]
        for name, values in seconds.items()
    ]
    table(["", "median ms", "90 % within", "times python", "times curl to Hivel"], rows)
    say()
    for name in (OUTBOX, DEFAULTS, SPOOL):
        target(f"{name}: times python -c pass", medians[name] / medians[BARE], below=4.0)


if __name__ == "__main__":
    main()
