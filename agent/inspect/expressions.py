"""Slow patterns of the configuration, found by matching them against names that are hard for them.

Python's engine backtracks, without end for some expressions: ``(a+)+$`` takes twice as long for each further ``a`` in a
name. During a match no other thread runs. So a separate process tries the patterns, with a limit on the CPU time of
each name. A match whose time grows with the square of the longest name is far below this limit.
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

# Limits of the trial, in seconds of CPU time: for one name, and for all names of one pattern. By the wall clock, a busy
# machine would find less.
_SECONDS = 1.0
_PATIENCE_S = 60
# Nested repetitions are slow with short names, adjacent ones only with a name of the maximum length.
_FEW = 40
_LONGEST_NAME = 2_000
# An example of each character class, and separators of words.
_SAMPLES = ("a", "A", "0", "_", "-", "/", ".", " ", "é", "a/", "a-", "a ", "a0", "aA", "a.")
_MOST_LITERALS = 12
_END = "\x01"

# The engine handles signals during a match; the exception of this handler ends it.
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
    signal.setitimer(signal.ITIMER_PROF, task["patience"])
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
        signal.setitimer(signal.ITIMER_PROF, 0)

task = json.load(sys.stdin)
signal.signal(signal.SIGVTALRM, over)
signal.signal(signal.SIGPROF, no_time)
json.dump([hard(re.compile(expression), names) for expression, names in task["patterns"]], sys.stdout)
"""


@dataclass(frozen=True)
class Busy:
    """A slow pattern. ``place``: where it is in the configuration. ``name``: a name that shows it.

    ``endless``: a short name is enough, and each further character doubles the time.
    """

    place: str
    pattern: Pattern
    name: str

    @property
    def endless(self) -> bool:
        return len(self.name) < _LONGEST_NAME // 2

    def __str__(self) -> str:
        advice = "remove nested repetitions" if self.endless else "use fewer * and .*"
        return (
            f"{self.place}: {self.pattern.text!r} takes more than {_SECONDS:g} s for a name of {len(self.name)} "
            f"characters like {self.name[:30]!r}…, and blocks the agent during this time; {advice}"
        )


def busy(settings: Settings) -> list[Busy]:
    """The patterns that need more than a second for some name."""
    found = list(patterns(settings))
    few = hard_names([pattern for _, pattern in found], _FEW)
    rest = [pattern for (_, pattern), name in zip(found, few, strict=True) if name is None]
    many = iter(hard_names(rest))
    names = [name or next(many) for name in few]
    return [Busy(*each, name) for each, name in zip(found, names, strict=True) if name is not None]


def refuse_endless(settings: Settings) -> None:
    """Refuse patterns that need exponential time: one such name would block the agent forever.

    Raises :class:`agent.config.file.ConfigError`.
    """
    found = list(patterns(settings))
    names = hard_names([pattern for _, pattern in found], _FEW)
    endless = [str(Busy(*each, name)) for each, name in zip(found, names, strict=True) if name is not None]
    if endless:
        raise ConfigError("\n".join(f"{settings.file}: {each}" for each in endless))


def hard_names(tried: Sequence[Pattern], length: int = _LONGEST_NAME) -> list[str | None]:
    """For each pattern, a name of about ``length`` characters that takes more than a second, or None.

    One process tries all of them. No process is started if no pattern needs a trial.
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
    """Whether a pattern needs a trial. A single repetition needs at most quadratic time."""
    expression = pattern.expression.pattern
    return sum(map(expression.count, "*+{")) >= 2 or re.search(r"\)[*+{]", expression) is not None


def _names(pattern: Pattern, length: int) -> Iterator[tuple[str, str, int]]:
    """Hard names: a prefix that may match, then a repeated text, then an end that does not match."""
    expression = pattern.expression.pattern
    literals = list(dict.fromkeys(re.findall(r"[^\W_]+", re.sub(r"\\[A-Za-z]|\(\?P?<?\w*[>:)]?", " ", expression))))
    literals = literals[:_MOST_LITERALS]
    repeated = list(dict.fromkeys((*_SAMPLES, *literals, *(f"{word}/" for word in literals))))
    beginnings = ("", *literals[:2], *(f"{word}{mark}" for word in literals[:1] for mark in "-/_ "))
    for text, beginning in product(repeated, beginnings):
        yield beginning, text, length if length == _FEW else length // len(text)
