"""The URLs of a Jenkins, answered from a model, with JSON and errors as recorded from Jenkins 2.516.2."""

from __future__ import annotations

import base64
import binascii
import hmac
import threading
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum
from html import escape
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import msgspec
from starlette.responses import Response

from agent.sandbox.jenkins import templates
from agent.sandbox.jenkins.model import PERMALINKS, Build, Item, JsonObject
from agent.sandbox.jenkins.tree import ExportError, Tree, TreeError, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Scope

VERSION: Final = "2.516.2"
_JSON: Final = "application/json;charset=UTF-8"
_HTML: Final = "text/html;charset=UTF-8"
# The content type of the servlet container's own pages, in its spelling.
_CONTAINER_HTML: Final = "text/html;charset=utf-8"


class Availability(Enum):
    """The state of the process."""

    UP = "up"
    STARTING = "starting"  # every answer is 503 with a page
    DOWN = "down"  # no connection


@dataclass
class Controller:
    """The model, the credentials and the address."""

    root: Item
    username: str
    token: str
    prefix: str
    now_ms: Callable[[], int]
    session: str = "580f5180"
    skew_ms: int = 0
    availability: Availability = field(default_factory=lambda: Availability.UP)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def time(self) -> int:
        """The time of its own clock, UTC milliseconds."""
        return self.now_ms() + self.skew_ms


class Answer:
    """Finds the answer to one request."""

    def __init__(self, controller: Controller, scope: Scope) -> None:
        self._controller = controller
        # Raw, because `%252F` and `%2F` are different to Jenkins.
        self._path: str = scope["raw_path"].decode("latin-1")
        self._query: str = scope["query_string"].decode("latin-1")
        self._method: str = scope["method"]
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._authorization = dict(headers).get(b"authorization", b"").decode("latin-1")

    def response(self) -> Response:
        """The answer to the request."""
        response = self._at_the_door() or self._starting() or self._authentication() or self._resource()
        response.headers["Date"] = formatdate(self._controller.time() / 1000, usegmt=True)
        return response

    # -- request -------------------------------------------------------------------------------------------

    def _at_the_door(self) -> Response | None:
        """The answer of the servlet container, before the request reaches Jenkins."""
        prefix = self._controller.prefix
        if "%2f" in self._path.lower():
            return _container_page(400, "Invalid URI: [The encoded slash character is not allowed]")
        if prefix and self._path == prefix:
            return _redirect(f"{prefix}/")
        if not self._path.startswith(f"{prefix}/"):
            return _container_page(404, f"The requested resource [{self._path}] is not available")
        return None

    def _starting(self) -> Response | None:
        if self._controller.availability is Availability.UP:
            return None
        page = _html("Starting Jenkins")
        return Response(page, 503, headers={"Content-Type": _HTML, "X-Content-Type-Options": "nosniff"})

    def _authentication(self) -> Response | None:
        scheme, _, value = self._authorization.partition(" ")
        if scheme.lower() == "basic":
            expected = f"{self._controller.username}:{self._controller.token}".encode()
            if hmac.compare_digest(_decoded(value), expected):
                return None
            page = _container_page(401, "Unauthorized")
            page.headers["WWW-Authenticate"] = 'Basic realm="Jenkins"'
            return page
        if self._segments() == ["login"]:
            return None
        # No credentials, or a scheme that Jenkins does not support, such as Bearer.
        return self._page(403, "Authentication required")

    def _segments(self) -> list[str]:
        return self._path.removeprefix(self._controller.prefix).split("/")[1:]

    def _resource(self) -> Response:
        segments = self._segments()
        if self._method not in {"GET", "HEAD"}:
            return self._page(405, "This Jenkins is read-only")
        if segments == ["login"]:
            return self._page(200, "Sign in to Jenkins")
        if len(segments) == 3 and segments[0] in _DOCUMENTS and segments[1:] == ["api", "json"]:
            return self._json(lambda tree: self._document(segments[0], tree))
        item, rest = self._controller.root.descend(segments)
        if item is None:
            return self._page(404, "Not Found")
        build = _build(item, rest[0]) if rest else None
        return self._below(item, rest) if build is None else self._below(build, rest[1:])

    def _below(self, found: Item | Build, rest: list[str]) -> Response:
        match rest:
            case []:
                return _redirect(f"{self._path}/")
            case [""]:
                return self._page(200, "Jenkins")
            case ["api", "json"]:
                return self._json(lambda tree: found.whole() if tree is None else tree.apply(found))
            case ["build" | "buildWithParameters"] if isinstance(found, Item) and "builds" in found.fields:
                return self._page(405, "Form post required", Allow="POST")
        stages = found.stages.get("/".join(rest)) if isinstance(found, Build) else None
        if stages is not None:
            return self._sent(stages)
        return self._page(404, "Not Found")

    # -- answer --------------------------------------------------------------------------------------------

    def _document(self, name: str, tree: Tree | None) -> Any:
        document = _DOCUMENTS[name](self._controller, whole=tree is None)
        return document if tree is None else tree.apply(document)

    def _json(self, answer: Callable[[Tree | None], Any]) -> Response:
        text = parse_qs(self._query, keep_blank_values=True).get("tree")
        try:
            return self._sent(answer(parse(text[0]) if text else None))
        except (TreeError, ExportError) as error:
            return self._page(500, f"Oops! {error}")

    def _sent(self, answer: Any) -> Response:
        return Response(msgspec.json.encode(answer), headers=self._headers(_JSON, **{"X-Frame-Options": "deny"}))

    def _page(self, status: int, text: str, **headers: str) -> Response:
        more = {"X-Hudson": "1.395", "X-Frame-Options": "sameorigin", **headers}
        return Response(_html(text), status, headers=self._headers(_HTML, **more))

    def _headers(self, content_type: str, **more: str) -> dict[str, str]:
        return {
            "Cache-Control": "private",
            "X-Content-Type-Options": "nosniff",
            "X-Jenkins": VERSION,
            "X-Jenkins-Session": self._controller.session,
            "Content-Type": content_type,
            **more,
        }


def _html(text: str) -> str:
    return f"<!DOCTYPE html><html><head><title>{escape(text)}</title></head><body>{escape(text)}</body></html>"


def _container_page(status: int, text: str) -> Response:
    return Response(_html(f"HTTP Status {status}: {text}"), status, headers={"Content-Type": _CONTAINER_HTML})


def _redirect(location: str) -> Response:
    return Response(status_code=302, headers={"Location": location})


def _decoded(credentials: str) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _build(item: Item, segment: str) -> Build | None:
    if segment in PERMALINKS:
        return PERMALINKS[segment](item)
    build = item.builds.get(int(segment)) if segment.isdecimal() and len(segment) < 10 else None
    return build if build is not None and build.found else None


def _computers(controller: Controller, *, whole: bool) -> JsonObject:
    return templates.computers(controller.root, whole=whole)


def _whoami(controller: Controller, *, whole: bool) -> JsonObject:  # noqa: ARG001 -- one shape for all
    return templates.whoami(controller.username)


def _me(controller: Controller, *, whole: bool) -> JsonObject:  # noqa: ARG001 -- one shape for all
    return templates.me(controller.username, controller.root.url)


def _crumb(controller: Controller, *, whole: bool) -> JsonObject:  # noqa: ARG001 -- one shape for all
    return templates.crumb()


_DOCUMENTS: Final = {"computer": _computers, "whoAmI": _whoami, "me": _me, "crumbIssuer": _crumb}
