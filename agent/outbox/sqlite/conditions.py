"""The conditions of a filter in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from agent.outbox.values import Filter

# No text of a filter contains a later character, so all texts with a prefix are below the prefix and this.
_LAST = "\U0010ffff"
OF_PROJECTS = "project_id IN (SELECT id FROM projects WHERE {})"
BEGINS = "{0} >= ? AND {0} < ?"


class Condition(NamedTuple):
    """SQL, and the values for its question marks."""

    sql: str
    values: tuple[object, ...]


def prefix(text: str) -> tuple[str, str]:
    """The values for ``BEGINS``."""
    return text, text + _LAST


def conditions(which: Filter) -> list[Condition]:
    """The conditions except those on the state and on the exact project."""
    name = OF_PROJECTS.format(BEGINS.format("name"))
    given = [
        (which.since, "ended_at >= ?"),
        (which.until, "ended_at < ?"),
        (which.build_ended_since, "coalesce(build_ended_at, ended_at) >= ?"),
        (which.environment, "environment = ?"),
        (which.status, "status = ?"),
        (which.repo_url, "repo_url = ?"),
        (which.reason and which.reason.casefold(), "contains(reason, ?)"),
        (which.cause, "cause_of(reason) = ?"),
        (which.scope, OF_PROJECTS.format("scope = ?")),
        (which.job, OF_PROJECTS.format("name = ?")),
    ]
    found = [Condition(sql, (value,)) for value, sql in given if value is not None]
    if which.job_prefix:
        found.append(Condition(name, prefix(which.job_prefix)))
    if which.text:
        sql = f"({BEGINS.format('deployment_id')} OR {name})"
        found.append(Condition(sql, prefix(which.text) * 2))
    return found
