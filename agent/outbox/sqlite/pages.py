"""Queries for the web pages: each reads a limited number of rows, however many there are.

A filter that an index has a small set for reads this set. Any other filter walks through the deployments in the order
of their numbers, and ends the page after so many rows: the page then has the number where to continue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agent.model.causes import cause_of
from agent.model.deployment import State
from agent.model.keys import Project
from agent.outbox.sqlite import rows
from agent.outbox.sqlite.conditions import (
    ENVIRONMENTS,
    MOST_PLACES,
    REPOSITORIES,
    Candidates,
    Condition,
    all_conditions,
    candidates,
    joined,
    rare_states,
    values_of,
)
from agent.outbox.sqlite.looking import Looking
from agent.outbox.values import Counted, FailedGroup, FailedGroups, Found, Hour, Page, Recent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.model.deployment import Deployment
    from agent.outbox.values import Filter

HOUR_MS = 3_600_000
# Index entries that are counted of a set, rows that are read of a set, and rows that a walk passes: a few milliseconds
# each.
COUNTED = 20_000
CHOSEN = 5_000
WALKED = 60_000
# The failed deployments that are grouped: the newest ones. And those of each state that are read for ``recent``.
MOST_FAILED = 10_000
MOST_RECENT = 10_000
_HIGHEST = 2**63 - 1
_PLACES = Condition(f"{ENVIRONMENTS.format(most=MOST_PLACES + 1)}, {REPOSITORIES.format(most=MOST_PLACES + 1)}")
_OTHERS = tuple(state for state in State if state is not State.DELIVERED)


class _Window(NamedTuple):
    """Where deployments that match are looked for: between two numbers, and in a set if there is one.

    ``whole``: there is none beyond it.
    """

    lowest: int
    highest: int
    among: Condition | None
    whole: bool


class Pages(Looking):
    """See :class:`agent.outbox.interface.Pages`."""

    def search(self, which: Filter, page: Page) -> Found:
        """The same as ``query``, but it may stop before the page is full and returns where to continue."""
        backwards = page.before is None and page.after is not None
        window = self._window(which, page, backwards=backwards)
        wanted = joined([*_within(window), *all_conditions(which)])
        order = "ASC" if backwards else "DESC"
        sql = f"SELECT {rows.COLUMNS} FROM deployments WHERE {wanted.sql} ORDER BY id {order} LIMIT ?"  # noqa: S608
        found = self._with_projects(sql, (*wanted.values, page.limit + 1), order)
        full = len(found) > page.limit
        shown = tuple(found[: page.limit])
        # Where to go on: after the last one that is shown, or where the window ended.
        beyond = shown[-1].number if full else None
        if not full and not window.whole:
            beyond = window.highest if backwards else window.lowest
        back = shown[0].number if shown else None
        if backwards:
            shown = shown[::-1]
            return Found(shown, back or (page.after or 0) + 1, beyond, complete=full or window.whole)
        newer = None if page.before is None else back or page.before - 1
        return Found(shown, beyond, newer, complete=full or window.whole)

    def count(self, which: Filter, at_most: int) -> Counted:
        """How many deployments match. It counts to ``at_most``, and stops earlier if it reads too many others."""
        exact = next((each for each in _sets(which) if each.exact), None)
        if exact is not None:
            n, places = self._count(exact, at_most)
            if places <= MOST_PLACES:
                return Counted(min(n, at_most), n > at_most)
        window = self._window(which, Page(), backwards=False)
        wanted = joined([*_within(window), *all_conditions(which)])
        select = Condition(f"SELECT id FROM deployments WHERE {wanted.sql}", wanted.values)  # noqa: S608
        n, _ = self._count(Candidates(select, exact=True), at_most)
        return Counted(min(n, at_most), n > at_most or not window.whole)

    def _count(self, some: Candidates, at_most: int) -> tuple[int, int]:
        """The number of deployments, up to one more than ``at_most``, and of the places that they are searched in."""
        places, tables = ("(SELECT count(*) FROM p)", [some.places]) if some.places else ("0", [])
        sql = f"{_with(tables)} SELECT count(*), {places} FROM ({some.select.sql} LIMIT ?)"  # noqa: S608
        n, searched = self._one(sql, (*values_of(tables), *some.select.values, at_most + 1))
        return n, searched

    def _with_projects(self, sql: str, values: tuple[object, ...], order: str) -> list[Deployment]:
        """In one statement: a page may have as many projects as deployments."""
        found = self._all(
            "SELECT page.*, projects.provider, projects.scope, projects.name"  # noqa: S608
            f" FROM ({sql}) AS page LEFT JOIN projects ON projects.id = page.project_id ORDER BY page.id {order}",
            values,
        )
        for row in found:
            if row[-1] is not None:
                self._remember(row[1], Project(*row[-3:]))
        return self._deployments(row[:-3] for row in found)

    # ---- where to look

    def _window(self, which: Filter, page: Page, *, backwards: bool) -> _Window:
        sets, states = candidates(which), rare_states(which)
        above, below = page.after or 0, _HIGHEST if page.before is None else page.before
        of_states = [_next_of_state(state.value, above, below, backwards=backwards) for state in states]
        (_, oldest, newest), *counted = self._counted([*sets, *of_states])
        lowest, highest = max(above + 1, oldest), min(below - 1, newest)
        small = [(n, each.alone) for each, (n, *_) in zip(sets, counted, strict=False) if n <= CHOSEN]
        if small:
            return _Window(lowest, highest, min(small, key=lambda each: each[0])[1], whole=True)
        for n, first, last in counted[: len(sets)]:
            if n <= COUNTED:  # then these are the lowest and the highest number of the whole set
                lowest, highest = max(lowest, first), min(highest, last)
        if states:
            return _of_states(states, counted[len(sets) :], lowest, highest, backwards=backwards)
        whole = highest - lowest < WALKED
        if not whole and backwards:
            highest = lowest + WALKED - 1
        elif not whole:
            lowest = highest - WALKED + 1
        return _Window(lowest, highest, None, whole)

    def _counted(self, sets: list[Candidates]) -> list[tuple[int, int, int]]:
        """The number of deployments, the lowest and the highest one: of all, then of each set, up to a limit."""
        tables = [each.places for each in sets if each.places is not None]
        parts = ["SELECT -1, 0, (SELECT min(id) FROM deployments), (SELECT max(id) FROM deployments)"]
        for n, each in enumerate(sets):
            too_many = f"(SELECT count(*) FROM p) > {MOST_PLACES}" if each.places else "0"  # noqa: S608
            parts.append(
                f"SELECT {n}, CASE WHEN {too_many} THEN {COUNTED + 1} ELSE count(*) END, min(id), max(id)"  # noqa: S608
                f" FROM ({each.select.sql} LIMIT {COUNTED + 1})"
            )
        found = self._all(
            f"{_with(tables)} {' UNION ALL '.join(parts)}",
            (*values_of(tables), *values_of([each.select for each in sets])),
        )
        return [(n, first or 0, last or 0) for _, n, first, last in sorted(found)]

    # ---- everything else

    def failed_groups(self, limit: int) -> FailedGroups:
        """Failed deployments by their causes: at most ``limit`` groups."""
        by_reason = self._all(
            "SELECT reason, count(*), min(failed_at), max(failed_at), max(id) FROM"
            " (SELECT id, reason, coalesce(settled_at, created_at) AS failed_at FROM deployments"
            " WHERE state = 'failed' ORDER BY id DESC LIMIT ?) GROUP BY reason",
            (MOST_FAILED + 1,),
        )
        groups: dict[str, FailedGroup] = {}
        for reason, n, first, last, newest in by_reason:
            group = FailedGroup(cause_of(reason), n, first, last, newest, reason)
            same = groups.get(group.cause)
            groups[group.cause] = group if same is None else _together(group, same)
        largest = sorted(groups.values(), key=lambda each: (-each.n, each.cause))
        failed = sum(each.n for each in largest)
        return FailedGroups(largest[:limit], failed, more=len(largest) > limit or failed > MOST_FAILED)

    def environments(self, at_most: int = 1_000) -> list[str]:
        """The environments of all deployments, in order."""
        # One may be '', and the last one is NULL.
        tables = Condition(ENVIRONMENTS.format(most=at_most + 2))
        found = self._all(f"{_with([tables])} SELECT e FROM e WHERE e > ''")  # noqa: S608
        return [name for (name,) in found][:at_most]

    def repositories(self, environment: str | None = None, at_most: int = 1_000) -> list[str]:
        """The repositories of all deployments, or of those of one environment, in order."""
        # A repository is found once for each environment that it has.
        environments = ENVIRONMENTS.format(most=MOST_PLACES + 1) if environment is None else "e (e) AS (SELECT ?)"
        repositories = REPOSITORIES.format(most=MOST_PLACES + 1)
        sql = "SELECT DISTINCT r FROM p WHERE r > '' ORDER BY r LIMIT ?"
        found = self._all(
            f"WITH RECURSIVE {environments}, {repositories} {sql}",
            (at_most,) if environment is None else (environment, at_most),
        )
        return [name for (name,) in found]

    def per_hour(self, since: int) -> list[Hour]:
        """What was delivered and what failed, from the hour of ``since`` on. Hours without either are left out."""
        found = self._all(
            "SELECT hour * ?1, delivered, failed FROM hours WHERE hour >= ?2 / ?1 ORDER BY hour", (HOUR_MS, since)
        )
        return [Hour(*row) for row in found]

    def recent(self, since: int) -> Recent:
        """How many deployments ended at or after ``since``, by state.

        All are counted by their index, which does not have the state. Those of the other states are read, from the
        lowest number on that one of them has.
        """
        recent = (
            "recent (n, lowest) AS (SELECT count(*), min(deployments.id) FROM p CROSS JOIN deployments"
            " WHERE environment IS e AND repo_url IS r AND ended_at >= ?)"
        )
        parts = ["SELECT 'all', n, 0 FROM recent", "SELECT 'places', 0, count(*) FROM p"]
        parts += [
            f"SELECT '{state}', coalesce(sum(ended_at >= ?), 0), count(*) FROM (SELECT ended_at FROM deployments"  # noqa: S608
            f" WHERE state = '{state}' AND id >= (SELECT lowest FROM recent) ORDER BY id DESC LIMIT {MOST_RECENT + 1})"
            for state in _OTHERS
        ]
        tables = [_PLACES, Condition(recent, (since,))]
        found = self._all(f"{_with(tables)} {' UNION ALL '.join(parts)}", (since,) * (1 + len(_OTHERS)))
        counted = {name: n for name, n, _ in found}
        read = {name: n for name, _, n in found}
        others = {state.value: counted[state.value] for state in _OTHERS}
        more = read.pop("places") > MOST_PLACES or max(read.values()) > MOST_RECENT
        return Recent(delivered=counted["all"] - sum(others.values()), **others, more=more)


def _with(tables: Sequence[Condition]) -> str:
    return f"WITH RECURSIVE {', '.join(each.sql for each in tables)}" if tables else ""


def _sets(which: Filter) -> list[Candidates]:
    """The sets for counting: also all deployments, and those in a state, which have no other condition."""
    given = all_conditions(which)
    if not given:
        return [Candidates(Condition("SELECT id FROM deployments WHERE id > 0"), exact=True)]
    if which.states and len(given) == 1:
        sql = f"SELECT id FROM deployments WHERE {given[0].sql.removeprefix('+')}"  # noqa: S608
        return [Candidates(Condition(sql, given[0].values), exact=True)]
    return candidates(which)


def _next_of_state(state: str, above: int, below: int, *, backwards: bool) -> Candidates:
    order = "ASC" if backwards else "DESC"
    sql = (
        "SELECT * FROM (SELECT id FROM deployments INDEXED BY deployments_by_state"  # noqa: S608
        f" WHERE state = ? AND id > ? AND id < ? ORDER BY id {order} LIMIT {CHOSEN})"
    )
    return Candidates(Condition(sql, (state, above, below)), exact=False)


def _of_states(
    states: list[State], counted: list[tuple[int, int, int]], lowest: int, highest: int, *, backwards: bool
) -> _Window:
    """The next deployments in these states, of each state at most ``CHOSEN``."""
    cut = [(first, last) for n, first, last in counted if n == CHOSEN]
    if backwards:
        highest = min([highest, *(last for _, last in cut)])
    else:
        lowest = max([lowest, *(first for first, _ in cut)])
    marks = ", ".join("?" for _ in states)
    among = Condition(
        f"SELECT id FROM deployments WHERE state IN ({marks}) AND id >= ? AND id <= ?",  # noqa: S608
        (*(state.value for state in states), lowest, highest),
    )
    return _Window(lowest, highest, among, whole=not cut)


def _within(window: _Window) -> list[Condition]:
    """Without a plus sign the numbers of the set would not be searched for one by one."""
    if window.among is None:
        return [Condition("id >= ? AND id <= ?", (window.lowest, window.highest))]
    return [
        Condition(f"id IN ({window.among.sql})", window.among.values),
        Condition("+id >= ? AND +id <= ?", (window.lowest, window.highest)),
    ]


def _together(one: FailedGroup, other: FailedGroup) -> FailedGroup:
    newest = max(one, other, key=lambda each: each.newest)
    times = min(one.first_at, other.first_at), max(one.last_at, other.last_at)
    return FailedGroup(one.cause, one.n + other.n, *times, newest.newest, newest.reason)
