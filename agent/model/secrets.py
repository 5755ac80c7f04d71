"""The secrets that this process holds, and text without them: what is stored, logged, printed or answered passes here.

Others may send a secret back in other spellings than it was sent: in a redirect, in the words of an error, in JSON or
HTML, as a part of a Basic authorization. So it is looked for in the text as it is and with its escapes undone.
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
# Shorter ones hide nothing, and would take words out of everything that is said.
SHORTEST = 4
# Escapes of escapes, such as `%2520`, so deep and no deeper: what is looked for must not grow with the text.
_DEEP = 4
_BASE64 = frozenset(string.ascii_letters + string.digits + "+/-_")
# What begins an escape, and all of it: of URLs, of JSON and Python's `repr`, of HTML.
_ESCAPES = {
    "%": r"%([0-9A-Fa-f]{2})",
    "\\": r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|U([0-9A-Fa-f]{8})|([\\\"'/nrt]))",
    "&": r"&(?:#[xX]([0-9A-Fa-f]{1,8});?|#([0-9]{1,9});?|(amp|lt|gt|quot|apos);?|([A-Za-z]{2,8});)",
}
_EACH = {begin: re.compile(escape) for begin, escape in _ESCAPES.items()}
_ALL = re.compile("|".join(_ESCAPES.values()))
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


class Secrets:
    """Grows only: what was a token may still be in an answer that comes late."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        # The longest first: one may be part of another, and then the rest of that one must not be left.
        self._forms: tuple[tuple[str, bool], ...] = ()
        self._lock = threading.Lock()

    def know(self, secret: str) -> None:
        """Take this out of every text from now on, unless it is shorter than :data:`SHORTEST`."""
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
        """The text with ``***`` in the place of each secret, in whatever usual spelling."""
        present = [escape for begin, escape in _EACH.items() if begin in text]
        # All kinds of escapes together, for one may be in another; and each alone, for it may only look like one.
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
                if is_base64:  # what stands beside it in the same word belongs to it
                    while first > 0 and text[first - 1] in _BASE64:
                        first -= 1
                    while last < len(text) and (text[last] in _BASE64 or text[last] == "="):
                        last += 1
                found.append((first, last))
                first = text.find(form, last)
        return found

    def _escaped_spans(self, text: str, escape: re.Pattern[str]) -> list[tuple[int, int]] | None:
        """Where secrets are that show when escapes are undone, once or several times; None: nowhere."""
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
    """The trace of an exception as it is kept: without secrets, and as text that can be stored."""
    return redact("".join(traceback.format_exception(error))).encode("utf-8", "backslashreplace").decode()


def _without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    kept: list[str] = []
    end = 0
    for first, last in sorted(spans):
        if first >= end:
            kept += text[end:first], HIDDEN
        end = max(end, last)
    return "".join((*kept, text[end:]))


# ---- how a secret may be written


def _forms(secret: str) -> Iterator[str]:
    """As it is; as octets that were taken for letters; and each with what looks like escapes in it undone."""
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
    """What of it shows in the base64 of any text that contains it: that depends on where it begins, modulo three."""
    for octets in {secret.encode("utf-8", "surrogatepass"), secret.encode("latin-1", "ignore")}:
        for before in range(3):
            encoded = b64encode(b"\0" * before + octets).decode()
            core = encoded[-(-before * 8 // 6) : (before + len(octets)) * 8 // 6]
            if len(core) >= SHORTEST:
                yield from (core, core.translate(str.maketrans("+/", "-_")))


# ---- escapes


def _letter(escape: re.Match[str]) -> str:
    """What an escape stands for; itself, if for nothing."""
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
    """For each time that escapes are undone: where each letter of what comes out was before, and the end."""
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
