"""Making foreign text safe for a terminal: characters that control it or reorder text are escaped."""

from __future__ import annotations

import io
import sys

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str, *, lines: bool = False) -> str:
    r"""The text with escapes such as ``\u001b`` for unsafe characters.

    These are control characters (C0, C1), bidirectional marks, other invisible characters, and lone surrogates.
    ``lines``: keep line ends. The escapes are JSON's, so that a JSON document keeps its meaning.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or (lines and each == "\n") else escaped(each) for each in text)


def escaped(letter: str) -> str:
    """One character as an ASCII JSON escape."""
    if letter in _SHORT:
        return _SHORT[letter]
    code = ord(letter)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def take_any_text() -> None:
    """Print characters that the terminal's encoding lacks as escapes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
