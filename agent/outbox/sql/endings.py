"""What became of the build numbers of each job, in ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.model.endings import Ended, Ending, put
from agent.outbox.sql.projects import Projects

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ENDED = ", ".join(Ended.__struct_fields__)
_ANY_NUMBER = 2**62


class Endings(Projects):
    """See :class:`agent.outbox.interface.Cursors`."""

    def endings(self, controller: str, full_name: str) -> list[Ended]:
        """What became of the numbers below the job's cursor, in ranges, the lowest first."""
        return self._endings(controller, full_name)

    def _endings(self, controller: str, full_name: str, first: int = 1, last: int = _ANY_NUMBER) -> list[Ended]:
        found = self._all(
            f"SELECT {_ENDED} FROM endings WHERE {self._of_job} AND first <= ? AND first >="  # noqa: S608
            f" (SELECT coalesce(max(first), 0) FROM endings WHERE {self._of_job} AND first <= ?) ORDER BY first",
            (controller, full_name, last, controller, full_name, first),
        )
        return [Ended(begin, end, Ending(ending), at) for begin, end, ending, at in found if end >= first]

    def _save_endings(self, controller: str, full_name: str, ended: Sequence[Ended]) -> None:
        if not ended:
            return
        first, last = min(each.first for each in ended), max(each.last for each in ended)
        known = self._endings(controller, full_name, first - 1, last + 1)
        self._connection.executemany(
            f"DELETE FROM endings WHERE {self._of_job} AND first = ?",  # noqa: S608
            [(controller, full_name, each.first) for each in known],
        )
        self._insert_endings(controller, full_name, put(known, ended))

    def _insert_endings(self, controller: str, full_name: str, endings: Iterable[Ended]) -> None:
        self._connection.executemany(
            f"INSERT INTO endings (controller, full_name, {_ENDED}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
            [(controller, full_name, each.first, each.last, each.ending.value, each.at) for each in endings],
        )

    def _delete_endings(self, controller: str, full_names: Iterable[str]) -> None:
        self._connection.executemany(
            f"DELETE FROM endings WHERE {self._of_job}",  # noqa: S608
            [(controller, full_name) for full_name in full_names],
        )
