"""One Jenkins that is served by several replicas, each with its own delayed view, as in CloudBees CI HA.

As documented there, a request for a job, for the nodes or for the queue is answered for all replicas together if it has
a ``tree``, and with 400 otherwise. Other requests are answered by the replica that they reach. Builds are distributed
over the replicas. If a replica fails, other replicas adopt its builds, which continue with the same numbers.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Final, Literal, TypeVar
from urllib.parse import parse_qs

from starlette.responses import HTMLResponse

from agent.sandbox.jenkins.app import refuse
from agent.sandbox.jenkins.local import wall_clock_ms
from agent.sandbox.jenkins.phases import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from agent.sandbox.jenkins.local import LocalJenkins

T = TypeVar("T")

_COOKIE: Final = "replica"
_FORMATS: Final = frozenset({"json", "xml", "python"})


class _Clock:
    """The clock of a replica: the current time, except while an earlier change is applied."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.at: int | None = None

    def now_ms(self) -> int:
        return self._now_ms() if self.at is None else self.at


@dataclass
class _Replica:
    """``jenkins``: the view of the replica. ``behind``: changes that it has not applied yet, with their times."""

    jenkins: LocalJenkins
    clock: _Clock
    lag_ms: int
    up: bool = True
    behind: deque[tuple[int, Callable[[LocalJenkins], object]]] = field(default_factory=deque)

    def learn(self, until: int) -> None:
        """Apply all changes up to this time."""
        while self.behind and self.behind[0][0] <= until:
            self.clock.at, change = self.behind.popleft()
            try:
                change(self.jenkins)
            finally:
                self.clock.at = None


class ReplicatedJenkins:
    """Serves one Jenkins with one replica for each of ``lags_ms``.

    ``make`` creates the initial Jenkins and is called once for each view. Later changes go through :meth:`change` only.
    ``aggregated`` False: requests that should be answered for all replicas are answered by one, from its view, which is
    worse than documented. ``sticky``: a client with cookies stays with its replica; otherwise ``route`` chooses a
    running replica for each request.
    """

    def __init__(
        self,
        make: Callable[[Callable[[], int]], LocalJenkins],
        lags_ms: Sequence[int],
        *,
        now_ms: Callable[[], int] = wall_clock_ms,
        aggregated: bool = True,
        sticky: bool = False,
        route: Callable[[Sequence[int]], int] = random.choice,
    ) -> None:
        self._now_ms = now_ms
        self._truth = make(now_ms)
        clocks = [_Clock(now_ms) for _ in lags_ms]
        self._replicas = [_Replica(make(clock.now_ms), clock, lag) for clock, lag in zip(clocks, lags_ms, strict=True)]
        self._aggregated = aggregated
        self._sticky = sticky
        self.route = route
        self._lock = threading.RLock()
        self._owners: dict[tuple[str, int], int] = {}
        self._failed = -1
        self._orphans: list[tuple[str, int]] = []

    @property
    def username(self) -> str:
        return self._truth.username

    @property
    def token(self) -> str:
        return self._truth.token

    @property
    def now_ms(self) -> int:
        """The time of the clock of every replica, UTC milliseconds."""
        return self._now_ms()

    @property
    def truth(self) -> LocalJenkins:
        """The true state. It must not be changed."""
        return self._truth

    def next_numbers(self, full_name: str) -> set[int]:
        """The next build number of a job in each replica, and the true one."""
        with self._lock:
            for replica in self._replicas:
                replica.learn(self._now_ms() - replica.lag_ms)
            views = [self._truth, *(replica.jenkins for replica in self._replicas)]
            return {view.next_build_number(full_name) for view in views if view.has_job(full_name)}

    @property
    def app(self) -> ASGIApp:
        """The application."""
        return self._serve

    # ---- changes

    def change(self, change: Callable[[LocalJenkins], T], *, only_on: int | None = None) -> T:
        """Make a change. Each replica applies it after its delay. ``change`` is called for each view.

        ``only_on``: the change is applied to the view of one replica only, without delay.
        """
        with self._lock:
            if only_on is not None:
                return change(self._replicas[only_on].jenkins)
            changed = change(self._truth)
            for replica in self._replicas:
                replica.behind.append((self._now_ms(), change))
            return changed

    def set_lag(self, index: int, lag_ms: int) -> None:
        """Change the delay of a replica. Changes that it has applied stay."""
        with self._lock:
            self._replicas[index].lag_ms = lag_ms

    def stop_replica(self, index: int) -> list[tuple[str, int]]:
        """End a replica. Returns its running pipelines, which are paused and continue after :meth:`adopt`."""
        with self._lock:
            self._replicas[index].up = False
            orphans = [build for build in self._running() if self._owner(build) == index]
            self.change(lambda jenkins: _interrupt(jenkins, orphans))
            return orphans

    def adopt(self, builds: Sequence[tuple[str, int]]) -> None:
        """Continue builds of an ended replica on another one."""
        with self._lock:
            up = [index for index, replica in enumerate(self._replicas) if replica.up] or [0]
            for position, build in enumerate(builds):
                self._owners[build] = up[position % len(up)]
            self.change(lambda jenkins: _resume(jenkins, builds))

    def start_replica(self, index: int) -> None:
        """Start an ended replica: it reads everything again, and is delayed from then on."""
        with self._lock:
            self._replicas[index].learn(self._now_ms())
            self._replicas[index].up = True

    def fail_over(self) -> None:
        """End the next replica. The next call lets others adopt its builds, and starts it again."""
        with self._lock:
            down = next((index for index, replica in enumerate(self._replicas) if not replica.up), None)
            if down is None:
                self._failed = (self._failed + 1) % len(self._replicas)
                self._orphans = self.stop_replica(self._failed)
            else:
                self.adopt(self._orphans)
                self.start_replica(down)

    def _running(self) -> list[tuple[str, int]]:
        return [(name, build["number"]) for name, build in self._truth.all_builds() if build["building"]]

    def _owner(self, build: tuple[str, int]) -> int:
        return self._owners.get(build, build[1] % len(self._replicas))

    # ---- answers

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        with self._lock:
            index = self._choose(scope)
            app = None if index is None else self._app(index, scope)
        if app is None or index is None:
            refuse(scope)
        else:
            await app(scope, receive, _with_cookie(send, index) if self._sticky else send)

    def _choose(self, scope: Scope) -> int | None:
        up = [index for index, replica in enumerate(self._replicas) if replica.up]
        if not up:
            return None
        wanted = _cookie(scope) if self._sticky else None
        return wanted if wanted in up else self.route(up)

    def _app(self, index: int, scope: Scope) -> ASGIApp:
        replica = self._replicas[index]
        replica.learn(self._now_ms() - replica.lag_ms)
        kind = _kind(scope)
        if kind == "unsupported":
            return HTMLResponse("This is answered for all replicas: as /api/json, and with ?tree= only", 400)
        return self._truth.app if kind == "aggregated" and self._aggregated else replica.jenkins.app


