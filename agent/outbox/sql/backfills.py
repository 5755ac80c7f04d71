"""Progress of interrupted backfills."""

from __future__ import annotations

from agent.outbox.sql.base import Part


class Backfills(Part):
    """See :class:`agent.outbox.interface.Backfills`."""

    def backfill_span(self, words: str) -> tuple[int, int] | None:
        """Start and end of the unfinished backfill with these arguments."""
        found = self._one("SELECT since, until FROM backfills WHERE id = ?", (words,))
        return None if found is None else (int(found[0]), int(found[1]))

    def begin_backfill(self, words: str, since: int, until: int) -> None:
        """Store the time span: ``7d`` means the same seven days if resumed tomorrow. Clears finished jobs."""
        with self._writing():
            self._connection.execute("DELETE FROM backfills WHERE id = ?", (words,))
            self._connection.execute("INSERT INTO backfills (id, since, until) VALUES (?, ?, ?)", (words, since, until))

    def backfilled_jobs(self, words: str, controller: str) -> set[str]:
        """The jobs that are finished."""
        found = self._all("SELECT full_name FROM backfilled_jobs WHERE id = ? AND controller = ?", (words, controller))
        return {full_name for (full_name,) in found}

    def note_backfilled_job(self, words: str, controller: str, full_name: str) -> None:
        """Mark a job as finished, unless the whole backfill is finished already."""
        with self._writing():
            self._connection.execute(
                "INSERT INTO backfilled_jobs (id, controller, full_name)"
                " SELECT id, ?, ? FROM backfills WHERE id = ? ON CONFLICT DO NOTHING",
                (controller, full_name, words),
            )

    def end_backfill(self, words: str) -> None:
        """Mark the backfill as finished: the same arguments start a new one."""
        with self._writing():
            self._connection.execute("DELETE FROM backfills WHERE id = ?", (words,))
