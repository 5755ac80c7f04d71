"""How far the APIs of platforms were read for webhooks that did not arrive."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.outbox.sql.base import Part, upsert
from agent.outbox.values import GapLook

_COLUMNS = "hook, project, stream, begun, at, open, found, looked_at, error"
_SAVE = upsert("webhook_gaps", "hook, project, stream", _COLUMNS.split(", "))


class Gaps(Part):
    """See :class:`agent.outbox.interface.Gaps`."""

    def gap_looks(self) -> list[GapLook]:
        """All of them, in order."""
        rows = self._all(f"SELECT {_COLUMNS} FROM webhook_gaps ORDER BY hook, project, stream")  # noqa: S608
        return [self._look(row) for row in rows]

    def gap_look(self, hook: str, project: str, stream: str) -> GapLook | None:
        """The one of this stream; None if it was never read."""
        row = self._one(
            f"SELECT {_COLUMNS} FROM webhook_gaps WHERE hook = ? AND project = ? AND stream = ?",  # noqa: S608
            (hook, project, stream),
        )
        return None if row is None else self._look(row)

    def save_gap_look(self, look: GapLook) -> None:
        """Insert or replace."""
        values = msgspec.structs.astuple(look)
        with self._writing():
            self._connection.execute(
                _SAVE,
                [msgspec.json.encode(value).decode() if isinstance(value, tuple) else value for value in values],
            )

    def _look(self, row: Any) -> GapLook:
        values = list(row)
        try:
            values[5] = msgspec.json.decode(values[5], type=tuple[str, ...])
        except msgspec.MsgspecError as error:
            raise self._damaged(f"the state of gap repair is not valid: {error}") from error
        return GapLook(*values)
