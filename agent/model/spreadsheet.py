"""Cells of CSV that are safe to open in a spreadsheet and to print on a terminal."""

from __future__ import annotations

import re

from agent.model.secrets import redact
from agent.model.terminal import printable

# A spreadsheet takes a cell that begins like this for a formula; the last ones, of full width, in some languages.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# In other languages a semicolon ends a cell.
_AFTER_SEMICOLON = re.compile(r"""(;[\s"']*)(?=[=+@\-\uff1d\uff0b\uff0d\uff20])""")


def cell(value: object) -> object:
    """The value of a cell. None is an empty cell; numbers stay as they are.

    Text that a spreadsheet would take for a formula gets an apostrophe in front, also within a cell after a semicolon.
    """
    if value is None or isinstance(value, int):
        return value
    text = _AFTER_SEMICOLON.sub(r"\1'", str(value))
    return printable(redact("'" + text if text.startswith(_FORMULA) else text))
