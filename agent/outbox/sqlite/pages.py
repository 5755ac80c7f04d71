"""Queries for the web pages: each reads a limited number of rows, however many there are.

A filter that an index has a small set for reads this set. Any other filter walks through the deployments in the order
of their numbers, and ends the page after so many rows: the page then has the number where to continue.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from agent.model.deployment import State
from agent.outbox import rows
from agent.outbox.grouping import MOST_FAILED, grouped
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
from agent.outbox.values import Counted, Found, Hour, Names, Recent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.model.deployment import Deployment
    from agent.outbox.values import FailedGroups, Filter, Page

HOUR_MS = 3_600_000
# Index entries that are counted of a set, rows that are read of a set, and rows that a walk passes: a few milliseconds
# each.
COUNTED = 20_000
CHOSEN = 5_000
WALKED = 60_000
# The deployments of each state that are read for ``recent``.
MOST_RECENT = 10_000
_HIGHEST = 2**63 - 1
_PLACES = Condition(f"{ENVIRONMENTS.format(most=MOST_PLACES + 1)}, {REPOSITORIES.format(most=MOST_PLACES + 1)}")
_OTHERS = tuple(state for state in State if state is not State.DELIVERED)


class _Range(NamedTuple):
    """Numbers between ``above`` and ``below``. ``backwards``: the lowest ones come first."""

    above: int
    below: int
    backwards: bool


class _Size(NamedTuple):
    """The number of deployments of a set, counted up to a limit, the lowest and the highest one.

    ``n`` is None if the set is searched in too many places.
    """

    n: int | None
    first: int
    last: int


class _Sizes(NamedTuple):
    """The lowest and the highest deployment of all, and the sizes of the sets that a filter may use."""

    oldest: int
    newest: int
    of: dict[Candidates, _Size]


class _Window(NamedTuple):
    """Where deployments that match are looked for: between two numbers, and in a set if there is one.

    ``whole``: there is none beyond it.
    """

    lowest: int
    highest: int
    among: Condition | None
    whole: bool


_ALL = _Range(0, _HIGHEST, backwards=False)


class Pages(Looking):
    """See :class:`agent.outbox.interface.Pages`."""

    def search(self, which: Filter, page: Page, *, count_to: int = 0) -> Found:
        """The same as ``query``, but it may stop before the page is full and returns where to continue.

        At most three statements: the sizes of the sets, the page and, if no size is the count, the count.
        """
        here = _range_of(page)
        to_count = [*_counted_as(which), *_sets(which, _ALL)] if count_to else []
        sizes = self._sizes([*_sets(which, here), *to_count], max(COUNTED, count_to))
        window = _window(which, here, sizes)
        wanted = joined([*_within(window), *all_conditions(which)])
        order = "ASC" if here.backwards else "DESC"
        sql = f"SELECT {rows.COLUMNS} FROM deployments WHERE {wanted.sql} ORDER BY id {order} LIMIT ?"  # noqa: S608
        read = self._with_projects(sql, (*wanted.values, page.limit + 1), order)
        found = _found(page, read, window)
        if not count_to:
            return found
        all_read = here == _ALL and len(read) <= page.limit
        count = _up_to(count_to, len(read), window) if all_read else self._count(which, sizes, count_to)
        return replace(found, count=count)

    def _count(self, which: Filter, sizes: _Sizes, count_to: int) -> Counted:
        for each in _counted_as(which):
            n = sizes.of[each].n
            if n is not None:
                return _up_to(count_to, n)
        window = _window(which, _ALL, sizes)
        wanted = joined([*_within(window), *all_conditions(which)])
        sql = f"SELECT count(*) FROM (SELECT id FROM deployments WHERE {wanted.sql} LIMIT ?)"  # noqa: S608
        return _up_to(count_to, self._one(sql, (*wanted.values, count_to + 1))[0], window)

    def _sizes(self, sets: Sequence[Candidates], most: int) -> _Sizes:
        """In one statement. Sets are counted up to ``most``, which is then exceeded by one."""
        sets = list(dict.fromkeys(sets))
        tables = list(dict.fromkeys(each.places for each in sets if each.places is not None))
        parts = ["SELECT -1, 0, (SELECT min(id) FROM deployments), (SELECT max(id) FROM deployments)"]
        for n, each in enumerate(sets):
            too_many = f"(SELECT count(*) FROM p) > {MOST_PLACES}" if each.places else "0"  # noqa: S608
            parts.append(
                f"SELECT {n}, CASE WHEN {too_many} THEN NULL ELSE count(*) END, min(id), max(id)"  # noqa: S608
                f" FROM ({each.select.sql} LIMIT {most + 1})"
            )
        (_, _, oldest, newest), *found = sorted(
            self._all(
                f"{_with(tables)} {' UNION ALL '.join(parts)}",
                (*values_of(tables), *values_of([each.select for each in sets])),
            )
        )
        counted = (_Size(n, first or 0, last or 0) for _, n, first, last in found)
        return _Sizes(oldest or 0, newest or 0, dict(zip(sets, counted, strict=True)))

    # ---- everything else

    def failed_groups(self, limit: int) -> FailedGroups:
        """Failed deployments by their causes: at most ``limit`` groups."""
        by_reason = self._all(
            "SELECT reason, count(*), min(failed_at), max(failed_at), max(id) FROM"
            " (SELECT id, reason, coalesce(settled_at, created_at) AS failed_at FROM deployments"
            " WHERE state = 'failed' ORDER BY id DESC LIMIT ?) GROUP BY reason",
            (MOST_FAILED + 1,),
        )
        return grouped(by_reason, limit)

    def names(self, at_most: int = 1_000) -> Names:
        """The environments and the repositories of all deployments, each in order: at most so many of each."""
        # One name may be '', and the last one is NULL. A repository is found once for each environment that it has.
        found = self._all(
            f"{_with([_PLACES])} SELECT * FROM (SELECT 'e', e FROM e WHERE e > '' ORDER BY e LIMIT ?1)"  # noqa: S608
            " UNION ALL SELECT * FROM (SELECT DISTINCT 'r', r FROM p WHERE r > '' ORDER BY r LIMIT ?1)",
            (at_most,),
        )
        environments, repositories = ([name for kind, name in found if kind == which] for which in "er")
        return Names(environments, repositories)

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


def _range_of(page: Page) -> _Range:
    backwards = page.before is None and page.after is not None
    return _Range(page.after or 0, _HIGHEST if page.before is None else page.before, backwards)


def _sets(which: Filter, where: _Range) -> list[Candidates]:
    """The sets that decide where the deployments in this range are looked for."""
    return [*candidates(which), *(_next_of_state(state.value, where) for state in rare_states(which))]


def _counted_as(which: Filter) -> list[Candidates]:
    """The sets whose sizes are the number of deployments that match.

    They are also all deployments, and those in a state, which have no other condition.
    """
    given = all_conditions(which)
    if not given:
        return [Candidates(Condition("SELECT id FROM deployments WHERE id > 0"), exact=True)]
    if which.states and len(given) == 1:
        sql = f"SELECT id FROM deployments WHERE {given[0].sql.removeprefix('+')}"  # noqa: S608
        return [Candidates(Condition(sql, given[0].values), exact=True)]
    return [each for each in candidates(which) if each.exact]


def _next_of_state(state: str, where: _Range) -> Candidates:
    order = "ASC" if where.backwards else "DESC"
    sql = (
        "SELECT * FROM (SELECT id FROM deployments INDEXED BY deployments_by_state"  # noqa: S608
        f" WHERE state = ? AND id > ? AND id < ? ORDER BY id {order} LIMIT {CHOSEN})"
    )
    return Candidates(Condition(sql, (state, where.above, where.below)), exact=False)


def _window(which: Filter, where: _Range, sizes: _Sizes) -> _Window:
    lowest, highest = max(where.above + 1, sizes.oldest), min(where.below - 1, sizes.newest)
    sized = [(sizes.of[each], each) for each in candidates(which)]
    small = [(size.n, each.alone) for size, each in sized if size.n is not None and size.n <= CHOSEN]
    if small:
        return _Window(lowest, highest, min(small, key=lambda each: each[0])[1], whole=True)
    for size, _ in sized:
        if size.n is not None and size.n <= COUNTED:  # then these are the lowest and the highest of the whole set
            lowest, highest = max(lowest, size.first), min(highest, size.last)
    states = rare_states(which)
    if states:
        counted = [sizes.of[_next_of_state(state.value, where)] for state in states]
        return _of_states(states, counted, lowest, highest, backwards=where.backwards)
    whole = highest - lowest < WALKED
    if not whole and where.backwards:
        highest = lowest + WALKED - 1
    elif not whole:
        lowest = highest - WALKED + 1
    return _Window(lowest, highest, None, whole)


def _of_states(states: list[State], counted: list[_Size], lowest: int, highest: int, *, backwards: bool) -> _Window:
    """The next deployments in these states, of each state at most ``CHOSEN``."""
    cut = [each for each in counted if each.n == CHOSEN]
    if backwards:
        highest = min([highest, *(each.last for each in cut)])
    else:
        lowest = max([lowest, *(each.first for each in cut)])
    marks = ", ".join("?" for _ in states)
    among = Condition(
        f"SELECT id FROM deployments WHERE state IN ({marks}) AND id >= ? AND id <= ?",  # noqa: S608
        (*(state.value for state in states), lowest, highest),
    )
    return _Window(lowest, highest, among, whole=not cut)


def _found(page: Page, read: Sequence[Deployment], window: _Window) -> Found:
    """The page from its deployments and, if it is full, one more."""
    backwards = _range_of(page).backwards
    full = len(read) > page.limit
    shown = tuple(read[: page.limit])
    # Where to go on: after the last one that is shown, or where the window ended.
    beyond = shown[-1].number if full else None
    if not full and not window.whole:
        beyond = window.highest if backwards else window.lowest
    back = shown[0].number if shown else None
    if backwards:
        return Found(shown[::-1], back or (page.after or 0) + 1, beyond, complete=full or window.whole)
    newer = None if page.before is None else back or page.before - 1
    return Found(shown, beyond, newer, complete=full or window.whole)


def _up_to(most: int, n: int, window: _Window | None = None) -> Counted:
    """``n`` deployments match; those outside of the window are not counted."""
    return Counted(min(n, most), n > most or (window is not None and not window.whole))


def _within(window: _Window) -> list[Condition]:
    """Without a plus sign the numbers of the set would not be searched for one by one."""
    if window.among is None:
        return [Condition("id >= ? AND id <= ?", (window.lowest, window.highest))]
    return [
        Condition(f"id IN ({window.among.sql})", window.among.values),
        Condition("+id >= ? AND +id <= ?", (window.lowest, window.highest)),
    ]
