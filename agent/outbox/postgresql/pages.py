"""Queries for the web pages: each reads a limited number of rows, however many there are.

A filter that an index has a small set for reads this set. Any other filter walks through the deployments in the order
of their numbers, and ends the page after so many rows: the page then has the number where to continue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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
        """The same as ``query``, but it may stop before the page is full and returns where to continue."""
        backwards = page.before is None and page.after is not None
        window = self._window(which, page, backwards=backwards)
        found = self._matching(which, window.within, page.limit + 1, backwards=backwards)
        full = len(found) > page.limit
        shown = tuple(found[: page.limit])
        # Where to go on: after the last one that is shown, or where the window ended.
        beyond = shown[-1].number if full else None
        if not full and not window.whole:
            beyond = window.highest if backwards else window.lowest
        back = shown[0].number if shown else None
        older, newer = beyond, None if page.before is None else back or page.before - 1
        if backwards:
            shown, older, newer = shown[::-1], back or (page.after or 0) + 1, beyond
        count = self._count(which, count_to) if count_to else NOT_COUNTED
        return Found(shown, older, newer, complete=full or window.whole, count=count)

    def _count(self, which: Filter, at_most: int) -> Counted:
        """How many deployments match. It counts to ``at_most``, and stops earlier if it reads too many others."""
        given, matches = conditions(which), by_reason(which)
        if matches is None and len(given) == bool(which.states):
            counts = self.counts()
            n = sum(getattr(counts, state.value) for state in dict.fromkeys(which.states) or State)
            return Counted(min(n, at_most), n > at_most)
        window = self._window(which, Page(), backwards=False)
        wanted = joined([*window.within, *given])
        if matches is None:
            sql = f"SELECT count(*) FROM (SELECT FROM deployments WHERE {wanted.sql} LIMIT %s) AS found"  # noqa: S608
            n = int(self._one(sql, (*wanted.values, at_most + 1))[0])
        else:
            sql = f"SELECT reason, count(*) FROM deployments WHERE {wanted.sql} GROUP BY reason"  # noqa: S608
            n = sum(count for reason, count in self._all(sql, wanted.values) if matches(reason))
        return Counted(min(n, at_most), n > at_most or not window.whole)

    # ---- where to look

    def _window(self, which: Filter, page: Page, *, backwards: bool) -> _Window:
        oldest, newest = self._one("SELECT coalesce(min(id), 0), coalesce(max(id), 0) FROM deployments")
        lowest = max((page.after or 0) + 1, oldest)
        highest = newest if page.before is None else min(page.before - 1, newest)
        for some in self._sets(which):
            found = self._all(f"SELECT id FROM deployments WHERE {some.sql} LIMIT {CHOSEN + 1}", some.values)  # noqa: S608
            if len(found) <= CHOSEN:
                return _Window(lowest, highest, [number for (number,) in found], whole=True)
        if which.states and State.DELIVERED not in which.states:
            return self._of_states(which, page, (lowest, highest), backwards=backwards)
        whole = highest - lowest < WALKED
        if not whole and backwards:
            highest = lowest + WALKED - 1
        elif not whole:
            lowest = highest - WALKED + 1
        return _Window(lowest, highest, None, whole)

    def _sets(self, which: Filter) -> list[Condition]:
        """The sets of deployments that an index has for parts of the filter."""
        found = [joined(of_text(which)), joined(of_project(which))]
        if place := of_place(which):
            if which.environment is None and which.repo_url is not None:
                sql = f"WITH RECURSIVE {_ENVIRONMENTS} SELECT e FROM e WHERE e IS NOT NULL LIMIT %s"  # noqa: S608
                names = [name for (name,) in self._all(sql, (_MOST_PLACES,))]
                place.append(Condition(f"({_E} = ANY(%s) OR {_E} IS NULL)", (names,)))
            found.append(joined(place))
        return [each for each in found if each.values]

    def _of_states(self, which: Filter, page: Page, between: tuple[int, int], *, backwards: bool) -> _Window:
        """The next deployments in these states, of each state at most ``CHOSEN``: most are in none of them."""
        lowest, highest = between
        within, among = joined(bounds(page)), list[int]()
        for state in dict.fromkeys(which.states):
            found = self._all(
                f"SELECT id FROM deployments WHERE state = %s AND {within.sql}"  # noqa: S608
                f" ORDER BY id {'ASC' if backwards else 'DESC'} LIMIT {CHOSEN}",
                (state.value, *within.values),
            )
            numbers = [number for (number,) in found]
            among += numbers
            if len(numbers) == CHOSEN and backwards:
                highest = min(highest, numbers[-1])
            elif len(numbers) == CHOSEN:
                lowest = max(lowest, numbers[-1])
        return _Window(lowest, highest, among, whole=(lowest, highest) == between)

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
