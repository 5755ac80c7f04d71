"""The conditions of a filter in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from agent.model.causes import cause_of
from agent.outbox.postgresql.names import KEY_BEGIN, named

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.outbox.values import Filter, Page

# No text of a filter contains a later character, so all texts with a prefix are below the prefix and this.
_LAST = "\U0010ffff"
# As an array: beside OR, PostgreSQL would check a subquery for each deployment instead of using the index.
_OF_PROJECTS = "project_id = ANY(ARRAY(SELECT p.id FROM projects AS p WHERE {}))"
_BEGINS = "{0} >= %s AND {0} < %s"
_NAME_BEGINS = _OF_PROJECTS.format(f"{_BEGINS.format('name_key(p.name)')} AND starts_with(p.name, %s)")


class Condition(NamedTuple):
    """SQL, and the values for its placeholders."""

    sql: str
    values: tuple[object, ...] = ()


def of_place(which: Filter) -> list[Condition]:
    """The conditions on environment, repository and time, which an index has together."""
    given = [
        (which.environment, named("environment")),
        (which.repo_url, named("repo_url")),
        (which.since, "ended_at >= %s"),
        (which.until, "ended_at < %s"),
    ]
    return [Condition(sql, (value,)) for value, sql in given if value is not None]


def of_project(which: Filter) -> list[Condition]:
    """The conditions on the project."""
    found = []
    if which.project is not None:
        project = which.project
        sql = _OF_PROJECTS.format(" AND ".join(named(f"p.{part}") for part in ("provider", "scope", "name")))
        found.append(Condition(sql, (project.provider, project.scope, project.name)))
    given = [(which.scope, "p.scope = %s"), (which.job, named("p.name"))]
    found += [Condition(_OF_PROJECTS.format(sql), (value,)) for value, sql in given if value is not None]
    if which.job_prefix:
        found.append(Condition(_NAME_BEGINS, _prefix_of_name(which.job_prefix)))
    return found


def of_text(which: Filter) -> list[Condition]:
    """The condition on ids and names."""
    if not which.text:
        return []
    text = which.text
    sql = f"({_BEGINS.format('deployment_id')} OR {_NAME_BEGINS})"
    return [Condition(sql, (*_prefix(text), *_prefix_of_name(text)))]


def of_state(which: Filter) -> list[Condition]:
    """The condition on the state."""
    if not which.states:
        return []
    return [Condition("state = ANY(%s)", ([state.value for state in dict.fromkeys(which.states)],))]


def conditions(which: Filter) -> list[Condition]:
    """All conditions of the filter, except those on the reason: see :func:`by_reason`."""
    found = [*of_place(which), *of_project(which), *of_text(which), *of_state(which)]
    if which.status is not None:
        found.append(Condition("status = %s", (which.status,)))
    if which.build_ended_since is not None:
        found.append(Condition("coalesce(build_ended_at, ended_at) >= %s", (which.build_ended_since,)))
    return found


def bounds(page: Page) -> list[Condition]:
    """The numbers of a page."""
    given = (("id < %s", page.before), ("id > %s", page.after))
    return [Condition(sql, (value,)) for sql, value in given if value is not None]


def by_reason(which: Filter) -> Callable[[str | None], bool] | None:
    """Whether a reason matches. PostgreSQL lacks both functions, so rows are read and checked here."""
    if which.reason is None and which.cause is None:
        return None
    part = None if which.reason is None else which.reason.casefold()

    def matches(reason: str | None) -> bool:
        if part is not None and (reason is None or part not in reason.casefold()):
            return False
        return which.cause is None or cause_of(reason) == which.cause

    return matches


def joined(parts: list[Condition]) -> Condition:
    """All of them."""
    values: tuple[Any, ...] = tuple(value for each in parts for value in each.values)
    return Condition(" AND ".join(each.sql for each in parts) or "true", values)


def _prefix(text: str) -> tuple[str, str]:
    return text, text + _LAST


def _prefix_of_name(text: str) -> tuple[str, str, str]:
    """The key of a long name begins as the name, for as many characters."""
    return (*_prefix(text[:KEY_BEGIN]), text)
