"""The application behind ``[web] listen``: routes, logins, error pages."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import structlog
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from agent.web.access import BROWSER_COOKIE, BROWSER_S, COOKIE, SESSION_S, Access, Role
from agent.web.assets import Assets
from agent.web.attempts import TooManyAttemptsError
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
    from agent.web.access import Visitor
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
            Route("/login", partial(self._safely, self._log_in), methods=["POST"]),
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
            answer = _FORMS[ending](shown)
            if shown.following is not None:
                following = self._renderer.url(page.form_path + ending, **shown.following)
                answer.headers["Link"] = f'<{following}>; rel="next"'
            return answer

        return await self._answer(request, max(page.role, Role.VIEW), form)

    async def _act(self, action: Action, request: Request) -> Response:
        return await self._answer(request, action.role, action.act)

    async def _answer(self, request: Request, role: Role, answer: Callable[[Visit], Awaitable[Response]]) -> Response:
        async def visited(request: Request) -> Response:
            visitor, address = self._access.visitor(request), self._access.address(request)
            frame = self._frame(request, visitor)
            visit = Visit(request, visitor, address, await self._present(), self._renderer, self._tasks, frame)
            visit.require(role)
            return await answer(visit)

        return await self._safely(visited, request)

    async def _safely(self, answer: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
        """The answer, or a page that says why there is none."""
        try:
            return await answer(request)
        except RefusedError as error:
            if error.status == 401 and request.method == "GET" and not _is_form(request) and not _has_token(request):
                return self._login(request, None, status=401)
            return self._error(request, error.status, str(error))
        except UnavailableError as error:
            return self._error(request, 503, str(error))
        except Exception as error:
            log.exception("page failed", path=request.url.path)
            return self._error(request, 500, f"an error in the agent, {type(error).__name__}; its log has more")

    def _frame(self, request: Request, visitor: Visitor) -> Frame:
        query = f"?{request.url.query}" if request.url.query else ""
        return Frame(request.url.path + query, self._clock.now_ms(), visitor, self._access.can_log_in)

    def _error(self, request: Request, status: int, message: str) -> Response:
        if _is_form(request) or _has_token(request):
            return PlainTextResponse(f"{message}\n", status)
        frame = self._frame(request, self._access.visitor(request))
        return self._renderer.html(frame, "error.html", "Error", status, message=message)

    async def _http_error(self, request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        message = "there is no such page" if status == 404 else "this page does not support this method"
        return self._error(request, status, message)

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
        address = self._access.address(request)
        try:
            login = await self._access.log_in(request, form.get("name", ""), form.get("password", ""))
        except TooManyAttemptsError as error:  # not logged: it may be sent without end
            return self._login(request, str(error), status=429)
        if login is None:
            log.warning("login refused", reason="wrong password", client=address)
            return self._login(request, "wrong password", status=403)
        log.info("logged in", client=address)
        response = RedirectResponse(self._prefix + wanted, 303)
        self._set_cookie(request, response, COOKIE, login.session, SESSION_S)
        if login.browser is not None:
            self._set_cookie(request, response, BROWSER_COOKIE, login.browser, BROWSER_S, below="/login")
        return response

    async def _log_out(self, request: Request) -> Response:
        response = RedirectResponse(self._renderer.url("/"), 303)
        self._set_cookie(request, response, COOKIE, "", 0)
        return response

    def _set_cookie(
        self, request: Request, response: Response, name: str, value: str, seconds: int, *, below: str = ""
    ) -> None:
        # From the browser itself: behind a proxy that ends TLS, this request came by plain HTTP.
        secure = request.headers.get("Origin", "").startswith("https://")
        path = self._prefix + below or "/"
        response.set_cookie(name, value, seconds, path=path, secure=secure, httponly=True, samesite="lax")

    @staticmethod
    def _here(request: Request) -> str:
        return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def _has_token(request: Request) -> bool:
    return request.headers.get("Authorization", "").lower().startswith("bearer ")


def _is_form(request: Request) -> bool:
    return request.url.path.endswith(tuple(_FORMS))


def _local(path: str) -> str:
    """A path of this agent, so that a login never leads to another site."""
    is_local = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if is_local else "/"
