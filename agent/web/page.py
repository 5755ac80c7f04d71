"""The parts of a page's module: what it answers, and how it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from starlette.convertors import IntegerConvertor, register_url_convertor

from agent.web.access import Role

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from agent.web.access import Visitor
    from agent.web.backend import Backend
    from agent.web.rendering import Frame, Renderer, Shown
    from agent.web.tasks import Tasks


class _Number(IntegerConvertor):
    """``{number:number}`` in a path. Longer numbers are not converted: nothing can be stored under them."""

    regex = "[0-9]{1,18}"


register_url_convertor("number", _Number())


class RefusedError(Exception):
    """A request that cannot be answered; the message is for users."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Visit:
    """One request: who sent it, and what can be used to answer it. ``frame``: for a page that an action shows.

    ``address``: where it came from, for the log.
    """

    request: Request
    visitor: Visitor
    address: str
    backend: Backend
    renderer: Renderer
    tasks: Tasks
    frame: Frame

    def require(self, role: Role) -> None:
        """Raises :class:`RefusedError` if the visitor does not have this role."""
        if self.visitor.role < role:
            what = "perform actions" if role is Role.ACT else "see this"
            raise RefusedError(403 if self.visitor.role else 401, f"log in to {what}")


class Show(Protocol):
    """Makes what a page shows. Raises :class:`RefusedError` and :class:`agent.web.backend.UnavailableError`."""

    async def __call__(self, visit: Visit) -> Shown:
        """See the class."""
        ...


class Act(Protocol):
    """Performs an action. Raises :class:`RefusedError` and :class:`agent.web.backend.UnavailableError`."""

    async def __call__(self, visit: Visit) -> Response:
        """See the class."""
        ...


@dataclass(frozen=True)
class Page:
    """A page at ``path``, with its JSON and CSV forms at ``path.json`` and ``path.csv``.

    ``role``: who may see its HTML form. The other forms always need :attr:`Role.VIEW`.
    """

    path: str
    show: Show
    role: Role = Role.VIEW

    @property
    def form_path(self) -> str:
        """What ``.json`` and ``.csv`` are added to: the first page has these forms at ``/now``."""
        return "/now" if self.path == "/" else self.path


@dataclass(frozen=True)
class Action:
    """A POST at ``path``."""

    path: str
    act: Act
    role: Role = Role.ACT
