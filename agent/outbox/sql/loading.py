"""What is stored about runs, read with one statement: its rows, and what they say."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.model.fact import seen
from agent.model.keys import JENKINS, Project, Run
from agent.outbox import rows
from agent.outbox.values import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from agent.model.deployment import Deployment
    from agent.model.fact import Fact

# Numbers with more digits are not build numbers: they do not fit into the integers of a database.
MOST_DIGITS = 18
_FACT, _DEPLOYMENT = rows.FACT_COLUMNS.split(", "), rows.COLUMNS.split(", ")
_NO_FACT = ", ".join(["NULL"] * len(_FACT))
_NO_DEPLOYMENT = ", ".join(["NULL"] * len(_DEPLOYMENT))
# Where a fact and where a deployment begin in a row.
_AT, _THEN = 5, 5 + len(_FACT)


def _of(table: str, columns: Iterable[str]) -> str:
    return ", ".join(f"{table}.{each}" for each in columns)


def stored(same: Callable[[str, str], str]) -> str:
    """The rows of a statement that begins with a table ``named (n, project_id, provider, scope, name, run, build)``.

    That table has the names under which each run may be stored. A row is a fact, a deployment, or an open build, which
    comes last. ``same``: the condition that a column has the same name as another one.
    """
    # CROSS JOIN: SQLite then reads no whole table for a few runs.
    return (
        f"SELECT n, provider, named.scope, name, f.id AS at, {_of('f', _FACT)}, {_NO_DEPLOYMENT}"  # noqa: S608
        f" FROM named CROSS JOIN facts AS f WHERE f.project_id = named.project_id AND {same('f.run', 'named.run')}"
        f" UNION ALL SELECT n, provider, named.scope, name, d.id, {_NO_FACT}, {_of('d', _DEPLOYMENT)}"
        f" FROM named CROSS JOIN deployments AS d"
        f" WHERE d.project_id = named.project_id AND {same('d.run', 'named.run')}"
        " UNION ALL SELECT n, provider, named.scope, name, 9223372036854775807, NULL, CAST(o.number AS TEXT), 1,"
        f" NULL, NULL, o.first_seen_at, NULL, o.started_at, NULL, NULL, {_NO_DEPLOYMENT}"
        " FROM named CROSS JOIN open_builds AS o WHERE o.controller = named.scope"
        f" AND {same('o.full_name', 'name')} AND o.number = build AND o.started_at IS NOT NULL"
    )


class Asked(NamedTuple):
    """What is asked for: the number of a project's run. ``build``: the same as a number, if a poll can follow it."""

    provider: str
    scope: str
    name: str
    run: str
    build: int | None


def asked_for(runs: Collection[Run]) -> dict[Asked, list[Run]]:
    """What to ask for, and the runs (attempts) that it stands for. The column ``n`` counts it from 0."""
    asked: dict[Asked, list[Run]] = {}
    for run in runs:
        project, number = run.project, run.number
        is_build = project.provider == JENKINS and number.isdecimal() and len(number) <= MOST_DIGITS
        of = Asked(project.provider, project.scope, project.name, number, int(number) if is_build else None)
        asked.setdefault(of, []).append(run)
    return asked


def states_of(asked: Iterable[Sequence[Run]], found: list[Any]) -> dict[Run, RunState]:
    """The states of all these runs, from the rows of :func:`stored`.

    Raises :class:`KeyError` or :class:`msgspec.MsgspecError` if a deployment cannot be read.
    """
    places = list(asked)
    facts: dict[Run, list[Fact]] = {run: [] for runs in places for run in runs}
    deployments: dict[Run, list[Deployment]] = {run: [] for run in facts}
    found.sort(key=itemgetter(4))
    for row in found:
        runs, project = places[row[0]], Project(*row[1:4])
        if row[_THEN] is not None:
            deployment = rows.deployment_of(row[_THEN:], project)
            for run in _attempt(deployment.run.attempt, runs):
                deployments[run].append(deployment)
        elif row[_AT] is not None:
            fact = rows.fact_of(row[_AT:_THEN], project)
            for run in _attempt(fact.run.attempt, runs):
                facts[run].append(fact)
        else:
            _add_seen(Run(project, row[_AT + 1]), row, [facts[run] for run in runs])
    return {run: RunState(run, tuple(facts[run]), tuple(deployments[run])) for run in facts}


def _attempt(attempt: int, runs: Iterable[Run]) -> Iterator[Run]:
    return (run for run in runs if run.attempt == attempt)


def _add_seen(run: Run, row: Any, said: Iterable[list[Fact]]) -> None:
    """The fact of an open build, unless it is stored already."""
    fact = seen(run, started_at=row[_AT + 7], at=row[_AT + 5])
    for facts in said:
        if all(known.word != fact.word for known in facts):
            facts.append(fact)
