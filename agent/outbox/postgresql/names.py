"""Names in SQL. Indexes have the keys of names (``name_key`` in the migrations), so conditions must use keys too."""

from __future__ import annotations

JOB_KEY = "controller, name_key(full_name)"
"""What makes a row of a job unique, for ON CONFLICT."""


def named(column: str, value: str = "%s") -> str:
    """The condition that a column has this name."""
    return f"name_key({column}) = name_key({value})"


def one_of(column: str) -> str:
    """The condition that a column has one of the names of an array."""
    return f"name_key({column}) = ANY(ARRAY(SELECT name_key(each) FROM unnest(%s::text[]) AS each))"  # noqa: S608


# So many characters of a name begin its key.
KEY_BEGIN = 255
OF_JOB = f"controller = %s AND {named('full_name')}"
OF_JOBS = f"controller = %s AND {one_of('full_name')}"
