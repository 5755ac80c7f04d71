"""The conditions of a filter in SQL, and the sets of deployments that an index has for them.

A condition says which deployments match. A set has at least these, comes from an index alone, and is counted up to a
limit in a few milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agent.model.deployment import State

if TYPE_CHECKING:
    from agent.outbox.values import Filter, Page

# No text of a filter contains a later character, so all texts with a prefix are below the prefix and this.
_LAST = "\U0010ffff"
# With more environments and repositories than this, no set is made of them.
MOST_PLACES = 2_000
_OF_PROJECTS = "+project_id IN (SELECT id FROM projects WHERE {})"
_BEGINS = "{0} >= ? AND {0} < ?"
# All environments, or all repositories of each environment: each is found in the index after the one before. The last
# row of each has NULL, which stands for deployments without one.
ENVIRONMENTS = (
    "e (e) AS (SELECT (SELECT min(environment) FROM deployments)"
    " UNION ALL SELECT (SELECT min(environment) FROM deployments WHERE environment > e) FROM e WHERE e IS NOT NULL"
    " LIMIT {most})"
)
REPOSITORIES = (
    "p (e, r) AS (SELECT e, (SELECT min(repo_url) FROM deployments WHERE environment IS e) FROM e"
    " UNION ALL SELECT e, (SELECT min(repo_url) FROM deployments WHERE environment IS e AND repo_url > r) FROM p"
    " WHERE r IS NOT NULL LIMIT {most})"
)


class Condition(NamedTuple):
    """SQL, and the values for its question marks."""

    sql: str
    values: tuple[object, ...] = ()


class Candidates(NamedTuple):
    """A set: ``select`` gives the numbers of its deployments. ``exact``: they are what the filter selects.

    ``places``: the tables that it is made of, ``e`` and ``p``: it is of no use if ``p`` has more than ``MOST_PLACES``.
    """

    select: Condition
    exact: bool
    places: Condition | None = None

    @property
    def alone(self) -> Condition:
        """The statement with the tables that it is made of."""
        if self.places is None:
            return self.select
        return Condition(f"WITH RECURSIVE {self.places.sql} {self.select.sql}", self.places.values + self.select.values)


def conditions(which: Filter) -> list[Condition]:
    """The conditions except those on the state and on the exact project.

    The plus signs keep SQLite from using an index: it would sort all deployments that match for each page.
    """
    name = _OF_PROJECTS.format(_BEGINS.format("name"))
    given = [
        (which.since, "+ended_at >= ?"),
        (which.until, "+ended_at < ?"),
        (which.build_ended_since, "coalesce(build_ended_at, ended_at) >= ?"),
        (which.environment, "+environment = ?"),
        (which.status, "status = ?"),
        (which.repo_url, "+repo_url = ?"),
        (which.reason and which.reason.casefold(), "contains(reason, ?)"),
        (which.cause, "cause_of(reason) = ?"),
        (which.scope, _OF_PROJECTS.format("scope = ?")),
        (which.job, _OF_PROJECTS.format("name = ?")),
    ]
    found = [Condition(sql, (value,)) for value, sql in given if value is not None]
    if which.job_prefix:
        found.append(Condition(name, _prefix(which.job_prefix)))
    if which.text:
        found.append(Condition(f"({_BEGINS.format('+deployment_id')} OR {name})", _prefix(which.text) * 2))
    return found


def all_conditions(which: Filter) -> list[Condition]:
    """The conditions with those on the state and on the exact project."""
    found = conditions(which)
    if which.states:
        states = tuple(state.value for state in dict.fromkeys(which.states))
        found.append(Condition(f"+state IN ({', '.join('?' for _ in states)})", states))
    if which.project is not None:
        sql = _OF_PROJECTS.format("provider = ? AND scope = ? AND name = ?")
        found.append(Condition(sql, (which.project.provider, which.project.scope, which.project.name)))
    return found


def bounds(page: Page) -> list[Condition]:
    """The numbers of a page."""
    given = (("id < ?", page.before), ("id > ?", page.after))
    return [Condition(sql, (value,)) for sql, value in given if value is not None]


def joined(parts: list[Condition]) -> Condition:
    """All of them."""
    return Condition(" AND ".join(each.sql for each in parts) or "1", values_of(parts))


def values_of(parts: list[Condition]) -> tuple[object, ...]:
    """The values of all of them."""
    return tuple(value for each in parts for value in each.values)


def rare_states(which: Filter) -> list[State]:
    """The states of the filter if most deployments are in none of them. Their index is in the order of numbers."""
    states = list(dict.fromkeys(which.states))
    return [] if State.DELIVERED in states else states


def candidates(which: Filter) -> list[Candidates]:
    """The sets for a filter. There is none for conditions that no index has."""
    number = len(all_conditions(which))
    found = []
    if which.text:
        # One may be in both halves.
        found.append(Candidates(_of_text(which.text), exact=False))
    if of_project := _project_conditions(which):
        sql = (
            "SELECT deployments.id FROM projects CROSS JOIN deployments ON project_id = projects.id"  # noqa: S608
            f" WHERE {joined(of_project).sql}"
        )
        by_project = [
            each for each in (which.scope, which.job, which.project, which.job_prefix or None) if each is not None
        ]
        found.append(Candidates(Condition(sql, values_of(of_project)), exact=number == len(by_project)))
    given = [each for each in (which.environment, which.repo_url, which.since, which.until) if each is not None]
    if given:
        found.append(_of_places(which, exact=number == len(given)))
    return found


def _project_conditions(which: Filter) -> list[Condition]:
    project = which.project
    given = [("scope", which.scope), ("name", which.job)]
    if project is not None:
        given += [("provider", project.provider), ("scope", project.scope), ("name", project.name)]
    found = [Condition(f"projects.{column} = ?", (value,)) for column, value in given if value is not None]
    if which.job_prefix:
        found.append(Condition(_BEGINS.format("projects.name"), _prefix(which.job_prefix)))
    return found


def _prefix(text: str) -> tuple[str, str]:
    return text, text + _LAST


def _of_text(text: str) -> Condition:
    return Condition(
        f"SELECT id FROM deployments WHERE {_BEGINS.format('deployment_id')} UNION ALL"  # noqa: S608
        " SELECT deployments.id FROM projects CROSS JOIN deployments ON project_id = projects.id"
        f" WHERE {_BEGINS.format('projects.name')}",
        _prefix(text) * 2,
    )


def _of_places(which: Filter, *, exact: bool) -> Candidates:
    """By environment, repository and time. What is not given is found in the index: see ``ENVIRONMENTS``."""
    environment, repo_url = which.environment, which.repo_url
    times = [
        Condition(sql, (value,))
        for sql, value in (("ended_at >= ?", which.since), ("ended_at < ?", which.until))
        if value is not None
    ]
    if environment is not None and (repo_url is not None or not times):
        place = [Condition("environment = ?", (environment,))]
        place += [] if repo_url is None else [Condition("repo_url = ?", (repo_url,))]
        where = joined([*place, *times])
        return Candidates(Condition(f"SELECT id FROM deployments WHERE {where.sql}", where.values), exact)  # noqa: S608
    environments = Condition(ENVIRONMENTS.format(most=MOST_PLACES + 1))
    if environment is not None:
        environments = Condition("e (e) AS (SELECT ?)", (environment,))
    repositories = Condition(REPOSITORIES.format(most=MOST_PLACES + 1))
    if repo_url is not None:
        repositories = Condition("p (e, r) AS (SELECT e, ? FROM e)", (repo_url,))
    places = Condition(f"{environments.sql}, {repositories.sql}", environments.values + repositories.values)
    where = joined([Condition("environment IS e AND repo_url IS r"), *times])
    sql = f"SELECT deployments.id FROM p CROSS JOIN deployments WHERE {where.sql}"  # noqa: S608
    return Candidates(Condition(sql, where.values), exact, places)
