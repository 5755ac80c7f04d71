"""Queries for the web pages: each reads a limited number of rows, however many there are.

A filter that an index has a small set for reads this set. Any other filter walks through the deployments in the order
of their numbers, and ends the page after so many rows: the page then has the number where to continue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from agent.model.deployment import State
from agent.outbox.grouping import MOST_FAILED, grouped
from agent.outbox.postgresql.conditions import (
    Condition,
    bounds,
    by_reason,
    conditions,
    joined,
    of_place,
    of_project,
    of_text,
)
from agent.outbox.postgresql.looking import Looking
from agent.outbox.postgresql.names import KEY_BEGIN
from agent.outbox.values import NOT_COUNTED, Counted, Found, Hour, Names, Page, Recent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.outbox.values import FailedGroups, Filter

HOUR_MS = 3_600_000
# The largest set that is read, and the numbers that a walk passes.
CHOSEN = 5_000
WALKED = 60_000
# The deployments of each state that are read for ``recent``, and those of all states that are counted.
MOST_RECENT = 10_000
_MOST_PLACES = 20_000
_OTHERS = tuple(state for state in State if state is not State.DELIVERED)
# Each key of a name is found in the index after the one before.
_E, _R = "name_key(environment)", "name_key(repo_url)"
_ENVIRONMENTS = (
    f"e (e) AS ((SELECT min({_E}) FROM deployments) UNION ALL"  # noqa: S608
    f" SELECT (SELECT min({_E}) FROM deployments WHERE {_E} > e.e) FROM e WHERE e.e IS NOT NULL)"
)
_REPOSITORIES = (
    f"p (e, r) AS (SELECT e.e, (SELECT min({_R}) FROM deployments WHERE {_E} = e.e) FROM e"  # noqa: S608
    f" WHERE e.e IS NOT NULL UNION ALL SELECT p.e, (SELECT min({_R}) FROM deployments"
    f" WHERE {_E} = p.e AND {_R} > p.r) FROM p WHERE p.r IS NOT NULL),"
    f" n (r) AS ((SELECT min({_R}) FROM deployments WHERE {_E} IS NULL) UNION ALL"
    f" SELECT (SELECT min({_R}) FROM deployments WHERE {_E} IS NULL AND {_R} > n.r) FROM n"
    " WHERE n.r IS NOT NULL)"
)


def _name_of(key: str, column: str, condition: str) -> str:
    """The name with this key, which is another text only if it is long."""
    found = f"SELECT {column} FROM deployments WHERE {condition} LIMIT 1"  # noqa: S608
    return f"CASE WHEN length({key}) <= {KEY_BEGIN} THEN {key} ELSE ({found}) END"


_NAMES = (
    f"WITH RECURSIVE {_ENVIRONMENTS}, {_REPOSITORIES}"  # noqa: S608
    f" (SELECT 'e', {_name_of('e', 'environment', f'{_E} = e')} FROM (SELECT e FROM e LIMIT {_MOST_PLACES}) AS e"
    " WHERE e > '' ORDER BY e LIMIT %(most)s)"
    " UNION ALL (SELECT DISTINCT 'r', r FROM"
    f" ((SELECT {_name_of('r', 'repo_url', f'{_E} = e AND {_R} = r')} AS r FROM p LIMIT {_MOST_PLACES}) UNION ALL"
    f" (SELECT {_name_of('r', 'repo_url', f'{_E} IS NULL AND {_R} = r')} FROM n LIMIT {_MOST_PLACES})) AS r"
    " WHERE r > '' ORDER BY r LIMIT %(most)s)"
)
_ALL = Page()
# A repository in any environment: the index begins with the environment. LIMIT makes PostgreSQL look into the index for
# each environment. Otherwise it reads the whole index once.
_OF_REPOSITORY = (
    f"WITH RECURSIVE {_ENVIRONMENTS} (SELECT id FROM (SELECT e FROM e LIMIT {_MOST_PLACES}) AS e"  # noqa: S608
    f" CROSS JOIN LATERAL (SELECT id FROM deployments WHERE {_E} = e.e AND {{0}} LIMIT {CHOSEN + 1}) AS of_it)"
    f" UNION ALL (SELECT id FROM deployments WHERE {_E} IS NULL AND {{0}})"
)


class _Window(NamedTuple):
    """Where deployments that match are looked for: between two numbers, and in a set if there is one.

    ``whole``: there is none beyond it.
    """

    lowest: int
    highest: int
    among: list[int] | None
    whole: bool

    @property
    def within(self) -> list[Condition]:
        """The same in SQL."""
        between = Condition("id >= %s AND id <= %s", (self.lowest, self.highest))
        return [between] if self.among is None else [between, Condition("id = ANY(%s)", (self.among,))]


class Pages(Looking):
    """See :class:`agent.outbox.interface.Pages`."""

    def search(self, which: Filter, page: Page, *, count_to: int = 0) -> Found:
        """The same as ``query``, but it may stop before the page is full and returns where to continue.

        At most three statements: where to look, the reasons there or the count, and the page.
        """
        backwards = _is_backwards(page)
        is_first = (page.before, page.after) == (None, None)
        here, everywhere = self._windows(which, [page] if is_first or not count_to else [page, _ALL])
        given, reasons = conditions(which), self._reasons(which, here, everywhere)
        matching = [] if reasons is None else [_one_of(list(reasons[0]))]
        found = self._page(joined([*here.within, *given, *matching]), page.limit + 1, backwards=backwards)
        full = len(found) > page.limit
        shown = tuple(found[: page.limit])
        # Where to go on: after the last one that is shown, or where the window ended.
        beyond = shown[-1].number if full else None
        if not full and not here.whole:
            beyond = here.highest if backwards else here.lowest
        back = shown[0].number if shown else None
        older, newer = beyond, None if page.before is None else back or page.before - 1
        if backwards:
            shown, older, newer = shown[::-1], back or (page.after or 0) + 1, beyond
        if not count_to:
            count = NOT_COUNTED
        elif reasons is not None:
            n = sum(reasons[1].values())
            count = Counted(min(n, count_to), n > count_to or not everywhere.whole)
        else:
            count = self._count(which, everywhere, count_to)
        return Found(shown, older, newer, complete=full or here.whole, count=count)

    def _count(self, which: Filter, window: _Window, at_most: int) -> Counted:
        """How many deployments match. It counts to ``at_most``, and stops earlier if it reads too many others."""
        given = conditions(which)
        if len(given) == bool(which.states):
            counts = self.counts()
            n = sum(getattr(counts, state.value) for state in dict.fromkeys(which.states) or State)
            return Counted(min(n, at_most), n > at_most)
        wanted = joined([*window.within, *given])
        sql = f"SELECT count(*) FROM (SELECT FROM deployments WHERE {wanted.sql} LIMIT %s) AS found"  # noqa: S608
        n = int(self._one(sql, (*wanted.values, at_most + 1))[0])
        return Counted(min(n, at_most), n > at_most or not window.whole)

    def _reasons(self, which: Filter, *windows: _Window) -> list[dict[str | None, int]] | None:
        """The reasons that match, with their numbers of deployments, in each window; None if every reason matches."""
        matches = by_reason(which)
        if matches is None:
            return None
        places = [each for n, each in enumerate(windows) if each not in windows[:n]]
        parts = [joined([*window.within, *conditions(which)]) for window in places]
        sql = " UNION ALL ".join(
            f"SELECT {n}, reason, count(*) FROM deployments WHERE {each.sql} GROUP BY reason"  # noqa: S608
            for n, each in enumerate(parts)
        )
        found: list[dict[str | None, int]] = [{} for _ in places]
        for n, reason, count in self._all(sql, tuple(value for each in parts for value in each.values)):
            if matches(reason):
                found[n][reason] = count
        return [found[places.index(window)] for window in windows]

    # ---- where to look

    def _windows(self, which: Filter, pages: Sequence[Page]) -> tuple[_Window, _Window]:
        """Where to look for the first and for the last of these pages, found with one statement."""
        sets, states = _sets(which), _rare_states(which)
        parts = [Condition("SELECT '', ARRAY[coalesce(min(id), 0), coalesce(max(id), 0)] FROM deployments")]
        parts += [
            Condition(
                f"SELECT 'set {n}', CASE WHEN count(*) <= {CHOSEN} THEN coalesce(array_agg(id), '{{}}') END"  # noqa: S608
                f" FROM ({each.sql} LIMIT {CHOSEN + 1}) AS set_{n}",
                each.values,
            )
            for n, each in enumerate(sets)
        ]
        parts += [_next_of(state, n, page) for n, page in enumerate(pages) for state in states]
        sql = " UNION ALL ".join(each.sql for each in parts)
        found: dict[str, Any] = dict(self._all(sql, tuple(value for each in parts for value in each.values)))
        numbers = [found[f"set {n}"] for n in range(len(sets))]
        small = next((each for each in numbers if each is not None), None)
        windows = [
            _window(page, found[""], small, [found[f"{state} {n}"] for state in states]) for n, page in enumerate(pages)
        ]
        return windows[0], windows[-1]

    # ---- everything else

    def failed_groups(self, limit: int) -> FailedGroups:
        """Failed deployments by their causes: at most ``limit`` groups."""
        by_reason_ = self._all(
            "SELECT reason, count(*), min(failed_at), max(failed_at), max(id) FROM"
            " (SELECT id, reason, coalesce(settled_at, created_at) AS failed_at FROM deployments"
            " WHERE state = 'failed' ORDER BY id DESC LIMIT %s) AS newest GROUP BY reason",
            (MOST_FAILED + 1,),
        )
        return grouped(by_reason_, limit)

    def names(self, at_most: int = 1_000) -> Names:
        """The environments and the repositories of all deployments, each in order: at most so many of each."""
        # A repository is found once for each environment that it has.
        found = self._all(_NAMES, {"most": at_most})
        environments, repositories = (sorted(name for kind, name in found if kind == which) for which in "er")
        return Names(environments, repositories)

    def per_hour(self, since: int) -> list[Hour]:
        """What was delivered and what failed, from the hour of ``since`` on. Hours without either are left out."""
        found = self._all(
            "SELECT hour * %(ms)s, sum(delivered)::bigint, sum(failed)::bigint FROM"
            " (SELECT hour, delivered, failed FROM hours UNION ALL"
            " SELECT hour, delivered, failed FROM changes WHERE hour IS NOT NULL) AS together"
            " WHERE hour >= %(since)s GROUP BY hour ORDER BY hour",
            {"ms": HOUR_MS, "since": since // HOUR_MS},
        )
        return [Hour(*row) for row in found]

    def recent(self, since: int) -> Recent:
        """How many deployments ended at or after ``since``, by state.

        All are counted by their index. Those of the other states are read.
        """
        parts = [
            f"SELECT '{state}', count(*) FILTER (WHERE ended_at >= %s), count(*) FROM"  # noqa: S608
            f" (SELECT ended_at FROM deployments WHERE state = '{state}' ORDER BY id DESC LIMIT {MOST_RECENT + 1})"
            f" AS of_{state}"
            for state in _OTHERS
        ]
        parts.append("SELECT 'all', count(*), 0 FROM deployments WHERE ended_at >= %s")
        found = self._all(" UNION ALL ".join(parts), (since,) * len(parts))
        counted = {name: n for name, n, _ in found}
        total = counted.pop("all")
        more = any(read > MOST_RECENT for _, _, read in found)
        return Recent(delivered=total - sum(counted.values()), **counted, more=more)


def _is_backwards(page: Page) -> bool:
    return page.before is None and page.after is not None


def _one_of(reasons: list[str | None]) -> Condition:
    some = [each for each in reasons if each is not None]
    return Condition("(reason = ANY(%s::text[]) OR (%s AND reason IS NULL))", (some, None in reasons))


def _rare_states(which: Filter) -> list[State]:
    """The states of the filter if most deployments are in none of them."""
    states = list(dict.fromkeys(which.states))
    return [] if State.DELIVERED in states else states


def _sets(which: Filter) -> list[Condition]:
    """The sets of deployments that an index has for parts of the filter."""
    found = [of_text(which), of_project(which), of_place(which)]
    selects = []
    for given in found:
        each = joined(given)
        if given is found[2] and which.repo_url is not None and which.environment is None:
            selects.append(Condition(_OF_REPOSITORY.format(each.sql), each.values * 2))
        elif given:
            selects.append(Condition(f"SELECT id FROM deployments WHERE {each.sql}", each.values))  # noqa: S608
    return selects


def _next_of(state: State, n: int, page: Page) -> Condition:
    """The next deployments in this state on the page with this number: at most ``CHOSEN``, the nearest first."""
    within, order = joined(bounds(page)), "ASC" if _is_backwards(page) else "DESC"
    return Condition(
        f"SELECT '{state} {n}', coalesce(array_agg(id ORDER BY id {order}), '{{}}') FROM (SELECT id FROM deployments"  # noqa: S608
        f" WHERE state = '{state}' AND {within.sql} ORDER BY id {order} LIMIT {CHOSEN}) AS {state}_{n}",
        within.values,
    )


def _window(page: Page, ends: list[int], small: list[int] | None, of_states: list[list[int]]) -> _Window:
    """``ends``: the lowest and the highest number of all. ``small``: a set; ``of_states``: the next of each state."""
    lowest = max((page.after or 0) + 1, ends[0])
    highest = ends[1] if page.before is None else min(page.before - 1, ends[1])
    if small is not None:
        return _Window(lowest, highest, small, whole=True)
    backwards = _is_backwards(page)
    if of_states:
        # Most deployments are in none of them. Where one list was cut, all end.
        cut = [numbers[-1] for numbers in of_states if len(numbers) == CHOSEN]
        among = [number for numbers in of_states for number in numbers]
        between = (lowest, min([highest, *cut])) if backwards else (max([lowest, *cut]), highest)
        return _Window(*between, among, whole=between == (lowest, highest))
    whole = highest - lowest < WALKED
    if not whole and backwards:
        highest = lowest + WALKED - 1
    elif not whole:
        lowest = highest - WALKED + 1
    return _Window(lowest, highest, None, whole)
