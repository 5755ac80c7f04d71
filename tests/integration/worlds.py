"""Small worlds in JSON: what a Jenkins says, and what Hivel has to get of it.

A world has these parts, of which ``situation``, ``jobs`` and ``expect`` are always there:

``situation``, ``because``: what it is, and why the expectation is right.
``rules``, ``extra``: TOML of the rules and of other tables. ``since``: of the controller, whose name is ``m``.
``folders``: full name to ``_class``. ``jobs``: full name to ``builds`` (fields of :func:`_build`), ``actions``, and
``next``.
``pages``: answers of plugins by their path. ``executors``: what ``/computer`` lists, as ``currentExecutable`` has it.
``reports``: what builds reported before the poll; ``{root}`` stands for the controller's address.
``later``: what is different at the next polls: ``jobs`` (null: gone), ``pages``, ``executors``, ``reports``, and how
many ``minutes`` later that is.
``expect``: deployment_id to the fields of its event, null for one that has to be absent; nothing else may be sent.
``"*"``: every event that is sent; ``"none"``: nothing is. ``failed``: deployment_id to what the reason has to say.
``audit``: job to number to outcome.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from agent.config.file import load
from agent.daemon.once import once
from agent.inspect.audit import audit
from agent.model.deployment import State
from agent.model.names import job_path
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sandbox.hivel import LocalHivel
from agent.sandbox.jenkins.tree import parse
from agent.sandbox.server import LocalServer
from agent.sources.jenkins.client import JenkinsClient
from tests.deployments import rows

if TYPE_CHECKING:
    from pathlib import Path

    from agent.config.settings import Settings

BEGIN = 1_790_000_000_000  # 2026-09-21
DAY = 86_400_000
PIPELINE = "org.jenkinsci.plugins.workflow.job.WorkflowJob"
FOLDER = "com.cloudbees.hudson.plugins.folder.Folder"


class _Clock(Clock):
    """The day after the builds; it goes on only when a world says so."""

    def __init__(self) -> None:
        self.now = BEGIN + DAY

    def now_ms(self) -> int:
        return self.now


def _build(n: int, result: str | None = "SUCCESS", t: int | None = None, dur: int = 60_000, **more: Any) -> Any:
    """A build as Jenkins answers it, finished unless ``more`` says otherwise."""
    cls = "org.jenkinsci.plugins.workflow.job.WorkflowRun"
    started = BEGIN + n * 600_000 if t is None else t
    state = {"building": False, "inProgress": False, "timestamp": started, "duration": dur, "actions": []}
    return {"_class": cls, "number": n, "result": result, **state, **more}


@dataclass
class _Jenkins:
    """What it holds; served as the questions of the agent's client need it."""

    clock: Clock
    folders: dict[str, str]
    jobs: dict[str, Any] = field(default_factory=dict)
    pages: dict[str, Any] = field(default_factory=dict)
    executors: list[Any] = field(default_factory=list)
    root: str = ""

    def change(self, world: dict[str, Any]) -> None:
        for name, job in world.get("jobs", {}).items():
            if job is None:
                self.jobs.pop(name, None)
            else:
                self.jobs[name] = job
        self.pages |= world.get("pages", {})
        self.executors = world.get("executors", self.executors)

    def answer(self, path: str, tree: str | None) -> Any:
        """None: there is no such page."""
        found = self._found(path)
        return found if found is None or tree is None else parse(tree).apply(found)

    def _found(self, path: str) -> Any:
        if path in self.pages:
            return self.pages[path]
        if path == "whoAmI/api/json":
            return {"name": "agent", "anonymous": False}
        if path == "computer/api/json":
            listed = [{"currentExecutable": each | {"url": self.root + each["url"]}} for each in self.executors]
            return {"computer": [{"executors": [], "oneOffExecutors": listed}]}
        told = re.fullmatch(r"((?:job/[^/]+/?)*)(?:(\d+)/)?api/json", path)
        if told is None:
            return None
        name = "/".join(map(unquote, re.findall(r"job/([^/]+)", told[1])))
        if told[2] is None:
            return self._item(name)
        builds = self._item(name) or {"allBuilds": []}
        return next((each for each in builds["allBuilds"] if each["number"] == int(told[2])), None)

    def _item(self, name: str) -> Any:
        if name in self.jobs:
            job, url = self.jobs[name], f"{self.root}{job_path(name)}/"
            made = [_build(**each) for each in job["builds"]]
            builds = sorted(made, key=lambda each: -each["number"])
            builds = [each | {"url": f"{url}{each['number']}/"} for each in builds]
            following = job.get("next", builds[0]["number"] + 1 if builds else 1)
            more = {"builds": builds[:100], "allBuilds": builds, "actions": job.get("actions", [])}
            return {"_class": PIPELINE, "fullName": name, "nextBuildNumber": following, "url": url, **more}
        start = f"{name}/" if name else ""
        below = sorted({start + each[len(start) :].split("/")[0] for each in (*self.jobs, *self.folders)
                        if each.startswith(start) and each != name})  # fmt: skip
        if name and not below and name not in self.folders:
            return None
        cls = self.folders.get(name, FOLDER if name else "hudson.model.Hudson")
        return {"_class": cls, "fullName": name, "jobs": [self._item(each) for each in below]}


