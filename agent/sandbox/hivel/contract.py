"""The format of deployment events: Hivel's page, sections 4 to 6."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from agent.model.event import DeploymentEvent
from agent.model.status import normalise_any
from agent.model.times import rfc3339

# The fields of Hivel's page, section 4, in its order.
_REQUIRED = (
    "deployment_id", "event_type", "status", "start_time", "end_time", "repo_url", "environment", "branch",
)  # fmt: skip
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_DIGITS = re.compile(r"\d{1,16}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# An epoch from this value on is in milliseconds (March 1973); as seconds it would be the year 5138.
_MILLISECONDS_FROM = 100_000_000_000


class RefusedEventError(ValueError):
    """The event does not have the format of Hivel's page. The message is the ``error`` of the answer."""


def decode(body: bytes) -> dict[str, Any]:
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
    """Return a number that the example of the page writes as a string. An integer is accepted too."""
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
    """UTC milliseconds from any format in section 5 of Hivel's page. Digits can be a number or text."""
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
    the page in one point: an optional field that is null or empty is refused; it must be left out.
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
