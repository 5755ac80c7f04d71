"""CSV on standard output."""

from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING

from agent.model.spreadsheet import cell

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def write_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a header and one line for each row; see :func:`agent.model.spreadsheet.cell`."""
    lines = csv.writer(sys.stdout, lineterminator="\n")
    lines.writerow(columns)
    lines.writerows([cell(each) for each in row] for row in rows)
