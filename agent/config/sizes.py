"""Sizes as people write them: ``500MB``, ``5 GB``, ``1.5GiB``."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)},
}
_BY_CASE = {unit.lower(): size for unit, size in _UNITS.items()}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([A-Za-z]+)", re.ASCII)
# SQLite's own limit is lower.
_LARGEST = 2**50


def parse_size(text: str) -> int:
    """Bytes. KB, MB, GB and TB are powers of 1000; KiB, MiB, GiB and TiB are powers of 1024.

    Raises :class:`ValueError` with the reason.
    """
    found = _SIZE.fullmatch(text.strip())
    unit = None if found is None else _BY_CASE.get(found[2].lower())
    if found is None or unit is None:
        raise ValueError(f"{text!r} is not a size; write it like 500MB, 5GB or 5GiB")
    size = Decimal(found[1]) * unit
    if size > _LARGEST:
        raise ValueError(f"{text!r} is larger than an outbox can be")
    return int(size)


def describe_size(size: int) -> str:
    """A size for people, in powers of 1000 with at most one decimal: ``812.4 MB``."""
    for unit in ("TB", "GB", "MB", "KB"):
        if size >= _UNITS[unit]:
            return f"{size / _UNITS[unit]:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size} B"
