"""Tries rules on the stored builds, in a process of its own: a bad pattern can cost any amount of time and memory.

``python -m agent.web.trial`` reads a :class:`Trial` as JSON from standard input, and prints a :class:`Result` as JSON.
Nothing is written, no token is read, and neither Jenkins nor Hivel is asked. The password of an outbox in PostgreSQL
comes from the daemon, over standard input: others cannot see it there.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.config.credentials import Token, TokenError
from agent.config.file import ConfigError, with_rules
from agent.inspect.compare import Comparison, compare
from agent.inspect.expressions import refuse_endless
from agent.model.times import Clock
from agent.outbox.engines import engine_of
from agent.outbox.values import OutboxError
from agent.sources.jenkins.history import Span

if TYPE_CHECKING:
    from agent.config.settings import Settings

MOST_CPU_S = 20
MOST_BYTES = 1024 * 1024 * 1024
PATIENCE_S = 60.0
# The child gets what Python and SQLite need, and no token.
_PROGRAM = (sys.executable, "-m", "agent.web.trial")
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")


class Trial(msgspec.Struct, frozen=True):
    """``file``: the configuration. ``rules``: TOML. ``since``: builds that ended at or after it (UTC milliseconds).

    ``password``: that of ``[outbox] url``; None: it has none.
    """

    file: str
    rules: str
    since: int
    password: str | None = None


class Result(msgspec.Struct, frozen=True):
    """``comparison`` is None if the rules cannot be tried; ``problem`` says why."""

    comparison: Comparison | None = None
    problem: str | None = None


def trial_of(settings: Settings, rules: str, since: int) -> Trial:
    """A trial of ``rules`` instead of those of the configuration."""
    password = None
    if settings.postgresql is not None and settings.postgresql.password is not None:
        with suppress(TokenError):  # then the server says that it is missing
            password = settings.postgresql.password.reveal()
    return Trial(str(settings.file), rules, since, password)


async def run(trial: Trial) -> Result:
    """Try rules in a new process, and kill it when it takes too much."""
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    child = await asyncio.create_subprocess_exec(
        *_PROGRAM, env=environment,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE_S):
            output, _ = await child.communicate(msgspec.json.encode(trial))
    except TimeoutError:
        return Result(problem=f"the trial took more than {PATIENCE_S:g} s; choose fewer days")
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    try:
        return msgspec.json.decode(output, type=Result)
    except msgspec.MsgspecError:
        return Result(problem=_why(child.returncode))


def _why(code: int | None) -> str:
    if code == -signal.SIGXCPU:
        return f"the trial took more than {MOST_CPU_S} s of CPU time; simplify the patterns, or choose fewer days"
    return "the trial needed too much memory; choose fewer days"  # it failed by its limit, or the kernel killed it


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # MemoryMax= of the service counts this process too: it has to go, not the daemon.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _tried(trial: Trial) -> Result:
    clock = Clock()
    try:
        settings = with_rules(Path(trial.file), trial.rules)
        if settings.postgresql is not None and trial.password is not None:
            settings = replace(settings, postgresql=replace(settings.postgresql, password=Token(trial.password)))
        refuse_endless(settings)
        with closing(engine_of(settings, clock).open()) as outbox:
            return Result(compare(settings, outbox, None, Span(trial.since, clock.now_ms()), 0))
    except (ConfigError, OutboxError) as error:
        return Result(problem=str(error))


if __name__ == "__main__":
    _limit()
    sys.stdout.buffer.write(msgspec.json.encode(_tried(msgspec.json.decode(sys.stdin.buffer.read(), type=Trial))))
