"""The HTTP intake: builds post their reports and get the answer when they are stored.

``POST /v1/events``: a report as JSON; 202 ``{"deployment_id": "…", "state": "held"}`` when it is on disk.
``POST /v1/wake``: all pollers poll now; 202 ``{"woken": ["main"]}``. With ``?controller=NAME`` only this one.
Errors are ``{"error": "…"}``: 400 for an invalid field, 401 for the token, 403 for a report that the team may not send,
413 for the size, 503 to try again later.
Without tokens, requests of web pages are refused with 403 or 415, because any page in a local browser can send requests
to loopback addresses.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
from starlette.applications import Starlette
from starlette.routing import Route

from agent.config.settings import Address
from agent.model.report import MOST_BYTES, ReportError, decode
from agent.outbox.values import OutboxError
from agent.sources.posted import Refused, error_answer, json_answer, not_now, read_body
from agent.sources.reports.allowed import NotAllowedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from agent.config.settings import IntakeSettings
    from agent.sources.reports.accept import Taken

log = structlog.get_logger("intake")


class Intake:
    """The application of ``[intake] listen``.

    ``accept`` stores a report of a team and raises the same errors as
    :meth:`agent.sources.reports.accept.Reports.take`; it must not block the event loop. ``wake`` starts a poll of the
    named controller, or of all (None), and returns their names.
    """

    def __init__(
        self,
        settings: IntakeSettings,
        accept: Callable[[dict[str, object], str], Awaitable[Taken]],
        wake: Callable[[str | None], list[str]],
    ) -> None:
        self._tokens = [(team, token.reveal().encode()) for team, token in settings.tokens]
        self._accept = accept
        self._wake = wake
        self.app = Starlette(
            # Also with a slash at the end: a redirect would lose the report.
            routes=[
                Route(path + slash, answer, methods=["POST"])
                for path, answer in (("/v1/events", self._events), ("/v1/wake", self._wake_up))
                for slash in ("", "/")
            ],
            exception_handlers={404: _http_error, 405: _http_error},
        )
        self.app.router.redirect_slashes = False

    async def _events(self, request: Request) -> Response:
        try:
            team = self._team(request)
            self._refuse_other_content(request)
            taken = await self._accept(decode(await read_body(request, MOST_BYTES)), team)
        except Refused as error:
            return _refusal(error)
        except NotAllowedError as error:
            log.warning("report not allowed", reason=str(error), client=_client(request))
            return error_answer(403, str(error))
        except ReportError as error:
            log.warning("invalid report", reason=str(error), client=_client(request))
            return error_answer(400, str(error))
        except OutboxError as error:
            log.error("report cannot be stored", reason=str(error))
            return not_now("report", str(error))
        except Exception as error:
            log.exception("report cannot be stored", client=_client(request))
            return not_now("report", f"internal error of the agent ({type(error).__name__}); see its log")
        if taken.controller is not None:
            self._wake(taken.controller)
        if team:
            log.info("report accepted", deployment_id=taken.deployment_id, team=team)
        return json_answer(202, {"deployment_id": taken.deployment_id, "state": taken.state.value})

    async def _wake_up(self, request: Request) -> Response:
        try:
            self._team(request)
            await read_body(request, MOST_BYTES)  # notification plugins send a body
        except Refused as error:
            return _refusal(error)
        return json_answer(202, {"woken": self._wake(request.query_params.get("controller"))})

    def _team(self, request: Request) -> str:
        """The team whose token the request has. The time of the comparison does not depend on the token."""
        if not self._tokens:
            if (reason := _of_a_web_page(request)) is not None:
                raise self._refused(request, 403, reason)
            return ""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        found = [team for team, token in self._tokens if hmac.compare_digest(given.encode("utf-8", "replace"), token)]
        if not found or scheme.lower() != "bearer":
            words = "a token is required: send Authorization: Bearer …; see [intake] in the configuration"
            raise self._refused(request, 401, words, "missing or wrong token")
        return found[0]

    def _refuse_other_content(self, request: Request) -> None:
        """Require JSON: browsers let a page of another site send text and forms without a preflight request."""
        if not self._tokens and not _is_json(request):
            raise self._refused(request, 415, "Content-Type: application/json is required by an intake without tokens")

    @staticmethod
    def _refused(request: Request, status: int, words: str, reason: str = "") -> Refused:
        log.warning("request refused", reason=reason or words, client=_client(request))
        return Refused(status, words)


def _of_a_web_page(request: Request) -> str | None:
    """Why a web page in a browser on this machine may have sent this request; None: it did not.

    A browser adds the first two headers to requests of another site. A page whose host name was changed to resolve to
    this machine (DNS rebinding) sends that name as ``Host``.
    """
    for name in ("Origin", "Sec-Fetch-Site"):
        if name in request.headers:
            return f"{name}: requests of web pages require a token"
    host = request.headers.get("Host", "")
    try:
        named = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        named = ""
    if host and not Address(named, 0).is_loopback:
        return "Host: an intake without tokens accepts only localhost and loopback addresses"
    return None


def _is_json(request: Request) -> bool:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == "application/json"


def _client(request: Request) -> str:
    return request.client.host if request.client else "unknown"


async def _http_error(request: Request, _: Exception) -> Response:
    known = request.url.path.removesuffix("/") in ("/v1/events", "/v1/wake")
    if known:
        return error_answer(405, "only POST is allowed", {"Allow": "POST"})
    return error_answer(404, "unknown path; the paths are /v1/events and /v1/wake")


def _refusal(refused: Refused) -> Response:
    # Close the connection of a client that did not send the whole body in time.
    return error_answer(refused.status, str(refused), {"Connection": "close"} if refused.status == 408 else None)
