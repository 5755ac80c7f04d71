"""Text from elsewhere for a terminal: what would steer it, or reorder what it shows, is written as an escape."""

from __future__ import annotations

import io
import sys

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str, *, lines: bool = False) -> str:
    r"""The text with ``\u001b`` and the like for control characters (C0, C1), marks that turn the direction of writing,
    other characters that cannot be seen, and halves of surrogate pairs.

    ``lines``: ends of lines stay. The escapes are JSON's, so that a JSON document says the same as before.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or (lines and each == "\n") else escaped(each) for each in text)


def escaped(letter: str) -> str:
    """One character as JSON writes it in ASCII."""
    if letter in _SHORT:
        return _SHORT[letter]
    code = ord(letter)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def take_any_text() -> None:
    """Let no letter that the terminal's encoding has not end a verb: it is shown as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
