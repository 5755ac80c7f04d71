"""DeploymentEvent: the payload of Hivel's Deployment Events API v2, identified by its deployment_id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from agent.model.ids import limited_id
from agent.model.required import LONGEST, why_no_event
from agent.model.status import Status
from agent.model.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

CanceledSpelling = Literal["canceled", "cancelled"]

_ENCODER = msgspec.json.Encoder()
MOST_PULL_REQUESTS = 50


class InvalidEventError(ValueError):
    """A required field of the event is missing or invalid; the message says which and why."""


class DeploymentEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One finished deployment; names, types and order as in the example on Hivel's page (sections 4 and 9).

    Unknown optional fields are left out of the JSON; the agent sends neither empty strings nor nulls.
    """

    deployment_id: str
    event_type: Literal["completed"]
    status: Status
    repo_url: str
    commit_hash: str | None = None
    environment: str
    start_time: str
    end_time: str
    branch: str
    build_number: str | None = None
    pr_number: str | None = None
    pr_numbers: tuple[int, ...] | None = None
    image: str | None = None
    logs_url: str | None = None


def completed(
    *,
    deployment_id: str,
    status: Status,
    started_at: int,
    ended_at: int,
    repo_url: str | None,
    environment: str | None,
    branch: str | None,
    commit_hash: str | None = None,
    build_number: str | None = None,
    pr_number: str | None = None,
    pr_numbers: Sequence[int] = (),
    image: str | None = None,
    logs_url: str | None = None,
) -> DeploymentEvent:
    """Make an event. Raises :class:`InvalidEventError` that names what is missing or too long.

    ``started_at`` and ``ended_at`` are UTC milliseconds. Hivel refuses a start after the end, so an end before the
    start (because of a clock) is replaced by the start. Optional fields of more than 255 characters and ``pr_numbers``
    beyond the first 50 are left out.
    """
    problem = why_no_event(repo_url, environment, branch)
    if problem is not None or not (repo_url and environment and branch):
        raise InvalidEventError(problem)
    try:
        start_time, end_time = rfc3339(started_at), rfc3339(max(started_at, ended_at))
    except OverflowError:
        raise InvalidEventError(f"times outside the years 1 to 9999: {started_at} ms to {ended_at} ms") from None
    return DeploymentEvent(
        deployment_id=limited_id(deployment_id),
        event_type="completed",
        status=status,
        repo_url=repo_url,
        commit_hash=_optional(commit_hash),
        environment=environment,
        start_time=start_time,
        end_time=end_time,
        branch=branch,
        build_number=_optional(build_number),
        pr_number=_optional(pr_number),
        pr_numbers=tuple(pr_numbers[:MOST_PULL_REQUESTS]) or None,
        image=_optional(image),
        logs_url=_optional(logs_url),
    )


def _optional(value: str | None) -> str | None:
    return None if not value or len(value) > LONGEST else value


def encode(event: DeploymentEvent) -> bytes:
    """The event as JSON."""
    return _ENCODER.encode(event)


def decode(payload: str | bytes) -> DeploymentEvent:
    """The event from JSON that :func:`encode` made. Raises :class:`msgspec.MsgspecError` for anything else."""
    return msgspec.json.decode(payload, type=DeploymentEvent)


def wire(payload: str, spelling: CanceledSpelling) -> bytes:
    """The bytes to send for a stored payload, with the configured spelling of ``canceled``.

    The spelling is applied here and not when the event is stored, so that it can be changed later.
    """
    if spelling == "cancelled" and '"canceled"' in payload:
        fields = msgspec.json.decode(payload)
        if fields["status"] == Status.CANCELED:
            fields["status"] = spelling
            return msgspec.json.encode(fields)
    return payload.encode()
