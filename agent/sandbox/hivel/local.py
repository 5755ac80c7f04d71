"""The application: receives events like Hivel, shows them, and applies faults."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections import deque
from hmac import compare_digest
from typing import TYPE_CHECKING

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from agent.model.times import rfc3339
from agent.sandbox.hivel.answers import Answer, conflict, http_error, json_answer, refused, stored
from agent.sandbox.hivel.contract import RefusedEventError, decode, parse_event
from agent.sandbox.hivel.faults import Fault, Faults, Reset, Silent, spoil
from agent.sandbox.hivel.page import MAX_ROWS, page
from agent.sandbox.hivel.store import Deployment, ReceivedRequest, Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.types import ASGIApp

ENDPOINT = "/api/hooks/v2/deployment"
MAX_BODY = 64 * 1024
# The maximum length of the list of requests, so that a sandbox that runs for weeks needs little memory.
MAX_REQUESTS = 1_000_000


async def _read_body(request: Request) -> bytes | None:
    """Return the body, or ``None`` if it is too large.

    A body that is too large is read to its end and dropped: a client that still writes would not see the answer.
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
        value = decode(body or b"").get("deployment_id")
    except RefusedEventError:
        return None
    return value if isinstance(value, str) else None


def _require_json(request: Request) -> None:
    """Refuse requests that a form or a link on a web page could send from the user's browser."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise HTTPException(415, "Content-Type must be application/json")


class LocalHivel:
    """A Hivel on this machine. Serve its ``app``, read the received events, add faults.

    - ``POST /api/hooks/v2/deployment``: the endpoint of Hivel's page. 200 stored, and again 200 for an
      identical event, see ``strict``; 400 with the field that is wrong; 401 for the token; 409 for another
      event with a known deployment_id; 413 above 64 KB. Every answer is JSON, errors as
      ``{"message": "Validation failed", "error": "branch is required"}``.
    - ``GET /``: the received events as a web page.
    - ``GET /api/deployments``: the same as a JSON list, oldest first: the payload's fields with normalised
      status and times, ``received_at`` (RFC 3339, UTC) and ``times_posted``.
    - ``GET /healthz``: 200 ``{"status": "ok"}``.
    - ``/_faults``: ``POST`` adds a :class:`Fault` (201, or 400 with the field that is wrong), ``GET`` lists
      the active ones with what remains of them, ``DELETE`` clears them (204). No token is required, because the
      sandbox is for a loopback address. But POST and DELETE require ``Content-Type: application/json`` (else 415),
      so that a web page in a browser cannot send them.

    A fault applies before the token is checked. The methods can be called from any thread.
    """

    app: ASGIApp

    def __init__(
        self,
        token: str = "sandbox-token",  # noqa: S107 - the token is for the sandbox only
        *,
        db: Path | None = None,
        strict: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the events in the file ``db``, or in memory. ``strict`` answers 409 also to an identical event.

        ``monotonic`` (seconds): the clock for the end of faults. Raises :class:`ValueError` for an empty
        token, and :class:`OSError` if ``db`` cannot be used.
        """
        if not token:
            raise ValueError("the token of the local Hivel is empty")
        self._token = token.encode()
        self._strict = strict
        self._store = Store(db)
        self._faults = Faults(monotonic)
        self._requests: deque[ReceivedRequest] = deque(maxlen=MAX_REQUESTS)
        self._lock = threading.Lock()
        self.app = self._application()

    def deployments(self) -> list[Deployment]:
        """Return the stored events, oldest first."""
        return self._store.newest()[::-1]

    def requests(self) -> list[ReceivedRequest]:
        """Return the POSTs to the endpoint in the order of arrival, at most the last million."""
        with self._lock:
            return [dataclasses.replace(request) for request in self._requests]

    def fault(self, fault: Fault) -> None:
        """Add a fault. Raises :class:`msgspec.ValidationError` if a field has a wrong value."""
        self._faults.add(msgspec.convert(msgspec.to_builtins(fault), Fault))

    def clear_faults(self) -> None:
        """Clear all faults. Requests that wait because of a silent fault end without an answer."""
        self._faults.clear()

    def close(self) -> None:
        """Close the database. Call it when the app is no longer served."""
        self._store.close()

    def _application(self) -> Starlette:
        routes = [
            Route(ENDPOINT, self._post, methods=["POST"]),
            Route("/_faults", self._change_faults, methods=["GET", "POST", "DELETE"]),
            Route("/api/deployments", self._list_deployments, methods=["GET"]),
            Route("/healthz", self._healthz, methods=["GET"]),
            Route("/", self._html, methods=["GET"]),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: http_error})
        app.router.redirect_slashes = False
        return app

    async def _post(self, request: Request) -> Response:
        arrival = ReceivedRequest(time.time_ns() // 1_000_000)
        with self._lock:
            self._requests.append(arrival)
        try:
            body = await _read_body(request)
        except ClientDisconnect:
            return Response()  # the client is gone
        arrival.deployment_id = _deployment_id(body)
        response = await self._respond(request, body, arrival)
        if not isinstance(response, Reset | Silent):
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
        return spoil(fault, handled, cleared)

    def _handle(self, request: Request, body: bytes | None, arrival: ReceivedRequest) -> Response:
        token = request.headers.get("x-api-token", "").encode("latin-1")
        if not compare_digest(token, self._token):
            return json_answer(Answer(message="Unauthorized", error="X-API-Token is missing or wrong"), 401)
        if body is None:
            return refused(f"The body is larger than {MAX_BODY} bytes", 413)
        try:
            event = parse_event(decode(body))
        except RefusedEventError as error:
            return refused(str(error))
        # In the event loop: SQLite takes some microseconds here; a thread would take longer.
        outcome = self._store.add(event, body, arrival.received_at_ms)
        if outcome == "different" or (outcome == "identical" and self._strict):
            return conflict(event.deployment_id)
        return stored(event.deployment_id)

    async def _list_deployments(self, _: Request) -> Response:
        return json_answer(
            [
                msgspec.to_builtins(deployment.event)
                | {"received_at": rfc3339(deployment.received_at_ms), "times_posted": deployment.times_posted}
                for deployment in self.deployments()
            ]
        )

    async def _html(self, _: Request) -> Response:
        html = page(self._store.newest(MAX_ROWS), self._store.count())
        # If an escape is missing, no script runs.
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    async def _healthz(self, _: Request) -> Response:
        return json_answer({"status": "ok"})

    async def _change_faults(self, request: Request) -> Response:
        if request.method in ("GET", "HEAD"):
            return json_answer(self._faults.active())
        _require_json(request)
        if request.method == "DELETE":
            self.clear_faults()
            return Response(status_code=204)
        try:
            fault = msgspec.json.decode(await request.body(), type=Fault)
        except (ValueError, RecursionError) as error:
            return refused(str(error))
        self._faults.add(fault)
        return json_answer(fault, 201)
