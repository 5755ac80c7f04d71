"""What stories are made of: an agent without sockets that can be killed at any moment, and what it reported."""

from __future__ import annotations

import asyncio
import io
import os
import random
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse
from urllib3._collections import HTTPHeaderDict

from agent.config.credentials import Token
from agent.config.settings import JenkinsSettings
from agent.deployments.derive import Rules
from agent.ingest.ingest import Ingest
from agent.inspect.audit import audit
from agent.model import fact as facts
from agent.model.deployment import event_of
from agent.model.fact import Report
from agent.model.keys import JENKINS, jenkins_run
from agent.outbox.values import OutboxError
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.connection import exchange_under_way
from agent.sources.jenkins.poller import Poller, PollReport
from tests.integration.reporting import settings_of
from tests.integration.support import rule
from tests.simulation import played
from tests.simulation.engines import AgentKilledError, Fuse, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from starlette.types import ASGIApp, Message

    from agent.config.rules import Rule
    from agent.inspect.audit import Audit
    from agent.model.deployment import Deployment
    from agent.outbox.interface import Outbox
    from agent.sandbox.jenkins import LocalJenkins
    from tests.integration.support import FakeClock
    from tests.simulation.engines import Engine, Process

REPO = "https://github.example.test/acme/shop.git"
HOLD_FOR_MS = 3_600_000
MEMORY = Path("/dev/shm")  # a file system in memory, where there is one


# ---- Jenkins without a network


class InProcess(HTTPAdapter):
    """Answers the requests of a session by calling an ASGI application."""

    def __init__(self, app: ASGIApp, before: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._app = app
        self._before = before

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """One request; ``before`` may raise."""
        self._before()
        exchange = exchange_under_way.get()
        try:
            messages = _call(self._app, request)
        except ConnectionRefusedError as error:
            raise requests.ConnectionError(error, request=request) from error
        except OSError as error:  # silence, or a connection that is cut
            exchange.connected = True
            raise requests.ConnectionError(error, request=request) from error
        start, *bodies = messages
        headers = HTTPHeaderDict((k.decode("latin-1"), v.decode("latin-1")) for k, v in start["headers"])
        body = io.BytesIO(b"".join(message.get("body", b"") for message in bodies))
        answer = HTTPResponse(body, headers, start["status"], preload_content=False, decode_content=False)
        return self.build_response(request, answer)


def _call(app: ASGIApp, request: requests.PreparedRequest) -> list[Message]:
    """Run the application to its end; it waits for nothing, so no event loop is needed."""
    url = urlsplit(request.url or "")
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in _headers(request).items()]
    path = url.path or "/"
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": request.method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": url.query.encode(), "headers": headers,
    }  # fmt: skip
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    serving = app(scope, receive, send)
    assert asyncio.iscoroutine(serving)
    try:
        serving.send(None)
    except StopIteration:
        return messages
    raise AssertionError("the application waits for something")


def _headers(request: requests.PreparedRequest) -> dict[str, str]:
    """As sent, but not compressed: packing and unpacking costs more than all the rest."""
    return {name: str(value) for name, value in request.headers.items() if name.lower() != "accept-encoding"}


# ---- an agent that can be killed


def in_process(
    settings: JenkinsSettings, jenkins: LocalJenkins, ingest: Ingest, before_request: Callable[[], None]
) -> tuple[JenkinsClient, Poller]:
    """A poller of this Jenkins, and its client."""
    client = JenkinsClient(settings)
    client._transport.session.mount(settings.url, InProcess(jenkins.app, before_request))
    poller = Poller(settings, client, ingest)
    make_predictable(poller)
    return client, poller


def make_predictable(poller: Poller) -> None:
    """Let it wait for as long whenever the same story is played."""
    unread = poller._unread
    for backoffs in (unread._slowly, unread._soon, poller._wanted._backoffs, poller._executors._backoffs):
        backoffs._rng = random.Random(1)


