"""A local Hivel: the Deployment Events API v2 as Hivel's page describes it, and ways to make it misbehave.

It is a stand-in for a loopback address. Reading what was received (``GET /``, ``GET /api/deployments``) and
the faults (``/_faults``) need no token; only the endpoint itself does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import html
import re
import sqlite3
import threading
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from hmac import compare_digest
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from agent.event import DeploymentEvent
from agent.sandbox.server import cut_connection, reset_connection
from agent.status import normalise_any
from agent.times import describe_duration, rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

ENDPOINT = "/api/hooks/v2/deployment"
MAX_BODY = 64 * 1024
# What the list of requests keeps at most, so that a sandbox left running for weeks does not eat the memory.
MAX_REQUESTS = 1_000_000
# What the HTML page shows at most: it is loaded every two seconds.
MAX_ROWS = 200
# How often a request that is kept waiting looks whether it still has to.
_POLL_S = 0.02

# --- What a deployment event must look like ----------------------------------------------------------------

# Hivel's page, section 4, in its order.
_REQUIRED = (
    "deployment_id", "event_type", "status", "start_time", "end_time", "repo_url", "environment", "branch",
)  # fmt: skip
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_DIGITS = re.compile(r"\d{1,16}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# An epoch from here on is in milliseconds: as milliseconds it is March 1973, as seconds the year 5138.
_MILLISECONDS_FROM = 100_000_000_000


class RefusedEventError(ValueError):
    """The event is not as Hivel's page wants it; the message is the ``error`` of the answer."""


def _decode(body: bytes) -> dict[str, Any]:
    try:
        payload = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        raise RefusedEventError("The body is not JSON") from None
    if not isinstance(payload, dict):
        raise RefusedEventError("The body is not a JSON object")
    return payload


def _text(payload: dict[str, Any], name: str) -> str:
    value = payload[name]
    if not isinstance(value, str) or not value.strip():
        raise RefusedEventError(f"{name} must be a non-empty string")
    return value


def _optional_text(payload: dict[str, Any], name: str) -> str | None:
    return _text(payload, name) if name in payload else None


def _optional_number(payload: dict[str, Any], name: str) -> str | None:
    """Return a number that the page's example writes as a string; an integer is taken too."""
    value = payload.get(name)
    return str(value) if type(value) is int else _optional_text(payload, name)


def _optional_integers(payload: dict[str, Any], name: str) -> tuple[int, ...] | None:
    if name not in payload:
        return None
    values = payload[name]
    if not isinstance(values, list) or not values or any(type(value) is not int for value in values):
        raise RefusedEventError(f"{name} must be a non-empty list of integers")
    return tuple(values)


def _time_ms(payload: dict[str, Any], name: str) -> int:
    """UTC milliseconds of any format in section 5 of Hivel's page; digits may come as a number or as text."""
    value = payload[name]
    try:
        if isinstance(value, str) and _RFC3339.fullmatch(value.upper()):
            since = datetime.fromisoformat(value.upper()) - _EPOCH
        else:
            since = _since_epoch(value)
        milliseconds = since // timedelta(milliseconds=1)
        rfc3339(milliseconds)
    except (ValueError, OverflowError):
        raise RefusedEventError(f"{name} must be an RFC 3339 time with a zone, or epoch (milli)seconds") from None
    return milliseconds


def _since_epoch(value: object) -> timedelta:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(value)
    return timedelta(milliseconds=value) if value >= _MILLISECONDS_FROM else timedelta(seconds=value)


def parse_event(payload: dict[str, Any]) -> DeploymentEvent:
    """Check a payload against Hivel's page (sections 4 to 6) and normalise its status and its times.

    Raises :class:`RefusedEventError` with an error that names the first field that is wrong. Stricter than
    the page in one point: an optional field that is null or empty is refused; it ought to be left out.
    """
    for name in _REQUIRED:
        if name not in payload:
            raise RefusedEventError(f"{name} is required")
    deployment_id = _text(payload, "deployment_id")
    if payload["event_type"] != "completed":
        raise RefusedEventError('event_type must be "completed"')
    status = normalise_any(_text(payload, "status"))
    start, end = _time_ms(payload, "start_time"), _time_ms(payload, "end_time")
    event = DeploymentEvent(
        deployment_id=deployment_id,
        event_type="completed",
        status=status,
        repo_url=_text(payload, "repo_url"),
        commit_hash=_optional_text(payload, "commit_hash"),
        environment=_text(payload, "environment"),
        start_time=rfc3339(start),
        end_time=rfc3339(end),
        branch=_text(payload, "branch"),
        build_number=_optional_number(payload, "build_number"),
        pr_number=_optional_number(payload, "pr_number"),
        pr_numbers=_optional_integers(payload, "pr_numbers"),
        image=_optional_text(payload, "image"),
        logs_url=_optional_text(payload, "logs_url"),
    )
    if start > end:
        raise RefusedEventError("Start time cannot be after end time")
    return event


