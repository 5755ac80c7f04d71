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
    from collections.abc import Iterator, Sequence

    from agent.config.rules import Pattern
    from agent.config.settings import Settings

# What the trial may take: for one name in seconds of the processor, for all names of one pattern on the clock.
_SECONDS = 1.0
_PATIENCE_S = 60
# Repetitions within repetitions show with few, those beside each other only with a name that is as long as any may be.
_FEW = 40
_LONGEST_NAME = 2_000
# What the classes of characters stand for, and what separates words.
_SAMPLES = ("a", "A", "0", "_", "-", "/", ".", " ", "é", "a/", "a-", "a ", "a0", "aA", "a.")
_MOST_LITERALS = 12
_END = "\x01"

# The engine looks for signals while it works; the exception of this one ends the match.
_TRIAL = """
import json, re, signal, sys

class TooLongError(Exception):
    pass

class NoTimeError(Exception):
    pass

def over(*_):
    raise TooLongError

def no_time(*_):
    raise NoTimeError

def hard(expression, names):
    signal.setitimer(signal.ITIMER_REAL, task["patience"])
    try:
        for place, (beginning, text, times) in enumerate(names):
            signal.setitimer(signal.ITIMER_VIRTUAL, task["seconds"])
            try:
                expression.search(beginning + text * times + task["end"])
            except TooLongError:
                return place
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except NoTimeError:
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

task = json.load(sys.stdin)
signal.signal(signal.SIGVTALRM, over)
signal.signal(signal.SIGALRM, no_time)
json.dump([hard(re.compile(expression), names) for expression, names in task["patterns"]], sys.stdout)
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


def busy(settings: Settings) -> list[Busy]:
    """The patterns that a name can keep busy for more than a second."""
    found = list(patterns(settings))
    few = hard_names([pattern for _, pattern in found], _FEW)
    rest = [pattern for (_, pattern), name in zip(found, few, strict=True) if name is None]
    many = iter(hard_names(rest))
    names = [name or next(many) for name in few]
    return [Busy(*each, name) for each, name in zip(found, names, strict=True) if name is not None]


def refuse_endless(settings: Settings) -> None:
    """Refuse patterns that a short name keeps busy without end: one such name would stop the agent for good.

    Raises :class:`agent.config.file.ConfigError`.
    """
    found = list(patterns(settings))
    names = hard_names([pattern for _, pattern in found], _FEW)
    endless = [str(Busy(*each, name)) for each, name in zip(found, names, strict=True) if name is not None]
    if endless:
        raise ConfigError("\n".join(f"{settings.file}: {each}" for each in endless))


def hard_names(tried: Sequence[Pattern], length: int = _LONGEST_NAME) -> list[str | None]:
    """For each pattern a name of about ``length`` characters that keeps it busy for more than a second, else None.

    One process tries all of them, and none is started for patterns that need no trial.
    """
    tasks = {place: list(_names(pattern, length)) for place, pattern in enumerate(tried) if _may_be_hard(pattern)}
    if not tasks:
        return [None] * len(tried)
    task = {
        "patterns": [(tried[place].expression.pattern, names) for place, names in tasks.items()],
        "seconds": _SECONDS, "patience": _PATIENCE_S, "end": _END,
    }  # fmt: skip
    done = subprocess.run(  # noqa: S603 - the program is above
        [sys.executable, "-I", "-c", _TRIAL], input=json.dumps(task), capture_output=True, text=True, check=True
    )
    found: list[str | None] = [None] * len(tried)
    for (place, names), hard in zip(tasks.items(), json.loads(done.stdout), strict=True):
        if hard is not None:
            beginning, text, times = names[hard]
            found[place] = beginning + text * times + _END
    return found


def _may_be_hard(pattern: Pattern) -> bool:
    """With one repetition of one character it is the square of the name's length at most."""
    expression = pattern.expression.pattern
    return sum(map(expression.count, "*+{")) >= 2 or re.search(r"\)[*+{]", expression) is not None


def _names(pattern: Pattern, length: int) -> Iterator[tuple[str, str, int]]:
    """A beginning that may match, then the same again and again. Then comes something that does not match."""
    expression = pattern.expression.pattern
    literals = list(dict.fromkeys(re.findall(r"[^\W_]+", re.sub(r"\\[A-Za-z]|\(\?P?<?\w*[>:)]?", " ", expression))))
    literals = literals[:_MOST_LITERALS]
    repeated = list(dict.fromkeys((*_SAMPLES, *literals, *(f"{word}/" for word in literals))))
    beginnings = ("", *literals[:2], *(f"{word}{mark}" for word in literals[:1] for mark in "-/_ "))
    for text, beginning in product(repeated, beginnings):
        yield beginning, text, length if length == _FEW else length // len(text)
