"""Cells of CSV that must not become formulas, in spreadsheets of any language."""

from __future__ import annotations

import pytest

from agent.model.spreadsheet import cell


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\\t=1"),
        ("\r=1", "'\\r=1"),
        ("\n=1", "\\n=1"),
        ("\u200b=1", "\\u200b=1"),
        ("\uff1d1", "'\uff1d1"),
        # A semicolon ends a cell where a comma is the decimal separator, whatever quotes there are.
        ("deploy;=1+1", "deploy;'=1+1"),
        ("a; =1;@b", "a; '=1;'@b"),
        ('a;"=1', "a;\"'=1"),
        ("a;b=c-d@e+f", "a;b=c-d@e+f"),
        ("a=1", "a=1"),
        (-1, -1),
        (None, None),
        (True, True),
    ],
)
def test_no_cell_is_taken_for_a_formula(value: object, shown: object) -> None:
    assert cell(value) == shown
