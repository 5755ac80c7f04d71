"""The statements that insert facts and deployments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.outbox.rows import FACT_COLUMNS, GIVEN, INSERTED, USUALLY, deployment_row

if TYPE_CHECKING:
    from agent.model.deployment import Deployment

INSERT_FACT = f"INSERT INTO facts ({FACT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
_AS_USUAL = tuple(USUALLY.values())


def _insert(given: tuple[str, ...], *, unless_forgotten: bool = False) -> str:
    """The INSERT statement; columns that are not given have their usual values.

    These are in the SQL, because sqlite3 binds a NULL more slowly than a text.
    """
    values = dict.fromkeys(given, "?") | {
        name: f"'{value}'" if isinstance(value, str) else str(value)
        for name, value in USUALLY.items()
        if name not in given and value is not None
    }
    source = f"SELECT {', '.join(values.values())} WHERE NOT EXISTS (SELECT 1 FROM forgotten WHERE id_hash = ?)"  # noqa: S608
    source = source if unless_forgotten else f"VALUES ({', '.join(values.values())})"
    return f"INSERT INTO deployments ({', '.join(values)}) {source} ON CONFLICT (deployment_id) DO NOTHING"


# By the number of values. Inserts nothing if another deployment has the id.
INSERT_DEPLOYMENT = {len(given): _insert(given) for given in (GIVEN, INSERTED)}
# The same, also if a deleted deployment had the id; slower. The last value is ``id_hash`` of the id.
INSERT_UNLESS_FORGOTTEN = {len(given) + 1: _insert(given, unless_forgotten=True) for given in (GIVEN, INSERTED)}


def insertion(deployment: Deployment, project_id: int, now: int) -> tuple[object, ...]:
    """The values for ``INSERT_DEPLOYMENT``; see :func:`deployment_row`."""
    values = deployment_row(deployment, project_id, now)
    given = len(GIVEN)
    return values[:given] if values[given:] == _AS_USUAL else values
