"""An agent of a later version: ``python -m tests.postgresql.newer_version SINCE run …``.

Its tables have one more column. SINCE: the oldest version of the tables whose agents can work with them.
"""

from __future__ import annotations

import sys

from agent.main import main
from agent.outbox.postgresql import migrations

if __name__ == "__main__":
    LATER = migrations.VERSION + 1
    SCRIPT = (
        f"-- Agents work with these tables from version {int(sys.argv.pop(1))} on.\n"
        "ALTER TABLE deployments ADD COLUMN of_a_later_version text"
    )
    known = migrations._scripts()
    migrations.VERSION = LATER
    migrations._scripts = lambda: [*known, (LATER, SCRIPT)]
    main()
