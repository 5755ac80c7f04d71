"""Faults of the local Hivel."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from starlette.responses import HTMLResponse, RedirectResponse, Response

from agent.sandbox.hivel.answers import Answer, json_answer, stored
from agent.sandbox.server import cut_connection, reset_connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

# How often a waiting request checks whether it still has to wait.
_POLL_S = 0.02

_Printable = Annotated[str, msgspec.Meta(pattern=r"^[ -~]*$")]
_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Kind = Literal["status", "slow", "html", "cut", "reset", "silent", "redirect"]
_NEEDED = {"status": "status", "slow": "delay", "redirect": "location"}


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A fault of POSTs to the endpoint; as JSON, the body of ``POST /_faults``.

    Kinds and their fields:

    - ``status``: the answer is ``status`` with ``body`` (an object is sent as JSON, a string verbatim; an
      error object by default) and, if given, the Retry-After header ``retry_after``
    - ``slow``: the request is handled as usual after ``delay`` seconds
    - ``html``: a login page, with status 200 or ``status``
    - ``redirect``: 302 to ``location``
    - ``cut``: the headers and half of the body, then the connection is closed
    - ``reset``: no answer, the connection is reset
    - ``silent``: no answer; the connection is closed after ``delay`` seconds (by default: never), when the
      faults are cleared, or when the client gives up

    ``stored``: whether the request is handled before the fault, without the client seeing it. The default is true
    for ``cut`` only. ``slow`` always handles it.

    The fault lasts for ``times`` requests or for ``seconds``, whichever ends first, or until it is cleared.
    With ``match`` it applies only to requests whose deployment_id contains this text.
    """

    kind: _Kind
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] | None = None
    body: str | dict[str, Any] | None = None
    retry_after: int | float | _Printable | None = None
    location: _Printable | None = None
    delay: _Positive | None = None
    stored: bool | None = None
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seconds: _Positive | None = None
    match: str | None = None

    def __post_init__(self) -> None:
        """Raise :class:`ValueError` if a required field of the kind is missing."""
        needed = _NEEDED.get(self.kind)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"A fault of kind {self.kind} needs `{needed}`")

    @property
    def handles(self) -> bool:
        """Whether the request is handled although the client does not get the answer."""
        return self.kind == "cut" if self.stored is None else self.stored


@dataclasses.dataclass(slots=True)
class _Armed:
    fault: Fault
    until: float | None
    times_left: int | None

    def remaining(self, now: float) -> Fault:
        seconds = None if self.until is None else self.until - now
        return msgspec.structs.replace(self.fault, times=self.times_left, seconds=seconds)

    def over(self, now: float) -> bool:
        return self.times_left == 0 or (self.until is not None and now >= self.until)


class Faults:
    """The active faults in the order of addition. Every method can be called from any thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []
        self._clearings = 0

    def add(self, fault: Fault) -> None:
        until = None if fault.seconds is None else self._monotonic() + fault.seconds
        with self._lock:
            self._armed.append(_Armed(fault, until, fault.times))

    def clear(self) -> None:
        with self._lock:
            self._armed.clear()
            self._clearings += 1

    def active(self) -> list[Fault]:
        now = self._monotonic()
        with self._lock:
            self._forget(now)
            return [armed.remaining(now) for armed in self._armed]

    def take(self, deployment_id: str | None) -> tuple[Fault | None, Callable[[], bool]]:
        """Return the fault of this request, if any, and a function that returns whether it has been cleared."""
        now = self._monotonic()
        with self._lock:
            self._forget(now)
            before = self._clearings
            hit = next((a for a in self._armed if (a.fault.match or "") in (deployment_id or "")), None)
            if hit is not None and hit.times_left is not None:
                hit.times_left -= 1
        return (None if hit is None else hit.fault), lambda: self._clearings != before

    def _forget(self, now: float) -> None:
        self._armed = [armed for armed in self._armed if not armed.over(now)]


async def _disconnect(receive: Receive) -> None:
    """Wait until either side has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Reset(Response):
    """No answer: the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        reset_connection(scope)
        await _disconnect(receive)


class _Cut(Response):
    """The headers of an answer and half of its body, then the connection is closed."""

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.body, answer.status_code)
        self.raw_headers = answer.raw_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body[: len(self.body) // 2])
        await send({"type": "http.response.body", "body": half, "more_body": True})
        cut_connection(scope)
        await _disconnect(receive)


class Silent(Response):
    """No answer: the connection is closed once ``over()``, or after ``delay`` seconds."""

    def __init__(self, delay: float | None, over: Callable[[], bool]) -> None:
        super().__init__()
        self._delay = delay
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        gone = asyncio.ensure_future(_disconnect(receive))
        loop = asyncio.get_running_loop()
        end = None if self._delay is None else loop.time() + self._delay
        try:
            while not gone.done() and not self._over() and (end is None or loop.time() < end):
                await asyncio.wait({gone}, timeout=_POLL_S)
            cut_connection(scope)
            await gone
        finally:
            gone.cancel()


def _told(fault: Fault) -> Response:
    """Return the answer of a fault of kind ``status``."""
    status = fault.status or 500
    if status in _BODILESS:
        response = Response(status_code=status)
    elif isinstance(fault.body, str):
        response = Response(fault.body, status, media_type="text/plain")
    elif fault.body is not None:
        response = json_answer(fault.body, status)
    else:
        response = json_answer(Answer(message="Fault", error="The sandbox was told to answer this"), status)
    if fault.retry_after is not None:
        response.headers["Retry-After"] = str(fault.retry_after)
    return response


_BODILESS = (204, 205, 304)
_LOGIN_PAGE = """<!doctype html>
<html lang="en"><head><title>Sign in</title></head>
<body><form method="post"><h1>Sign in</h1>
<input name="user"><input name="password" type="password"></form></body>
</html>
"""


def spoil(fault: Fault, handled: Response | None, cleared: Callable[[], bool]) -> Response:
    """Return what the client gets in place of ``handled``, which is ``None`` if nothing was stored."""
    match fault.kind:
        case "cut":
            # Half of the body: the part with the deployment_id is not sent.
            return _Cut(handled or stored("not stored"))
        case "reset":
            return Reset()
        case "silent":
            return Silent(fault.delay, cleared)
        case "redirect":
            return RedirectResponse(fault.location or "/", 302)
        case "html":
            status = fault.status or 200
            return HTMLResponse("" if status in _BODILESS else _LOGIN_PAGE, status)
        case _:
            return _told(fault)
