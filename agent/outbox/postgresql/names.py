"""Names in SQL. Indexes have the keys of names (``name_key`` in the migrations), so conditions must use keys too."""

from __future__ import annotations


def named(column: str, value: str = "%s") -> str:
    """The condition that a column has this name."""
    return f"name_key({column}) = name_key({value})"


# So many characters of a name begin its key.
KEY_BEGIN = 255
