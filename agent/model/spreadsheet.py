"""Cells of CSV that are safe to open in a spreadsheet and to print on a terminal."""

from __future__ import annotations

from agent.model.secrets import redact
from agent.model.terminal import printable

# A spreadsheet takes a cell that begins like this for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cell(value: object) -> object:
    """The value of a cell. None is an empty cell; numbers stay as they are.

    Text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    if value is None or isinstance(value, int):
        return value
    text = str(value)
    return printable(redact("'" + text if text.startswith(_FORMULA) else text))
