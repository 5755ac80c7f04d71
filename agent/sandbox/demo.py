"""The demo: a local Jenkins, the agent as a separate process, and a local Hivel, with a built-in configuration.

Every step is checked. The summary shows the results, and the demo succeeds only if all of them are as promised. With
``stay``, it then adds some weeks of deployments and serves the pages until it is interrupted.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox as Outbox
from agent.sandbox.history import play_history
from agent.sandbox.hivel import LocalHivel
from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

# The time limit of a step. The whole demo takes some seconds.
PATIENCE_S = 120.0
# The time between two builds of a demo that stays.
_BUILD_EVERY_S = 5.0

CONFIG = """\
[hivel]
url = "{hivel}"
token_file = "hivel.token"

[[jenkins]]
name = "demo"
url = "{jenkins}"
username = "hivel-agent"
token_file = "jenkins.token"
poll_interval = "500ms"
since = "2020-01-01"

# Builds of these jobs check nothing out: the rule sets repository and branch.
[[deployment]]
job = "re:^(deploy-|team-a/My Folder)"
environment = "{{params.ENVIRONMENT}}|{{job.environment}}"
repo_url = "https://github.example.test/acme/shop"
branch = "{{branch}}|main"

[[deployment]]
job = "**"

[outbox]
path = "outbox.db"

[monitoring]
listen = ""

[web]
listen = "{web}"
password_file = "web.password"

[delivery]
interval = "200ms"
backoff_initial = "200ms"
backoff_max = "1s"
"""


class DemoError(Exception):
    """A step was not completed; the message says which."""


@dataclass
class _Summary:
    """The promises of the demo, each with the result."""

    rows: list[tuple[str, str, bool]] = field(default_factory=list)

    def add(self, claim: str, seen: object, *, ok: bool) -> None:
        self.rows.append((claim, str(seen), ok))

    @property
    def ok(self) -> bool:
        return all(ok for _, _, ok in self.rows)


@dataclass(frozen=True)
class _Scene:
    """The parts of the demo."""

    folder: Path
    jenkins: LocalJenkins
    jenkins_server: LocalServer
    hivel: LocalHivel
    hivel_server: LocalServer
    outbox: Outbox
    out: Console
    deadline: float
    password: str = field(default_factory=lambda: secrets.token_urlsafe(9))

    def configure(self, *, web: str) -> None:
        """Write the configuration; ``web`` is the address of the pages."""
        text = CONFIG.format(hivel=self.hivel_server.url, jenkins=self.jenkins_server.url, web=web)
        (self.folder / "config.toml").write_text(text)

    def keep_secret(self, name: str, secret: str) -> None:
        (self.folder / name).write_text(f"{secret}\n")
        (self.folder / name).chmod(0o600)

    @property
    def log(self) -> Path:
        """The agent's."""
        return self.folder / "agent.log"

    def say(self, text: str) -> None:
        self.out.print(f"  {text}")

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        while not condition():
            if time.monotonic() > self.deadline:
                raise DemoError(f"timeout: waited until {what}")
            time.sleep(0.05)

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        process.send_signal(signal.SIGTERM)
        self.wait("the agent stops", lambda: process.poll() is not None)
        return process.returncode


def run_demo(*, stay: bool = False) -> bool:
    """Run the demo and print it. True if every promise was kept.

    ``stay``: then keep everything running, with the pages, until SIGINT or SIGTERM.
    """
    from rich.console import Console  # noqa: PLC0415

    out = Console(highlight=False)
    summary = _Summary()
    try:
        with _scene(out) as scene:
            _play(scene, summary)
            _print(out, summary)
            if stay and summary.ok:
                _stay(scene)
    except DemoError as error:
        summary.add("the demo was completed", error, ok=False)
        _print(out, summary)
    return summary.ok


@contextmanager
def _scene(out: Console) -> Iterator[_Scene]:
    with ExitStack() as stack:
        deadline = time.monotonic() + PATIENCE_S
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hivel-agent-demo-")))
        jenkins = LocalJenkins.recorded()
        jenkins_server = stack.enter_context(LocalServer(jenkins.app))
        hivel = LocalHivel()
        stack.callback(hivel.close)
        hivel_server = LocalServer(hivel.app).start()  # reserves a port, and is down at first
        hivel_server.stop()
        stack.callback(hivel_server.stop)
        outbox = stack.enter_context(Outbox(folder / "outbox.db", Clock()))
        scene = _Scene(folder, jenkins, jenkins_server, hivel, hivel_server, outbox, out, deadline)
        scene.configure(web="")
        for name in ("hivel.token", "jenkins.token"):
            scene.keep_secret(name, "sandbox-token")
        scene.keep_secret("web.password", scene.password)
        yield scene


