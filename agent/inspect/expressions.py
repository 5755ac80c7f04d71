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
from itertools import product
from typing import TYPE_CHECKING

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


def busy(settings: Settings) -> Iterator[tuple[str, str]]:
    """Where an expression stands that others can keep busy, and what is wrong, in words."""
    for place, pattern in patterns(settings):
        name = hard_name(pattern)
        if name is not None:
            yield (
                place,
                (
                    f"{pattern.text!r} is busy for more than {_SECONDS:g} s with a name of {len(name)} characters like "
                    f"{name[:30]!r}…: whoever can name what it is held against can hold the agent up; write it without "
                    "repetitions within repetitions, and with few of * and .*"
                ),
            )


def hard_name(pattern: Pattern) -> str | None:
    """A name that keeps the expression busy for more than a second; None if none was found."""
    expression = pattern.expression.pattern
    if sum(map(expression.count, "*+{")) < 2 and not re.search(r"\)[*+{]", expression):
        return None  # with one repetition of one character it is the square of the name's length at most
    task = {"expression": expression, "names": list(_names(expression)), "seconds": _SECONDS}
    done = subprocess.run(  # noqa: S603 - the program is above
        [sys.executable, "-I", "-c", _TRIAL], input=json.dumps(task), capture_output=True, text=True,
        timeout=_PATIENCE_S, check=True,
    )  # fmt: skip
    return str(json.loads(done.stdout)) if done.stdout else None


def _names(expression: str) -> Iterator[str]:
    """A beginning that may match, then the same again and again, then something that does not match."""
    literals = list(dict.fromkeys(re.findall(r"[^\W_]+", re.sub(r"\\[A-Za-z]|\(\?P?<?\w*[>:)]?", " ", expression))))
    literals = literals[:_MOST_LITERALS]
    repeated = list(dict.fromkeys((*_SAMPLES, *literals, *(f"{word}/" for word in literals))))
    beginnings = ("", *literals[:2], *(f"{word}{mark}" for word in literals[:1] for mark in "-/_ "))
    for times, text, beginning in product((_FEW, _LONGEST_NAME), repeated, beginnings):
        yield beginning + text * (times // (1 if times == _FEW else len(text))) + "\x01"
