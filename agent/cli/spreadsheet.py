"""CSV that is safe to open in a spreadsheet and to print on a terminal."""

from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING

from agent.model.secrets import redact
from agent.model.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# A spreadsheet takes a cell that begins like this for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a header and one line for each row. None is an empty cell.

    Text that a spreadsheet would take for a formula gets an apostrophe in front. Numbers stay as they are.
    """
    lines = csv.writer(sys.stdout, lineterminator="\n")
    lines.writerow(columns)
    lines.writerows([_cell(each) for each in row] for row in rows)


def _cell(value: object) -> object:
    if value is None or isinstance(value, int):
        return value
    text = str(value)
    return printable(redact("'" + text if text.startswith(_FORMULA) else text))