# --- What was received -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Deployment:
    """A stored event."""

    event: DeploymentEvent
    """Normalised: one of the four statuses, times in UTC as ``2025-09-22T12:00:00.000Z``."""
    received_at_ms: int
    """When it came first, UTC milliseconds."""
    times_posted: int
    """How often a valid event with this deployment_id came, those answered 409 included."""
    raw: str
    """The JSON that came first, with fields the page does not know."""


@dataclasses.dataclass(slots=True)
class ReceivedRequest:
    """A POST to the endpoint, whatever came of it."""

    received_at_ms: int
    deployment_id: str | None = None
    """``None`` when the body had none that could be read."""
    status: int | None = None
    """The status answered; ``None`` when there was no answer, or none yet."""


class _Store:
    """The stored events, in SQLite; every method may be called from any thread."""

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        # A sandbox may lose its last events in a power cut; in exchange a POST waits for no disk.
        self._db.executescript(
            """
            PRAGMA journal_mode = WAL;
            PRAGMA synchronous = OFF;
            CREATE TABLE IF NOT EXISTS deployment (
                position INTEGER PRIMARY KEY,
                deployment_id TEXT NOT NULL UNIQUE,
                received_at_ms INTEGER NOT NULL,
                times_posted INTEGER NOT NULL,
                event TEXT NOT NULL,
                raw TEXT NOT NULL
            );
            """
        )

    def add(self, event: DeploymentEvent, raw: bytes, now_ms: int) -> Literal["new", "identical", "different"]:
        """Store the event unless its deployment_id is there; tell how it compares to what is there."""
        encoded = msgspec.json.encode(event).decode()
        key = event.deployment_id
        with self._lock:
            row = self._db.execute("SELECT event FROM deployment WHERE deployment_id = ?", (key,)).fetchone()
            if row is None:
                self._db.execute(
                    "INSERT INTO deployment (deployment_id, received_at_ms, times_posted, event, raw)"
                    " VALUES (?, ?, 1, ?, ?)",
                    (key, now_ms, encoded, raw.decode()),
                )
                return "new"
            self._db.execute("UPDATE deployment SET times_posted = times_posted + 1 WHERE deployment_id = ?", (key,))
        return "identical" if row[0] == encoded else "different"

    def newest(self, limit: int = -1) -> list[Deployment]:
        """Return the newest ``limit`` events (-1: all), newest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT event, received_at_ms, times_posted, raw FROM deployment ORDER BY position DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [Deployment(msgspec.json.decode(row[0], type=DeploymentEvent), *row[1:]) for row in rows]

    def count(self) -> int:
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM deployment").fetchone()[0])

    def close(self) -> None:
        with self._lock:
            self._db.close()


# --- Misbehaviour ------------------------------------------------------------------------------------------

_Printable = Annotated[str, msgspec.Meta(pattern=r"^[ -~]*$")]
_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Kind = Literal["status", "slow", "html", "cut", "reset", "silent", "redirect"]
_NEEDED = {"status": "status", "slow": "delay", "redirect": "location"}


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A way in which POSTs to the endpoint go wrong; as JSON the body of ``POST /_faults``.

    Kinds, and what belongs to each:

    - ``status``: the answer is ``status`` with ``body`` (an object is sent as JSON, a string verbatim; an
      error object by default) and, if given, a Retry-After header of ``retry_after``
    - ``slow``: the request is handled as usual after ``delay`` seconds
    - ``html``: a login page, with status 200 or ``status``
    - ``redirect``: 302 to ``location``
    - ``cut``: a whole head with half of a body, then the connection is closed
    - ``reset``: no answer, the connection is reset
    - ``silent``: no answer; the connection is closed after ``delay`` seconds (by default: never), when the
      faults are cleared, or when the client gives up

    ``stored`` tells whether the request is handled all the same, unseen by the client, before it goes wrong:
    by default so for ``cut`` only. ``slow`` always handles it.

    The fault lasts for ``times`` requests or for ``seconds``, whichever ends first, or until it is cleared.
    With ``match`` it hits only requests whose deployment_id contains that text.
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
        """Raise :class:`ValueError` when what the kind cannot do without is missing."""
        needed = _NEEDED.get(self.kind)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"A fault of kind {self.kind} needs `{needed}`")

    @property
    def handles(self) -> bool:
        """Whether the request is handled although its answer is spoiled."""
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


class _Faults:
    """The faults in force, in the order they were added; every method may be called from any thread."""

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
        """Return this request's fault, if any, and a function that tells whether it was cleared since."""
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
    """Wait until the connection is gone, from whichever side."""
    while (await receive())["type"] != "http.disconnect":
        pass


