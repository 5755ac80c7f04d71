"""Filters in the address of a page: ``/deployments?state=failed&environment=production&since=7d``."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeVar

import msgspec

from agent.model.deployment import State
from agent.model.spans import parse_span
from agent.model.status import Status
from agent.outbox.values import Filter, Page
from agent.web.page import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Word = TypeVar("Word", bound=enum.StrEnum)

# Longer values match nothing, and would only make addresses and pages longer.
LONGEST = 2000
# Numbers of deployments have fewer digits.
_MOST_DIGITS = 15


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """The filters of an address, under the same names. A deployment must match all of them.

    ``since`` and ``until`` select by the end of the deployment and are written as on the command line. ``job`` is a
    full name, or a folder followed by ``/**``. ``text``: the deployment_id or the job begins with it. ``cause``: of a
    failed deployment, see :func:`agent.model.causes.cause_of`. ``reason``: ``none`` selects those without a
    reason, which have no cause.
    """

    state: tuple[str, ...] = ()
    environment: str | None = None
    repo: str | None = None
    controller: str | None = None
    job: str | None = None
    status: str | None = None
    since: str | None = None
    until: str | None = None
    text: str | None = None
    cause: str | None = None
    reason: str | None = None

    @property
    def query(self) -> dict[str, object]:
        """The fields of an address with these filters."""
        return {name: value for name in _NAMES if (value := getattr(self, name))}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The fields one by one, for a form and for people."""
        return [
            (name, each)
            for name, value in self.query.items()
            for each in (value if isinstance(value, tuple) else (str(value),))
        ]

    def which(self, now_ms: int) -> Filter:
        """The same filter for the outbox. Raises :class:`RefusedError` if a value is not valid."""
        try:
            since, until = parse_span(self.since, self.until, now_ms)
        except ValueError as error:
            raise RefusedError(400, str(error)) from None
        if self.reason not in (None, "none") or (self.reason and self.cause):
            raise RefusedError(400, "reason: only none is possible, without a cause; use cause for a certain cause")
        job, folder = _job(self.job)
        return Filter(
            states=tuple(_word("state", each, State) for each in self.state),
            since=since,
            until=until,
            environment=self.environment,
            repo_url=self.repo,
            status=None if self.status is None else _word("status", self.status, Status),
            scope=self.controller,
            job=job,
            job_prefix=folder,
            text=self.text,
            cause="" if self.reason else self.cause,
        )


_NAMES = Filters.__struct_fields__


def read_filters(fields: Iterable[tuple[str, str]]) -> Filters:
    """The filters among the fields of an address or a form; those that are empty do not count.

    Raises :class:`RefusedError`.
    """
    states: dict[str, None] = {}
    texts: dict[str, str] = {}
    for name, text in fields:
        value = text.strip()
        if name not in _NAMES or not value:
            continue
        if len(value) > LONGEST:
            raise RefusedError(400, f"{name}: the value has more than {LONGEST} characters")
        if name == "state":
            states[value] = None
        else:
            texts[name] = value
    return Filters(state=tuple(states), **texts)


def read_page(fields: Mapping[str, str], size: int, most: int) -> Page:
    """``limit``, ``before`` and ``after`` of an address. Raises :class:`RefusedError`."""
    limit = read_number("limit", fields.get("limit")) or size
    if limit > most:
        raise RefusedError(400, f"limit: at most {most:,} deployments fit on a page")
    return Page(limit, read_number("before", fields.get("before")), read_number("after", fields.get("after")))


def read_number(name: str, text: str | None) -> int | None:
    """A number of an address or a form. Raises :class:`RefusedError`."""
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise RefusedError(400, f"{name}: {text[:20]!r} is not the number of a deployment")
    return int(text)


def _word(name: str, text: str, kind: type[Word]) -> Word:
    try:
        return kind(text)
    except ValueError:
        expected = ", ".join(each.value for each in kind)
        raise RefusedError(400, f"{name}: {text[:40]!r} does not exist; use one of {expected}") from None


def _job(text: str | None) -> tuple[str | None, str | None]:
    """A job's full name, or the beginning of the names in a folder."""
    if text is None:
        return None, None
    folder = text.removesuffix("**")
    if (
        any(each in folder for each in "*?")
        or text.startswith("re:")
        or (folder != text and folder[-1:] not in ("/", ""))
    ):
        raise RefusedError(400, "job: use the full name of a job, or a folder and /**, such as deploy/**")
    return (text, None) if folder == text else (None, folder or None)