@dataclass(frozen=True)
class Reported:
    """An event in the outbox. Times are UTC milliseconds; ``status`` is Hivel's."""

    deployment_id: str
    number: int
    started_at: int
    ended_at: int
    status: str


class Agent:
    """The poller and its outbox, as the daemon runs them: they live until they are killed."""

    def __init__(
        self,
        engine: Engine,
        jenkins: Mapping[str, LocalJenkins],
        rules: tuple[Rule, ...] = (rule(),),
        *,
        since: str = "now",
    ) -> None:
        self._engine = engine
        self._jenkins = dict(jenkins)
        self._rules = rules
        self._since = since
        self._trouble, self._at_request = Trouble(), Fuse()
        self.at_request: Callable[[], None] = lambda: None
        self._process: Process | None = None

    # ---- its life

    def restart(self, rules: tuple[Rule, ...]) -> None:
        """Go on with other rules."""
        self.kill()
        self._rules = rules

    def poll(self, controller: str = "main") -> PollReport:
        """Look once, as whoever runs already or as one that starts now."""
        if self._process is None:
            self._start()
        return self._pollers[controller].poll()

    def take(self, job: str, number: int, **said: Any) -> None:
        """A build of the controller ``main`` reports something."""
        if self._process is None:
            self._start()
        report = Report(provider=JENKINS, build_number=str(number), **said)
        fact = facts.report(jenkins_run("main", job, number), report, source="intake", at=self._jenkins["main"].now_ms)
        self._ingest.accept([fact])

    def release(self) -> None:
        """Let go what waited too long for a poll."""
        if self._process is None:
            self._start()
        self._ingest.release()

    def poll_and_die(self, *, request: int | None = None, statement: int | None = None, after: bool = False) -> bool:
        """Look once and be killed at the n-th request or before or after the n-th statement; False: it survived."""
        fuse = self._at_request if request else self._trouble.after if after else self._trouble.before
        if self._process is None:
            self._start()
        fuse.set(request or statement)
        try:
            self.poll()
        except AgentKilledError:
            played.now.kills += 1
            self.kill()
            return True
        finally:
            fuse.set(None)
        return False

    def poll_and_be_cut_off(self, *, statement: int, after: bool) -> bool:
        """Look once and lose the connection before or after the n-th statement; False: it was not lost."""
        if self._process is None:
            self._start()
        self._trouble.cut.set(statement, after=after)
        try:
            self.poll()
        except OutboxError:
            assert self._trouble.cut.happened
        finally:
            happened = self._trouble.cut.happened
            self._trouble.cut.set(None, after=False)
        return happened

    def kill(self) -> None:
        """End the process: what was not committed is gone."""
        if self._process is not None:
            for client in self._clients:
                client.close()
            self._process.kill()
            self._process = None

    def _start(self) -> None:
        self._process = self._engine.process(self._trouble)
        rules = Rules(self._rules, controllers=frozenset(self._jenkins))
        self._ingest = Ingest(self._process.outbox, rules, HOLD_FOR_MS)
        self._clients = []
        self._pollers = {}
        for name, jenkins in self._jenkins.items():
            settings = settings_of_jenkins(name, jenkins, self._since)
            client, self._pollers[name] = in_process(settings, jenkins, self._ingest, self._before_request)
            self._clients.append(client)

    def _before_request(self) -> None:
        self._at_request()
        self.at_request()

    def unread(self) -> set[str]:
        """The jobs that could not be read, and that whoever runs leaves in peace for a while."""
        return set() if self._process is None else self._pollers["main"]._unread.jobs()

    # ---- what came of it

    def reported(self) -> list[Reported]:
        """All events, oldest first."""
        with self.outbox() as outbox:
            return [_reported(row) for row in outbox.all_deployments()]

    def audit(self, since: int = 0) -> Audit:
        """What became of every build number, as another process tells it."""
        controllers = tuple(settings_of_jenkins(name, jenkins, self._since) for name, jenkins in self._jenkins.items())
        settings = settings_of(Path("outbox.db"), *controllers, rules=self._rules)
        with self.outbox() as outbox:
            return audit(settings, outbox, self._client_beside, since=since)

    def _client_beside(self, settings: JenkinsSettings) -> JenkinsClient:
        client = JenkinsClient(settings)
        client._transport.session.mount(settings.url, InProcess(self._jenkins[settings.name].app))
        return client

    def outbox(self) -> AbstractContextManager[Outbox]:
        """What there is, as another process sees it."""
        return closing(self._engine.open())

    def ids(self) -> list[str]:
        """The deployment_ids of all events, oldest first."""
        return [event.deployment_id for event in self.reported()]