class _Reset(Response):
    """No answer: the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        reset_connection(scope)
        await _disconnect(receive)


class _Cut(Response):
    """The head of an answer and half of its body, then the connection is closed."""

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.body, answer.status_code)
        self.raw_headers = answer.raw_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body[: len(self.body) // 2])
        await send({"type": "http.response.body", "body": half, "more_body": True})
        cut_connection(scope)
        await _disconnect(receive)


class _Silent(Response):
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


# --- Answers -----------------------------------------------------------------------------------------------


class Answer(msgspec.Struct, omit_defaults=True):
    """The JSON of an answer of the endpoint (Hivel's page, section 10); ``None`` fields are left out."""

    message: str
    error: str | None = None
    deployment_id: str | None = None
    success: bool | None = None


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _stored(deployment_id: str) -> Response:
    message = "Deployment event stored successfully"
    return _json(Answer(message=message, deployment_id=deployment_id, success=True))


def _conflict(deployment_id: str) -> Response:
    error = "deployment_id already exists"
    return _json(Answer(message="Conflict", error=error, deployment_id=deployment_id), 409)


def _refused(error: str, status: int = 400) -> Response:
    return _json(Answer(message="Validation failed", error=error), status)


def _http_error(_: Request, error: Exception) -> Response:
    """Answer what routing refuses (404, 405) in JSON too."""
    refusal = cast("HTTPException", error)  # the only kind this is registered for
    phrase = HTTPStatus(refusal.status_code).phrase
    response = _json(Answer(message=phrase, error=refusal.detail), refusal.status_code)
    response.headers.update(refusal.headers or {})
    return response


def _told(fault: Fault) -> Response:
    """Return the answer of a fault of kind ``status``."""
    status = fault.status or 500
    if status in _BODILESS:
        response = Response(status_code=status)
    elif isinstance(fault.body, str):
        response = Response(fault.body, status, media_type="text/plain")
    elif fault.body is not None:
        response = _json(fault.body, status)
    else:
        response = _json(Answer(message="Fault", error="The sandbox was told to answer this"), status)
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


def _spoil(fault: Fault, handled: Response | None, cleared: Callable[[], bool]) -> Response:
    """Return what the client gets to see instead of ``handled``, which is ``None`` if nothing was stored."""
    match fault.kind:
        case "cut":
            # Half of a body: the part with the deployment_id is never sent.
            return _Cut(handled or _stored("not stored"))
        case "reset":
            return _Reset()
        case "silent":
            return _Silent(fault.delay, cleared)
        case "redirect":
            return RedirectResponse(fault.location or "/", 302)
        case "html":
            status = fault.status or 200
            return HTMLResponse("" if status in _BODILESS else _LOGIN_PAGE, status)
        case _:
            return _told(fault)


# --- The page for people -----------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; }
h1 { font-size: 1.3rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #8884; }
td { overflow-wrap: anywhere; }
.status { color: #fff; border-radius: .3rem; padding: .05rem .5rem; }
.success { background: #18794e; } .failed { background: #c62a2f; }
.canceled { background: #8a5300; } .unknown { background: #60646c; }
"""
_COLUMNS = (
    "Status", "Environment", "Repository", "Branch", "Commit", "Started", "Took",
    "Deployment", "Received", "Posted",
)  # fmt: skip


def _duration(event: DeploymentEvent) -> str:
    took = datetime.fromisoformat(event.end_time) - datetime.fromisoformat(event.start_time)
    return describe_duration(took // timedelta(milliseconds=1))


def _link(text: str, url: str | None) -> str:
    """Return a link to the logs; only to http(s), since an event could bring a ``javascript:`` address."""
    shown = html.escape(text)
    if url is None or not url.lower().startswith(("http://", "https://")):
        return shown
    return f'<a href="{html.escape(url)}" rel="noreferrer">{shown}</a>'


def _row(deployment: Deployment) -> str:
    event = deployment.event
    texts = (
        event.environment,
        event.repo_url,
        event.branch,
        (event.commit_hash or "")[:12],
        event.start_time,
        _duration(event),
    )
    cells = [
        f'<span class="status {event.status.value}">{event.status.value}</span>',
        *(html.escape(text) for text in texts),
        _link(event.deployment_id, event.logs_url),
        rfc3339(deployment.received_at_ms),
        f"{deployment.times_posted} ×",
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _page(newest: Iterable[Deployment], total: int) -> str:
    rows = "\n".join(_row(deployment) for deployment in newest)
    head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
    shown = f", the newest {MAX_ROWS} are shown" if total > MAX_ROWS else ""
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>Local Hivel</title>
<style>{_STYLE}</style></head>
<body><h1>Local Hivel</h1>
<p>{total} deployment{"" if total == 1 else "s"} received{shown}.</p>
<table><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table></body>
</html>
"""


# --- The application ---------------------------------------------------------------------------------------


async def _read_body(request: Request) -> bytes | None:
    """Return the body, or ``None`` when it is too large.

    Too large a body is read to its end and dropped: a client that still writes would not see the answer.
    """
    body = bytearray()
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MAX_BODY:
            body += chunk
    return bytes(body) if size <= MAX_BODY else None


def _deployment_id(body: bytes | None) -> str | None:
    try:
        value = _decode(body or b"").get("deployment_id")
    except RefusedEventError:
        return None
    return value if isinstance(value, str) else None


def _require_json(request: Request) -> None:
    """Refuse what a form or a link on some web page could send from the browser of whoever runs this."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise HTTPException(415, "Content-Type must be application/json")


class LocalHivel:
    """A Hivel on this machine. Serve its ``app``, read what it got, tell it to misbehave.

    - ``POST /api/hooks/v2/deployment``: the endpoint of Hivel's page. 200 stored, and again 200 for an
      identical event, see ``strict``; 400 with the field that is wrong; 401 for the token; 409 for another
      event with a known deployment_id; 413 above 64 KB. Every answer is JSON, errors as
      ``{"message": "Validation failed", "error": "branch is required"}``.
    - ``GET /``: what was received, as a page for a browser.
    - ``GET /api/deployments``: the same as a JSON list, oldest first: the payload's fields with normalised
      status and times, ``received_at`` (RFC 3339, UTC) and ``times_posted``.
    - ``GET /healthz``: 200 ``{"status": "ok"}``.
    - ``/_faults``: ``POST`` adds a :class:`Fault` (201, or 400 with the field that is wrong), ``GET`` lists
      those in force with what remains of them, ``DELETE`` clears them (204). Without a token, since this is a
      stand-in for a loopback address; but POST and DELETE need ``Content-Type: application/json`` (else 415),
      so that a web page in a browser cannot send them.

    A fault acts before the token is looked at. The methods may be called from any thread.
    """

    app: ASGIApp

    def __init__(
        self,
        token: str = "sandbox-token",  # noqa: S107 - the stand-in's token opens nothing else
        *,
        db: Path | None = None,
        strict: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep the events at ``db``, or in memory; ``strict`` answers 409 to an identical event as well.

        ``monotonic`` (seconds) is the clock by which faults end. Raises :class:`ValueError` for an empty
        token, and :class:`sqlite3.Error` when ``db`` cannot be used.
        """
        if not token:
            raise ValueError("the token of the local Hivel is empty")
        self._token = token.encode()
        self._strict = strict
        self._store = _Store(db)
        self._faults = _Faults(monotonic)
        self._requests: deque[ReceivedRequest] = deque(maxlen=MAX_REQUESTS)
        self._lock = threading.Lock()
        self.app = self._application()

    def deployments(self) -> list[Deployment]:
        """Return what was stored, oldest first."""
        return self._store.newest()[::-1]

    def requests(self) -> list[ReceivedRequest]:
        """Return every POST to the endpoint in order of arrival, the last million of them."""
        with self._lock:
            return [dataclasses.replace(request) for request in self._requests]

    def fault(self, fault: Fault) -> None:
        """Misbehave from now on. Raises :class:`msgspec.ValidationError` when a field has a wrong value."""
        self._faults.add(msgspec.convert(msgspec.to_builtins(fault), Fault))

    def clear_faults(self) -> None:
        """Behave again; requests that a silent fault keeps waiting are let go, without an answer."""
        self._faults.clear()

    def close(self) -> None:
        """Close the database; to be called once nothing serves the app anymore."""
        self._store.close()

    def _application(self) -> Starlette:
        routes = [
            Route(ENDPOINT, self._post, methods=["POST"]),
            Route("/_faults", self._change_faults, methods=["GET", "POST", "DELETE"]),
            Route("/api/deployments", self._list_deployments, methods=["GET"]),
            Route("/healthz", self._healthz, methods=["GET"]),
            Route("/", self._html, methods=["GET"]),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
        app.router.redirect_slashes = False
        return app

    async def _post(self, request: Request) -> Response:
        arrival = ReceivedRequest(time.time_ns() // 1_000_000)
        with self._lock:
            self._requests.append(arrival)
        try:
            body = await _read_body(request)
        except ClientDisconnect:
            return Response()  # to nobody
        arrival.deployment_id = _deployment_id(body)
        response = await self._respond(request, body, arrival)
        if not isinstance(response, _Reset | _Silent):
            arrival.status = response.status_code
        return response

    async def _respond(self, request: Request, body: bytes | None, arrival: ReceivedRequest) -> Response:
        fault, cleared = self._faults.take(arrival.deployment_id)
        if fault is None:
            return self._handle(request, body, arrival)
        if fault.kind == "slow":
            await asyncio.sleep(fault.delay or 0)
            return self._handle(request, body, arrival)
        handled = self._handle(request, body, arrival) if fault.handles else None
        return _spoil(fault, handled, cleared)

    def _handle(self, request: Request, body: bytes | None, arrival: ReceivedRequest) -> Response:
        token = request.headers.get("x-api-token", "").encode("latin-1")
        if not compare_digest(token, self._token):
            return _json(Answer(message="Unauthorized", error="X-API-Token is missing or wrong"), 401)
        if body is None:
            return _refused(f"The body is larger than {MAX_BODY} bytes", 413)
        try:
            event = parse_event(_decode(body))
        except RefusedEventError as error:
            return _refused(str(error))
        # Done in the event loop: SQLite takes some microseconds here, handing over to a thread takes longer.
        outcome = self._store.add(event, body, arrival.received_at_ms)
        if outcome == "different" or (outcome == "identical" and self._strict):
            return _conflict(event.deployment_id)
        return _stored(event.deployment_id)

    async def _list_deployments(self, _: Request) -> Response:
        return _json(
            [
                msgspec.to_builtins(stored.event)
                | {"received_at": rfc3339(stored.received_at_ms), "times_posted": stored.times_posted}
                for stored in self.deployments()
            ]
        )

    async def _html(self, _: Request) -> Response:
        page = _page(self._store.newest(MAX_ROWS), self._store.count())
        # Should an escape ever be forgotten: no script runs.
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    async def _healthz(self, _: Request) -> Response:
        return _json({"status": "ok"})

    async def _change_faults(self, request: Request) -> Response:
        if request.method in ("GET", "HEAD"):
            return _json(self._faults.active())
        _require_json(request)
        if request.method == "DELETE":
            self.clear_faults()
            return Response(status_code=204)
        try:
            fault = msgspec.json.decode(await request.body(), type=Fault)
        except (ValueError, RecursionError) as error:
            return _refused(str(error))
        self._faults.add(fault)
        return _json(fault, 201)
