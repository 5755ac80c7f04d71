"""What arrives from a platform, and what its reader makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.config.settings import WebhookSettings
    from agent.model.part import Part


@dataclass(frozen=True)
class Delivery:
    """A delivery whose signature was checked.

    ``event``: the name of the event in the headers of the platform, in lower case; "" if it has none. ``id``: the
    platform's id of the delivery, the same when it is repeated; "" if it has none. ``received_at``: UTC ms.
    """

    event: str
    id: str
    body: Part
    received_at: int


@dataclass(frozen=True)
class Ended:
    """A deployment ended. ``report``: its fields, as ``emit`` would report them.

    ``start``: the key under which the platform announced its start, see :class:`Started`; "" if the report has its
    exact start. An announced start replaces the ``start_time`` of the report.
    """

    report: Mapping[str, str]
    start: str = ""


@dataclass(frozen=True)
class Started:
    """A deployment began to run ``at`` (UTC ms). ``key``: unique within the platform."""

    key: str
    at: int


@dataclass(frozen=True)
class Ignored:
    """The delivery is valid, and no deployment ended. ``reason``: for the platform's log and for people.

    ``lacks``: a deployment ended, and neither the body nor a rule has what an event needs.
    """

    reason: str
    lacks: bool = False


@dataclass(frozen=True)
class Invalid:
    """The body has another shape than the platform's. ``reason``: names the field and says what is expected."""

    reason: str


Meaning = Ended | Started | Ignored

if TYPE_CHECKING:
    # Raises ValueError with the name of the field if the body has another shape.
    Reader = Callable[[Delivery, WebhookSettings], Meaning]


def required(body: Part, path: str) -> str:
    """The text or whole number at a path. Raises :class:`ValueError` if it is missing, empty or something else."""
    part = body.at(path)
    found = body.number(path) if isinstance(part.value, int) else body.text(path)
    if not found.strip():
        raise ValueError(f"{part.where} is missing")
    return found


def filled(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields that are not empty."""
    return {name: value for name, value in fields.items() if value and not value.isspace()}
