"""Storing facts and deployments."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from agent.outbox import rows
from agent.outbox.sql import deployments
from agent.outbox.sql.deployments import adds
from agent.outbox.sqlite import inserting
from agent.outbox.sqlite.loading import Loading

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.model.deployment import Deployment
    from agent.outbox.values import Change

_OWNER = (
    "SELECT coalesce(build_started_at, started_at), id FROM deployments WHERE deployment_id = ?"
    " UNION ALL SELECT started_at, 0 FROM forgotten WHERE id_hash = ?"
)


class Deployments(Loading, deployments.Deployments):
    """See :class:`agent.outbox.interface.Deployments`."""

    # ---- store

    def store(self, changes: Sequence[Change]) -> dict[str, int]:
        """See the base."""
        with self._writing():
            if self.max_size and any(map(adds, changes)):
                self._refuse_when_full()
            self._note_due(changes)
            refused = dict[str, int]()
            for change in changes:
                if change.removed or change.rewritten:
                    refused |= self._remove_and_rewrite(change)
            known, made = self._known_project_ids(), self._made_project_id
            self._connection.executemany(
                inserting.INSERT_FACT,
                (
                    rows.fact_row(fact, known.get(fact.run.project) or made(fact.run.project))
                    for change in changes
                    for fact in change.facts
                ),
            )
            inserted = [deployment for change in changes for deployment in change.inserted]
            return refused | self._insert(inserted) if inserted else refused

    def _insert(self, inserted: Sequence[Deployment]) -> dict[str, int]:
        """Returns the ids that were not free, each with the start of the build of the deployment that has or had it."""
        now, known, made = self.clock.now_ms(), self._known_project_ids(), self._made_project_id
        values = (
            inserting.insertion(each, known.get(each.run.project) or made(each.run.project), now) for each in inserted
        )
        sql, n = inserting.INSERT_DEPLOYMENT, 0
        if self._one("SELECT 1 FROM forgotten LIMIT 1"):
            hashes = [_hash(each.deployment_id) for each in inserted]
            values = ((*row, digest) for row, digest in zip(values, hashes, strict=True))
            sql = inserting.INSERT_UNLESS_FORGOTTEN
        for count, alike in groupby(values, len):
            n += self._connection.executemany(sql[count], alike).rowcount
        if n == len(inserted):
            return {}
        newest = self._all("SELECT deployment_id FROM deployments ORDER BY id DESC LIMIT ?", (n,))
        new = {name for (name,) in newest if name is not None}
        return self._refused(inserted, new)

    def _owners(self, names: Iterable[str]) -> dict[str, tuple[int, int]]:
        return {name: self._one(_OWNER, (name, rows.id_hash(name))) for name in names}

    # ---- the size limit

    def size(self) -> int:
        """Bytes used by data, without free pages."""
        pages, free, page = (self._one(f"PRAGMA {name}")[0] for name in ("page_count", "freelist_count", "page_size"))
        return int((pages - free) * page)


def _hash(deployment_id: str | None) -> bytes | None:
    return None if deployment_id is None else rows.id_hash(deployment_id)