class _Server:
    """Serves a Jenkins on loopback."""

    def __init__(self, jenkins: _Jenkins) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

            def date_time_string(self, timestamp: float | None = None) -> str:
                del timestamp
                return format_datetime(datetime.fromtimestamp(jenkins.clock.now_ms() / 1000, UTC), usegmt=True)

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                found = jenkins.answer(url.path.strip("/"), parse_qs(url.query).get("tree", [None])[0])
                body = b"<html>Not Found</html>" if found is None else json.dumps(found).encode()
                self.send_response(404 if found is None else 200)
                self.send_header("X-Jenkins", "2.504.3")
                self.send_header("Content-Type", "text/html" if found is None else "application/json;charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        jenkins.root = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass(frozen=True)
class Played:
    """What came of a world: events by their ids, reasons of those that failed, the outcomes of numbers by job."""

    sent: dict[str, dict[str, Any]]
    failed: dict[str, str]
    audited: dict[str, dict[int, str]]


def play(world: dict[str, Any], folder: Path) -> Played:
    """One pass of the agent for each state of the world, as ``hivel-agent once`` makes it."""
    clock, hivel = _Clock(), LocalHivel()
    jenkins = _Jenkins(clock, world.get("folders", {}))
    (folder / "spool").mkdir()
    try:
        with _Server(jenkins), LocalServer(hivel.app) as receiver:
            settings = _settings(world, folder, jenkins.root, receiver.url)
            for state in (world, *world.get("later", ())):
                clock.now += state.get("minutes", 1) * 60_000
                jenkins.change(state)
                _put(state.get("reports", ()), folder / "spool", clock.now, jenkins.root)
                once(settings, clock)
            sent = {each.event.deployment_id: msgspec.json.decode(each.raw) for each in hivel.deployments()}
            return _looked_at(settings, clock, sent)
    finally:
        hivel.close()


def _settings(world: dict[str, Any], folder: Path, jenkins: str, hivel: str) -> Settings:
    for name in ("hivel.token", "jenkins.token"):
        (folder / name).write_text("sandbox-token\n")
        (folder / name).chmod(0o600)
    (folder / "config.toml").write_text(
        f'[hivel]\nurl = "{hivel}"\ntoken_file = "hivel.token"\n[[jenkins]]\nname = "m"\nurl = "{jenkins}"\n'
        f'username = "agent"\ntoken_file = "jenkins.token"\nsince = "{world.get("since", "2000-01-01")}"\n'
        '[outbox]\npath = "outbox.db"\n[hook]\nspool = "spool"\n[monitoring]\nlisten = ""\n[web]\nlisten = ""\n'
        f"{world.get('extra', '')}\n{world.get('rules', '')}"
    )
    return load(folder / "config.toml")


def _put(reports: Any, spool: Path, now: int, root: str) -> None:
    for number, report in enumerate(reports):
        text = json.dumps(report).replace("{root}", root)
        (spool / f"{now}-{number:03}.json").write_text(text)


def _looked_at(settings: Settings, clock: Clock, sent: dict[str, dict[str, Any]]) -> Played:
    with SqliteOutbox(settings.outbox, clock) as outbox:
        failed = {str(row.deployment_id): row.reason or "" for row in rows(outbox) if row.state is State.FAILED}
        found = audit(settings, outbox, lambda controller: JenkinsClient(controller, clock), since=0)
    outcomes: dict[str, dict[int, str]] = {}
    for job in found.jobs:
        for builds in job.builds:
            numbers = range(builds.first, builds.last + 1)
            outcomes.setdefault(job.job, {}).update(dict.fromkeys(numbers, str(builds.outcome)))
    return Played(sent, failed, outcomes)


def wrong(world: dict[str, Any], played: Played) -> list[str]:
    """What is not as the world expects it, in words."""
    want, sent = dict(world["expect"]), played.sent
    if want.pop("none", False):
        want = {}
    every = want.pop("*", None)
    if every is not None:
        want = dict.fromkeys(sent, every) if sent else {"something": every}
    found = [f"{each} is sent" for each in sorted(sent.keys() - want.keys())]
    for name, fields in want.items():
        if name not in sent:
            found.append(f"{name} is not sent: {played.failed.get(name, 'it is not there')}")
            continue
        found += [
            f"{name}: {key} is {sent[name].get(key)!r} instead of {value!r}"
            for key, value in fields.items()
            if sent[name].get(key) != value
        ]
    expected = world.get("failed", {})
    found += [f"{each} failed: {why}" for each, why in played.failed.items() if each not in expected]
    found += [
        f"{each}: {words!r} is not in {played.failed.get(each, 'nothing: it did not fail')!r}"
        for each, words in expected.items()
        if words not in played.failed.get(each, "")
    ]
    for job, outcomes in world.get("audit", {}).items():
        told = played.audited.get(job, {})
        found += [f"{job}#{n} ends as {told.get(int(n))!r} instead of {o!r}" for n, o in outcomes.items()
                  if told.get(int(n)) != o]  # fmt: skip
    return found
