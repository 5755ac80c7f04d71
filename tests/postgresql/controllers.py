"""Local controllers behind one server, each at a path of its own. It notes who polls which of them, and when."""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

from starlette.responses import Response

from agent.sandbox.jenkins import LocalJenkins

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Receive, Scope, Send

TOKEN = "sandbox-token"
_USER = b"Basic " + b64encode(f"hivel-agent:{TOKEN}".encode())


class Controllers:
    """``pollers``: for each controller, who polled it from when on (monotonic seconds), in order.

    The controllers accept any user name: each process has one of its own, so that it is known who asks.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.jenkins = {name: LocalJenkins(prefix=name) for name in names}
        self.pollers: dict[str, list[tuple[float, str]]] = {name: [] for name in self.jenkins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        name = scope["path"].split("/")[1]
        headers = dict(scope["headers"])
        if name not in self.jenkins or b"authorization" not in headers:
            await Response("Not Found", 404)(scope, receive, send)
            return
        user = b64decode(headers[b"authorization"].partition(b" ")[2]).decode().partition(":")[0]
        known = self.pollers[name]
        if not known or known[-1][1] != user:
            known.append((time.monotonic(), user))
        scope = {**scope, "headers": [*(headers | {b"authorization": _USER}).items()]}
        await self.jenkins[name].app(scope, receive, send)

    def polled_by(self, user: str) -> list[str]:
        """The controllers that this process was the last to poll."""
        return [name for name, known in self.pollers.items() if known and known[-1][1] == user]

    def taken_over(self, controller: str, user: str, after: float) -> float | None:
        """When another process polled it for the first time after this moment; None: none has."""
        return next((at for at, who in list(self.pollers[controller]) if at > after and who != user), None)
