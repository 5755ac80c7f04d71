"""The secrets of this process, and redaction. All text that is stored, logged, printed or answered is redacted here.

Servers may return a secret in another spelling: in a redirect, in an error message, in JSON or HTML, in a Basic
authorization. So text is searched both unchanged and with its escapes decoded.
"""

from __future__ import annotations

import re
import string
import threading
import traceback
from base64 import b64encode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HIDDEN = "***"
# Shorter secrets are not redacted: that would hide nothing and damage normal text.
SHORTEST = 4
# Nested escapes such as `%2520` are decoded this many times, so that the work does not grow with the text.
_DEEP = 4
_BASE64 = frozenset(string.ascii_letters + string.digits + "+/-_")
# The first character of an escape and its pattern: URLs, JSON and Python's `repr`, HTML.
_ESCAPES = {
    "%": r"%([0-9A-Fa-f]{2})",
    "\\": r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|U([0-9A-Fa-f]{8})|([\\\"'/nrt]))",
    "&": r"&(?:#[xX]([0-9A-Fa-f]{1,8});?|#([0-9]{1,9});?|(amp|lt|gt|quot|apos);?|([A-Za-z]{2,8});)",
}
_EACH = {begin: re.compile(escape) for begin, escape in _ESCAPES.items()}
_ALL = re.compile("|".join(_ESCAPES.values()))
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


class Secrets:
    """Secrets are never removed: an old token may still appear in a late answer."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        # Longest first: a secret may be part of another one, and then the rest of the longer one must not remain.
        self._forms: tuple[tuple[str, bool], ...] = ()
        self._lock = threading.Lock()

    def know(self, secret: str) -> None:
        """Redact this from now on, unless it is shorter than :data:`SHORTEST`."""
        if len(secret) < SHORTEST or secret in self._known:
            return
        with self._lock:
            self._known.add(secret)
            forms = {
                *self._forms,
                *((form, False) for form in _forms(secret)),
                *((b, True) for b in _in_base64(secret)),
            }
            self._forms = tuple(sorted(forms, key=lambda form: (-len(form[0]), form)))

    def redact(self, text: str) -> str:
        """The text with ``***`` for each secret, in any common spelling."""
        present = [escape for begin, escape in _EACH.items() if begin in text]
        # All kinds of escapes together, because they may be nested; and each alone, because text may only look like an
        # escape.
        for escape in (_ALL, *(present if len(present) > 1 else ())) if present else ():
            while (spans := self._escaped_spans(text, escape)) is not None:
                text = _without(text, spans)
        return _without(text, self._spans(text))

    def _spans(self, text: str) -> list[tuple[int, int]]:
        found = []
        for form, is_base64 in self._forms:
            first = text.find(form)
            while first >= 0:
                last = first + len(form)
                if is_base64:  # redact the whole word around it
                    while first > 0 and text[first - 1] in _BASE64:
                        first -= 1
                    while last < len(text) and (text[last] in _BASE64 or text[last] == "="):
                        last += 1
                found.append((first, last))
                first = text.find(form, last)
        return found

    def _escaped_spans(self, text: str, escape: re.Pattern[str]) -> list[tuple[int, int]] | None:
        """The spans of secrets that appear when escapes are decoded, once or repeatedly; None if there are none."""
        undone = text
        for depth in range(1, _DEEP + 1):
            before, undone = undone, escape.sub(_letter, undone)
            if undone == before:
                return None
            if spans := self._spans(undone):
                for origin in reversed(_origins(text, escape, depth)):
                    spans = [(origin[first], origin[last]) for first, last in spans]
                return spans
        return None


_secrets = Secrets()
know = _secrets.know
redact = _secrets.redact


def trace(error: BaseException) -> str:
    """The traceback of an exception, redacted and as text that can be stored."""
    return redact("".join(traceback.format_exception(error))).encode("utf-8", "backslashreplace").decode()


def _without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    kept: list[str] = []
    end = 0
    for first, last in sorted(spans):
        if first >= end:
            kept += text[end:first], HIDDEN
        end = max(end, last)
    return "".join((*kept, text[end:]))


# ---- spellings of a secret


def _forms(secret: str) -> Iterator[str]:
    """The secret itself; its bytes read as Latin-1; and each with apparent escapes decoded."""
    octets = secret.encode("utf-8", "surrogatepass")
    in_pairs = secret.encode("utf-16-be", "surrogatepass")
    pairs = (chr(int.from_bytes(in_pairs[i : i + 2], "big")) for i in range(0, len(in_pairs), 2))
    for form in (secret, octets.decode("latin-1"), "".join(pairs), secret.replace(" ", "+")):
        yield form
        for escape in (*_EACH.values(), _ALL):
            undone = form
            for _ in range(_DEEP):
                undone = escape.sub(_letter, undone)
                if len(undone) >= SHORTEST:
                    yield undone


def _in_base64(secret: str) -> Iterator[str]:
    """The parts that appear in the base64 of any text that contains the secret, for each offset modulo three."""
    for octets in {secret.encode("utf-8", "surrogatepass"), secret.encode("latin-1", "ignore")}:
        for before in range(3):
            encoded = b64encode(b"\0" * before + octets).decode()
            core = encoded[-(-before * 8 // 6) : (before + len(octets)) * 8 // 6]
            if len(core) >= SHORTEST:
                yield from (core, core.translate(str.maketrans("+/", "-_")))


# ---- escapes


def _letter(escape: re.Match[str]) -> str:
    """The character for an escape; the escape itself if it is invalid."""
    whole, told = escape[0], escape[escape.lastindex or 0]
    if told in _LETTERS:
        return _LETTERS[told]
    if whole[0] == "%" or whole[1] in "uxU" or whole[1:3] in ("#x", "#X"):
        code = int(told, 16)
    elif whole[1] == "#":
        code = int(told)
    elif whole[0] == "\\":
        return told
    else:
        from html.entities import name2codepoint  # noqa: PLC0415 - a large table that is hardly ever needed

        code = name2codepoint.get(told, -1)
    return chr(code) if 0 <= code < 0x110000 else whole


def _origins(text: str, escape: re.Pattern[str], depth: int) -> list[list[int]]:
    """For each round of decoding: the original position of each decoded character, and the end."""
    made = []
    for _ in range(depth):
        origin: list[int] = []
        letters: list[str] = []
        end = 0
        for found in escape.finditer(text):
            letter = _letter(found)
            letters += text[end : found.start()], letter
            origin += range(end, found.start())
            origin += [found.start()] if letter != found[0] else range(found.start(), found.end())
            end = found.end()
        origin += range(end, len(text) + 1)
        letters.append(text[end:])
        text = "".join(letters)
        made.append(origin)
    return made
