"""Expressions of the configuration that others can keep busy: tried out on names that are made to be hard for them.

Python's engine goes back and tries again, for ever if an expression lets it: ``(a+)+$`` needs twice the time for each
more ``a`` of a name. While it does nothing else runs, in any thread. So a process of its own tries, and each name has a
bound on the time of the processor, which a match that grows with the square of the longest name is far below.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from agent.config.file import ConfigError
from agent.inspect.suspicious import patterns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config.rules import Pattern
    from agent.config.settings import Settings

# What the trial may take for one name, in seconds of the processor, and for all of them together on the clock.
_SECONDS = 1.0
_PATIENCE_S = 60
# Repetitions within repetitions show with few, those beside each other only with a name that is as long as any may be.
_FEW = 40
_LONGEST_NAME = 2_000
# What the classes of characters stand for, and what separates words.
_SAMPLES = ("a", "A", "0", "_", "-", "/", ".", " ", "é", "a/", "a-", "a ", "a0", "aA", "a.")
_MOST_LITERALS = 12

# The engine looks for signals while it works; the exception of this one ends the match.
_TRIAL = """
import json, re, signal, sys

class TooLongError(Exception):
    pass

def over(*_):
    raise TooLongError

task = json.load(sys.stdin)
expression = re.compile(task["expression"])
signal.signal(signal.SIGVTALRM, over)
for name in task["names"]:
    signal.setitimer(signal.ITIMER_VIRTUAL, task["seconds"])
    try:
        expression.search(name)
    except TooLongError:
        print(json.dumps(name))
        break
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
"""


@dataclass(frozen=True)
class Busy:
    """A pattern that a name can keep busy. ``place``: where it is in the configuration. ``name``: that name.

    ``endless``: a name of a few characters is enough, and each more character doubles the time.
    """

    place: str
    pattern: Pattern
    name: str

    @property
    def endless(self) -> bool:
        return len(self.name) < _LONGEST_NAME // 2

    def __str__(self) -> str:
        advice = "write it without repetitions within repetitions" if self.endless else "use fewer * and .*"
        return (
            f"{self.place}: {self.pattern.text!r} takes more than {_SECONDS:g} s for a name of {len(self.name)} "
            f"characters like {self.name[:30]!r}…, and the agent does nothing else meanwhile; {advice}"
        )


def busy(settings: Settings) -> Iterator[Busy]:
    """The patterns that a name can keep busy for more than a second."""
    for place, pattern in patterns(settings):
        name = hard_name(pattern, _FEW) or hard_name(pattern, _LONGEST_NAME)
        if name is not None:
            yield Busy(place, pattern, name)


def refuse_endless(settings: Settings) -> None:
    """Refuse patterns that a short name keeps busy without end: one such name would stop the agent for good.

    Raises :class:`agent.config.file.ConfigError`.
    """
    found = [
        str(Busy(place, pattern, name))
        for place, pattern in patterns(settings)
        if (name := hard_name(pattern, _FEW)) is not None
    ]
    if found:
        raise ConfigError("\n".join(f"{settings.file}: {each}" for each in found))


def hard_name(pattern: Pattern, length: int = _LONGEST_NAME) -> str | None:
    """A name of about ``length`` characters that keeps the expression busy for more than a second; None: none found."""
    expression = pattern.expression.pattern
    if sum(map(expression.count, "*+{")) < 2 and not re.search(r"\)[*+{]", expression):
        return None  # with one repetition of one character it is the square of the name's length at most
    task = {"expression": expression, "names": list(_names(expression, length)), "seconds": _SECONDS}
    try:
        done = subprocess.run(  # noqa: S603 - the program is above
            [sys.executable, "-I", "-c", _TRIAL], input=json.dumps(task), capture_output=True, text=True,
            timeout=_PATIENCE_S, check=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:  # no single name took a second of the processor
        return None
    return str(json.loads(done.stdout)) if done.stdout else None


def _names(expression: str, length: int) -> Iterator[str]:
    """A beginning that may match, then the same again and again, then something that does not match."""
    literals = list(dict.fromkeys(re.findall(r"[^\W_]+", re.sub(r"\\[A-Za-z]|\(\?P?<?\w*[>:)]?", " ", expression))))
    literals = literals[:_MOST_LITERALS]
    repeated = list(dict.fromkeys((*_SAMPLES, *literals, *(f"{word}/" for word in literals))))
    beginnings = ("", *literals[:2], *(f"{word}{mark}" for word in literals[:1] for mark in "-/_ "))
    for text, beginning in product(repeated, beginnings):
        yield beginning + text * (length if length == _FEW else length // len(text)) + "\x01"