def _kind(scope: Scope) -> Literal["aggregated", "unsupported", "of one replica"]:
    """Whether a request is about all replicas, and whether it has a supported form."""
    segments = scope["raw_path"].decode("latin-1").strip("/").split("/")
    subject, asked = segments[:-2], segments[-2:]
    is_of_all = subject[-1:] in (["computer"], ["queue"]) or (subject[-2:-1] == ["job"])
    if not is_of_all or asked[0] != "api" or asked[-1] not in _FORMATS:
        return "of one replica"
    with_tree = bool(parse_qs(scope["query_string"].decode("latin-1")).get("tree"))
    return "aggregated" if asked[-1] == "json" and with_tree else "unsupported"


def _cookie(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"cookie":
            number = SimpleCookie(value.decode("latin-1")).get(_COOKIE)
            return int(number.value) if number is not None and number.value.isdecimal() else None
    return None


def _with_cookie(send: Send, index: int) -> Send:
    async def send_with_cookie(message: Message) -> None:
        if message["type"] == "http.response.start":
            cookie = (b"set-cookie", f"{_COOKIE}={index}; Path=/; HttpOnly".encode())
            message = {**message, "headers": [*message["headers"], cookie]}
        await send(message)

    return send_with_cookie


def _interrupt(jenkins: LocalJenkins, builds: Sequence[tuple[str, int]]) -> None:
    """Pause builds: they are on no executor, and have no result."""
    for name, number in builds:
        jenkins.update_build(name, number, building=False, inProgress=False, result=None, duration=0)


def _resume(jenkins: LocalJenkins, builds: Sequence[tuple[str, int]]) -> None:
    """Continue builds that were not deleted or finished in the meantime."""
    running = {(name, build["number"]) for name, build in jenkins.all_builds() if build["result"] is None}
    for name, number in builds:
        if (name, number) in running:
            jenkins.set_phase(name, number, Phase.RUNNING)