@dataclass
class Story:
    """A Jenkins, the agent that watches it, and the time that both live in."""

    clock: FakeClock
    jenkins: LocalJenkins
    agent: Agent

    def later(self, *, seconds: float = 15, minutes: float = 0) -> None:
        """Let time go by."""
        self.clock.advance(s=seconds + 60 * minutes)

    def start(self, job: str = "deploy/shop", **options: Any) -> int:
        """Start a build that checks something out; a second later."""
        number = self.jenkins.start_build(job, repo=REPO, **options)
        self.later(seconds=1)
        return number

    def build(self, job: str = "deploy/shop", result: str = "SUCCESS") -> int:
        """Start a build and finish it half a minute later."""
        number = self.start(job)
        self.later(seconds=30)
        self.jenkins.finish_build(job, number, result)
        return number

    def poll(self) -> list[str]:
        """The deployment_ids that a poll enqueued."""
        return self.agent.poll().enqueued

    def poll_for(self, *, minutes: float) -> list[str]:
        """The deployment_ids that polls every fifteen seconds enqueued."""
        enqueued: list[str] = []
        for _ in range(round(minutes * 4)):
            self.later(seconds=15)
            enqueued += self.poll()
        return enqueued

    def event(self, deployment_id: str) -> Reported:
        """An event that was enqueued."""
        return next(event for event in self.agent.reported() if event.deployment_id == deployment_id)


def settings_of_jenkins(name: str, jenkins: LocalJenkins, since: str) -> JenkinsSettings:
    """The controller with this name, at an address that only :class:`InProcess` knows."""
    url = f"http://{name}.jenkins.test/"
    return JenkinsSettings(
        name=name, url=url, username=jenkins.username, token=Token(jenkins.token), poll_interval_ms=15_000,
        since=since, timeout_ms=5_000, concurrency=1,
    )  # fmt: skip


def memory_folder() -> TemporaryDirectory[str]:
    """A new folder, in memory where that can be had."""
    return TemporaryDirectory(prefix="hivel-stories-", dir=MEMORY if MEMORY.is_dir() else None)


def _reported(row: Deployment) -> Reported:
    assert row.deployment_id is not None, f"{row} is still held"
    assert row.content.problem is None, f"{row.deployment_id} could not be derived: {row.content.problem}"
    event = event_of(row.deployment_id, row.content)
    return Reported(
        deployment_id=row.deployment_id,
        number=int(event.build_number or 0),
        started_at=_ms(event.start_time),
        ended_at=_ms(event.end_time),
        status=event.status.value,
    )


def _ms(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


def play_random_stories(world: Callable[[], RuleBasedStateMachine], *, stories: int, steps: int) -> None:
    """The same stories in every run; others with ``HIVEL_STORIES=2000`` or ``HYPOTHESIS_PROFILE=explore``."""
    others = "HIVEL_STORIES" in os.environ or os.environ.get("HYPOTHESIS_PROFILE") == "explore"
    run_state_machine_as_test(
        world,  # type: ignore[arg-type] # any callable will do
        settings=settings(
            max_examples=stories,
            stateful_step_count=steps,
            deadline=None,
            derandomize=not others,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