def _play(scene: _Scene, summary: _Summary) -> None:
    expected = sum(1 for name, build in scene.jenkins.all_builds() if "=" not in name and not build["building"])
    scene.out.print(f"[bold]1  A Jenkins with {expected} finished builds; Hivel is down[/]")
    with _agent(scene) as agent:
        scene.wait("every build is in the outbox", lambda: scene.outbox.counts().pending == expected)
        counts = scene.outbox.counts()
        scene.say(f"{expected} builds found, {counts.pending} events queued")
        summary.add("builds found, events queued", f"{expected} builds, {counts.pending} events", ok=counts.failed == 0)
        scene.wait(
            "the outage is noticed", lambda: (s := scene.outbox.delivery_state()) is not None and s.state == "outage"
        )
        counts, state = scene.outbox.counts(), scene.outbox.delivery_state()
        scene.say(f"{counts.pending} events wait: {state.reason if state else ''}")
        waiting_well = counts.pending == expected and not scene.hivel.deployments()
        summary.add("Hivel down: events wait, none lost", f"{counts.pending} pending", ok=waiting_well)

        scene.out.print("[bold]2  Hivel is back[/]")
        scene.hivel_server.start()
        scene.wait("the outbox is empty", lambda: scene.outbox.counts().delivered == expected)
        arrived = len(scene.hivel.deployments())
        scene.say(f"{scene.outbox.counts().delivered} delivered, Hivel has {arrived}")
        summary.add("Hivel back: all delivered", f"{arrived} at Hivel", ok=arrived == expected)
        stopped_well = scene.stop(agent) == 0
        scene.say("the agent was stopped with SIGTERM")

    scene.out.print("[bold]3  The agent is started again; in the meantime, one more build finished[/]")
    number = scene.jenkins.start_build("pipe-deploy", repo="https://github.example.test/acme/shop.git")
    scene.jenkins.finish_build("pipe-deploy", number, "UNSTABLE")
    with _agent(scene) as agent:
        scene.wait("the new build arrives", lambda: len(scene.hivel.deployments()) == expected + 1)
        scene.wait("it is settled", lambda: scene.outbox.counts().delivered == expected + 1)
        stopped_well = scene.stop(agent) == 0 and stopped_well
    deployments = scene.hivel.deployments()
    newest = deployments[-1]
    scene.say(f"{newest.event.deployment_id} arrived as {newest.event.status}, and nothing else")
    twice = [d.event.deployment_id for d in deployments if d.times_posted != 1]
    summary.add("restart: only the new build", f"{len(deployments)} at Hivel", ok=len(deployments) == expected + 1)
    summary.add("nothing sent twice", f"{len(twice)} sent twice", ok=not twice)
    summary.add("clean stops", "exit code 0 twice" if stopped_well else "an exit code was not 0", ok=stopped_well)


def _stay(scene: _Scene) -> None:
    """Add some weeks of deployments, and a build every few seconds, until SIGINT or SIGTERM."""
    play_history(scene.jenkins, scene.hivel)
    scene.configure(web="127.0.0.1:0")
    scene = replace(scene, deadline=time.monotonic() + PATIENCE_S)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _agent(scene) as agent:
            scene.wait("the pages can be opened", lambda: _address(scene) is not None or agent.poll() is not None)
            scene.out.print(f"\nPages:    {_address(scene)}", markup=False, soft_wrap=True)
            scene.out.print(f"Password: {scene.password}", markup=False)
            scene.out.print("A build ends every few seconds. Press Ctrl-C to end the demo.")
            while agent.poll() is None:
                time.sleep(_BUILD_EVERY_S)
                scene.jenkins.play()
            raise DemoError("the agent has ended; its log is above")
    except KeyboardInterrupt:
        scene.say("the demo has ended")
    finally:
        signal.signal(signal.SIGTERM, before)


def _address(scene: _Scene) -> str | None:
    """Where the agent serves the pages, from its log."""
    found = re.search(r"what=web url=(\S+)", scene.log.read_text())
    return None if found is None else found[1]


@contextmanager
def _agent(scene: _Scene) -> Iterator[subprocess.Popen[bytes]]:
    """The real daemon. Its log is written to a file, and printed if something fails."""
    environment = {key: value for key, value in os.environ.items() if not key.endswith(("_TOKEN", "_PROXY", "_proxy"))}
    with scene.log.open("ab") as stream:
        command = [sys.executable, "-m", "agent", "run", "--config", str(scene.folder / "config.toml")]
        process = subprocess.Popen(command, stderr=stream, env=environment)  # noqa: S603 - it runs this program
        try:
            yield process
        except DemoError:
            scene.out.print(scene.log.read_text(), markup=False)
            raise
        finally:
            process.kill()
            process.wait()


def _print(out: Console, summary: _Summary) -> None:
    from rich.table import Table  # noqa: PLC0415

    table = Table(title="Promises and results", title_justify="left", header_style="bold")
    for column in ("promise", "result", "kept"):
        table.add_column(column)
    for claim, seen, ok in summary.rows:
        table.add_row(claim, seen, "[green]yes[/]" if ok else "[red]NO[/]")
    out.print()
    out.print(table)
