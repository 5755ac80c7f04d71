"""The application behind ``[web] listen``: routes, logins, error pages."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from agent.web.access import COOKIE, SESSION_S, Access, Role, TooManyAttemptsError, Visitor
from agent.web.assets import Assets
from agent.web.backend import UnavailableError
from agent.web.forms import read_form
from agent.web.guard import Guard
from agent.web.page import RefusedError, Visit
from agent.web.pages import ACTIONS, PAGES
from agent.web.rendering import Frame, Renderer, as_csv, as_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from agent.config.settings import WebSettings
    from agent.model.times import Clock
    from agent.web.backend import Backend
    from agent.web.page import Action, Page
    from agent.web.rendering import Shown
    from agent.web.tasks import Tasks

log = structlog.get_logger("web")

_FORMS = {".json": as_json, ".csv": as_csv}


def application(
    settings: WebSettings, present: Callable[[], Awaitable[Backend]], clock: Clock, tasks: Tasks
) -> ASGIApp:
    """The pages with these settings.

    ``present`` returns the agent with its current configuration, or raises
    :class:`agent.web.backend.UnavailableError`. ``tasks`` live longer than one configuration.
    """
    return Guard(_Web(settings, present, clock, tasks).app, settings)


class _Web:
    def __init__(
        self, settings: WebSettings, present: Callable[[], Awaitable[Backend]], clock: Clock, tasks: Tasks
    ) -> None:
        self._present = present
        self._clock = clock
        self._tasks = tasks
        self._prefix = settings.prefix
        self._access = Access(settings, clock)
        self._assets = Assets()
        self._renderer = Renderer(settings.prefix, self._assets)
        routes = [
            Route("/static/{name}", self._static),
            Route("/login", self._login_page, methods=["GET"]),
            Route("/login", self._log_in, methods=["POST"]),
            Route("/logout", self._log_out, methods=["POST"]),
        ]
        routes += [Route(action.path, partial(self._act, action), methods=["POST"]) for action in ACTIONS]
        for page in PAGES:
            routes += [Route(page.form_path + end, partial(self._form, page, end)) for end in _FORMS]
            routes.append(Route(page.path, partial(self._page, page)))
        self.app = Starlette(routes=routes, exception_handlers={404: self._http_error, 405: self._http_error})
        self.app.router.redirect_slashes = False

    # ---- pages and actions

    async def _page(self, page: Page, request: Request) -> Response:
        return await self._answer(request, page.role, lambda visit: self._html(page, visit))

    async def _html(self, page: Page, visit: Visit) -> Response:
        return self._renderer.page(visit.frame, await page.show(visit))

    async def _form(self, page: Page, ending: str, request: Request) -> Response:
        async def form(visit: Visit) -> Response:
            shown: Shown = await page.show(visit)
            return _FORMS[ending](shown)

        return await self._answer(request, max(page.role, Role.VIEW), form)

    async def _act(self, action: Action, request: Request) -> Response:
        return await self._answer(request, action.role, action.act)

    async def _answer(self, request: Request, role: Role, answer: Callable[[Visit], Awaitable[Response]]) -> Response:
        visitor = self._access.visitor(request)
        try:
            frame = self._frame(request, visitor)
            visit = Visit(request, visitor, await self._present(), self._renderer, self._tasks, frame)
            visit.require(role)
            return await answer(visit)
        except RefusedError as error:
            if error.status == 401 and request.method == "GET" and not _is_form(request) and not visitor.bearer:
                return self._login(request, None, status=401)
            return self._error(request, visitor, error.status, str(error))
        except UnavailableError as error:
            return self._error(request, visitor, 503, str(error))
        except Exception as error:
            log.exception("page failed", path=request.url.path)
            words = f"an error in the agent, {type(error).__name__}; its log has more"
            return self._error(request, visitor, 500, words)

    def _frame(self, request: Request, visitor: Visitor) -> Frame:
        query = f"?{request.url.query}" if request.url.query else ""
        return Frame(request.url.path + query, self._clock.now_ms(), visitor, self._access.can_log_in)

    def _error(self, request: Request, visitor: Visitor, status: int, message: str) -> Response:
        if _is_form(request) or visitor.bearer:
            return PlainTextResponse(f"{message}\n", status)
        return self._renderer.html(self._frame(request, visitor), "error.html", "Error", status, message=message)

    async def _http_error(self, request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        message = "there is no such page" if status == 404 else "this page does not support this method"
        return self._error(request, self._access.visitor(request), status, message)

    async def _static(self, request: Request) -> Response:
        return self._assets.response(request.path_params["name"]) or PlainTextResponse("there is no such file\n", 404)

    # ---- logins

    async def _login_page(self, request: Request) -> Response:
        return self._login(request, None, status=200)

    def _login(self, request: Request, problem: str | None, *, status: int) -> Response:
        wanted = request.query_params.get("next", "/") if request.url.path == "/login" else self._here(request)
        frame = self._frame(request, self._access.visitor(request))
        return self._renderer.html(frame, "login.html", "Log in", status, problem=problem, next=_local(wanted))

    async def _log_in(self, request: Request) -> Response:
        form = await read_form(request)
        wanted = _local(form.get("next", "/"))
        address = request.client.host if request.client else "unknown"
        try:
            cookie = await run_in_threadpool(
                self._access.log_in, address, form.get("name", ""), form.get("password", "")
            )
        except TooManyAttemptsError as error:
            log.warning("login refused", reason=str(error), client=address)
            return self._login(request, str(error), status=429)
        if cookie is None:
            log.warning("login refused", reason="wrong password", client=address)
            return self._login(request, "wrong password", status=403)
        log.info("logged in", client=address)
        response = RedirectResponse(self._prefix + wanted, 303)
        self._set_cookie(request, response, cookie, SESSION_S)
        return response

    async def _log_out(self, request: Request) -> Response:
        response = RedirectResponse(self._renderer.url("/"), 303)
        self._set_cookie(request, response, "", 0)
        return response

    def _set_cookie(self, request: Request, response: Response, value: str, seconds: int) -> None:
        # The browser's own word: behind a proxy that ends TLS, this request came by plain HTTP.
        secure = request.headers.get("Origin", "").startswith("https://")
        path = self._prefix or "/"
        response.set_cookie(COOKIE, value, seconds, path=path, secure=secure, httponly=True, samesite="lax")

    @staticmethod
    def _here(request: Request) -> str:
        return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def _is_form(request: Request) -> bool:
    return request.url.path.endswith(tuple(_FORMS))


def _local(path: str) -> str:
    """A path of this agent, so that a login never leads to another site."""
    is_local = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if is_local else "/"
