"""Redacting a configuration file, line by line, so that it also works for a file that is not valid TOML.

Values of known keys are kept. Comments are removed, and values of unknown keys are hidden: one of them can be a token.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from agent.config import tables
from agent.model.secrets import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The keys of these tables are chosen by the user.
_FREE_TABLES = ("environments", "status", "intake.teams")
_KEYS = frozenset(
    field.name
    for table in vars(tables).values()
    if isinstance(table, type) and issubclass(table, msgspec.Struct)
    for field in msgspec.structs.fields(table)
)
_HEADER = re.compile(r"\s*\[\[?\s*([\w.\"' -]+?)\s*\]\]?\s*$")
_ASSIGNMENT = re.compile(r"(\s*)([\w.\"'-]+)(\s*=\s*)(.*)$")
_MORE_OF_A_LIST = re.compile(r"[\s\[\],]*(?:(?:\"[^\"]*\"|'[^']*')[\s\[\],]*)*$")
_USER = re.compile(r"(?<=://)[^/@\s\"']+@")
_TEXT = re.compile(r"\"([^\"]*)\"|'([^']*)'")
# Keys with the name of a file that has a secret, and such keys of inline tables.
_OF_A_SECRET = re.compile(r"(?:\w+_)?(?:token|password|secret|url)_files?")
_INNER_SECRET = re.compile(r"""\b(?:\w+_)?(?:token|password|secret|url)_file\s*=\s*("[^"]*"|'[^']*')""")
# Keys of inline tables, as in ``shop = {token_file = "shop.token"}``.
_INNER_KEY = re.compile(r"([\w-]+)\s*=")


def without_values(text: str, folder: Path) -> str:
    """The redacted text, with the same lines. ``folder``: the folder of relative paths in the file."""
    return "".join(f"{shown}\n" for shown, _ in _lines(text, folder))


def hidden_values(text: str, folder: Path) -> Iterator[str]:
    """The values that :func:`without_values` hides, without comments."""
    for _, hidden in _lines(text, folder):
        yield from hidden


def _lines(text: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each redacted line, with the values that are hidden in it."""
    table, kept = "", False  # ``kept``: the list that continues in the next lines is shown
    for whole in text.splitlines():
        line = _without_comment(whole)
        if header := _HEADER.match(line):
            table, kept = header[1], False
            yield line, []
        elif assignment := _ASSIGNMENT.match(line):
            value = assignment[4]
            kept = _is_known(assignment[2], value, table) and '"""' not in line and "'''" not in line
            kept &= not (_OF_A_SECRET.fullmatch(assignment[2]) and value == "[")  # the list can have secrets
            secrets = _pasted(assignment[2], value, table, folder) if kept else _texts(value)
            if kept and not secrets:
                yield _USER.sub(f"{HIDDEN}@", line), [found[:-1] for found in _USER.findall(line)]
            else:
                yield "".join(assignment.group(1, 2, 3)) + f'"{HIDDEN}"', secrets
        elif kept and _MORE_OF_A_LIST.match(line):
            yield _USER.sub(f"{HIDDEN}@", line), []
        else:
            yield (f"# {HIDDEN}" if line.strip() else ""), _texts(line)


def _is_known(key: str, value: str, table: str) -> bool:
    inner = _INNER_KEY.findall(_TEXT.sub("", value)) if "{" in value else []
    free = table in _FREE_TABLES or key in ("teams", *_FREE_TABLES)
    return (free or key in _KEYS) and (key in ("teams", *_FREE_TABLES) or all(each in _KEYS for each in inner))


def _pasted(key: str, value: str, table: str, folder: Path) -> list[str]:
    """Secrets that were written in place of a file name."""
    if _OF_A_SECRET.fullmatch(key) or key == "teams" or table == "intake.teams":
        texts = _texts(value)
    else:
        texts = [text[1:-1] for text in _INNER_SECRET.findall(value)]
    return [
        each for each in texts if each and ("://" in each or not ({"/", "."} & set(each) or (folder / each).exists()))
    ]


def _texts(value: str) -> list[str]:
    """The quoted texts, or else the whole text."""
    found = [first or second for first, second in _TEXT.findall(value)]
    return [each for each in found or [value.strip().strip("\"'")] if each]


def _without_comment(line: str) -> str:
    quote = ""
    for place, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter == "#":
            return line[:place].rstrip()
    return line.rstrip()
