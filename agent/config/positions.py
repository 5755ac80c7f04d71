"""The lines of the keys in a TOML file, which ``tomllib`` does not provide."""

from __future__ import annotations

import re
from collections import Counter

_STRING = r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\''
_TOKEN = re.compile(
    rf"(?P<string>{_STRING})|(?P<comment>#[^\n]*)|(?P<open>[\[{{])|(?P<close>[\]}}])|(?P<end>\n)|.", re.S
)
_NAME = rf"(?:[A-Za-z0-9_-]+|{_STRING})"
_KEY = rf"{_NAME}(?:[ \t]*\.[ \t]*{_NAME})*"
_STATEMENT = re.compile(rf"\s*(?P<brackets>\[\[|\[|)[ \t]*(?P<key>{_KEY})", re.S)
_LAST_PART = re.compile(r"(?:\[\d+\]|\.[^.\[]*|^[^.\[]+)$")


class Positions:
    """The lines of the keys in a valid TOML text. Keys are written like ``jenkins[0].url``."""

    def __init__(self, text: str) -> None:
        self._lines: dict[str, int] = {}
        self._counts: Counter[str] = Counter()
        table = ""
        for line, statement in _statements(text):
            found = _STATEMENT.match(statement)
            if found is None:
                continue
            names = [_unquoted(name) for name in re.findall(_NAME, found["key"], re.S)]
            if found["brackets"]:
                key = table = self._header(names, several=found["brackets"] == "[[")
            else:
                key = _joined(table, ".".join(names))
            self._lines.setdefault(key, line)

    def _header(self, names: list[str], *, several: bool) -> str:
        """The key of a table. A table in an array of tables belongs to the last one so far."""
        key = ""
        for name in names[:-1]:
            key = _joined(key, name)
            key += f"[{self._counts[key] - 1}]" if self._counts[key] else ""
        key = _joined(key, names[-1])
        if several:
            self._counts[key] += 1
            key += f"[{self._counts[key] - 1}]"
        return key

    def line(self, key: str) -> int | None:
        """The line of a key, or of its table if the key is missing. None if both are missing."""
        key = key.partition(", ")[0]
        key = key.strip("[]") if key.startswith("[") else key
        while key:
            if key in self._lines:
                return self._lines[key]
            key, longer = _LAST_PART.sub("", key), key
            if key == longer:
                break
        return None


def tables_of(text: str, name: str) -> str:
    """The part of a TOML text that has the tables of this name, as it is written, with its comments."""
    found, inside = [], False
    for _, statement in _statements(text):
        header = _STATEMENT.match(statement)
        if header is not None and header["brackets"]:
            inside = _unquoted(re.findall(_NAME, header["key"], re.S)[0]) == name
        if inside:
            found.append(statement.strip())
    return "\n".join(f"\n{each}" if each.startswith("[[") else each for each in found).strip()


def _statements(text: str) -> list[tuple[int, str]]:
    """Table headers and assignments, each with its first line. A value can have several lines."""
    found, begin, depth = [], 0, 0
    for token in _TOKEN.finditer(text):
        depth += (token["open"] is not None) - (token["close"] is not None)
        if token["end"] is not None and depth == 0:
            found.append((begin, text[begin : token.start()]))
            begin = token.end()
    found.append((begin, text[begin:]))
    return [(text.count("\n", 0, start) + 1, part) for start, part in found if part.strip()]


def _unquoted(name: str) -> str:
    return name[1:-1] if name[0] in "\"'" else name


def _joined(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key
