"""Queries for the web pages: each reads a limited number of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.model.causes import cause_of
from agent.model.deployment import State
from agent.outbox.sqlite.looking import Looking
from agent.outbox.values import Counted, FailedGroup, FailedGroups, Found, Hour, Page, Recent

if TYPE_CHECKING:
    from agent.outbox.values import Filter

HOUR_MS = 3_600_000
# The failed deployments that are grouped: the newest ones.
MOST_FAILED = 10_000


class Pages(Looking):
    """See :class:`agent.outbox.interface.Pages`."""

    def search(self, which: Filter, page: Page) -> Found:
        """The same as ``query``, but it may stop before the page is full and returns where to continue."""
        more = Page(page.limit + 1, page.before, page.after)
        found = self.query(which, more)
        backwards = page.before is None and page.after is not None
        there_are_more = len(found) > page.limit
        shown = (found[1:] if backwards else found[:-1]) if there_are_more else found
        if not shown:
            return Found((), older=page.after and page.after + 1, newer=page.before and page.before - 1)
        older, newer = shown[-1].number, shown[0].number
        if backwards:
            return Found(tuple(shown), older, newer if there_are_more else None)
        return Found(tuple(shown), older if there_are_more else None, None if page.before is None else newer)

    def count(self, which: Filter, at_most: int) -> Counted:
        """How many deployments match. It counts to ``at_most``, and stops earlier if it reads too many others."""
        n = len(self.query(which, Page(at_most + 1)))
        return Counted(min(n, at_most), n > at_most)

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
        found = self._all(
            "SELECT DISTINCT environment FROM deployments WHERE environment > '' ORDER BY 1 LIMIT ?", (at_most,)
        )
        return [name for (name,) in found]

    def repositories(self, environment: str | None = None, at_most: int = 1_000) -> list[str]:
        """The repositories of all deployments, or of those of one environment, in order."""
        found = self._all(
            "SELECT DISTINCT repo_url FROM deployments WHERE repo_url > '' AND environment IS coalesce(?,"
            " environment) ORDER BY 1 LIMIT ?",
            (environment, at_most),
        )
        return [name for (name,) in found]

    def per_hour(self, since: int) -> list[Hour]:
        """What was delivered and what failed, from the hour of ``since`` on. Hours without either are left out."""
        found = self._all(
            "SELECT settled_at / ?1 * ?1 AS hour, sum(state = 'delivered'), sum(state = 'failed') FROM deployments"
            " WHERE state IN ('delivered', 'failed') AND settled_at >= ?2 / ?1 * ?1 GROUP BY hour ORDER BY hour",
            (HOUR_MS, since),
        )
        return [Hour(*row) for row in found]

    def recent(self, since: int) -> Recent:
        """How many deployments ended at or after ``since``, by state."""
        sql = "SELECT state, count(*) FROM deployments WHERE ended_at >= ? GROUP BY state"
        by_state = dict(self._all(sql, (since,)))
        return Recent(**{state.value: by_state.get(state.value, 0) for state in State})


def _together(one: FailedGroup, other: FailedGroup) -> FailedGroup:
    newest = max(one, other, key=lambda each: each.newest)
    times = min(one.first_at, other.first_at), max(one.last_at, other.last_at)
    return FailedGroup(one.cause, one.n + other.n, *times, newest.newest, newest.reason)
