"""A fact: what one source said about one run, once. Facts are added, never changed, and deleted with their build."""

from __future__ import annotations

import enum
import hashlib
from typing import TYPE_CHECKING

import msgspec

from agent.model.build import Build
from agent.model.keys import Run  # noqa: TC001 - a field of a struct

if TYPE_CHECKING:
    from collections.abc import Iterable

# Tolerance for differences of clocks, time in the queue, and a build that reports its end a little later (ms).
SAME_BUILD_MS = 600_000
# A report with a time that is earlier than the previous report's by at most this (ms) still counts as the later one.
STEP_BACK_MS = 600_000


class Kind(enum.StrEnum):
    """The kind of a fact."""

    SEEN = "seen"  # a poll saw the build; ``started_at`` is exact
    FINAL = "final"  # a poll or a backfill read the finished build; the body is a Build
    GONE = "gone"  # a build that a poll saw no longer exists
    REPORT = "report"  # a report by the build or on its behalf; the body is a Report
    UNREADABLE = "unreadable"  # a report that cannot be parsed; the body is its text


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a report says about a deployment. Its texts are stripped and limited in length.

    ``status`` is the word as reported, in the terms of ``provider``. ``stage``: the report is about this stage only.
    Times are UTC milliseconds by the reporter's clock. ``url`` is the page of the build. ``given``: the names of fields
    that a person wrote (a flag, an argument, a file). All others come from the environment of the build, where the
    checkout of a shared library leaves its own repository and commit. ``named``: the reporter's own name of the run, if
    the fact is about it under another name, see :mod:`agent.sources.reports.pairing`.
    """

    provider: str
    status: str | None = None
    stage: str | None = None
    environment: str | None = None
    repo_url: str | None = None
    branch: str | None = None
    commit_hash: str | None = None
    image: str | None = None
    logs_url: str | None = None
    pr_number: str | None = None
    pr_numbers: tuple[int, ...] = ()
    build_number: str | None = None
    url: str | None = None
    started_at: int | None = None
    ended_at: int | None = None
    given: tuple[str, ...] = ()
    named: str | None = None


Body = Build | Report | str | None


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """What ``source`` (poller, backfill, emit, intake, spool, …) said about ``run``.

    ``received_at`` (UTC ms): when it was received, by the clock of the project's controller. ``started_at`` (UTC ms):
    exact if a poll said it, otherwise what the report said. ``principal``: the team whose token the report had.
    ``word``: the identity of the fact; facts with the same word are the same fact.
    """

    run: Run
    source: str
    kind: Kind
    received_at: int
    word: int
    started_at: int | None = None
    principal: str = ""
    body: Body = None


def word_of(*parts: object) -> int:
    """The identity of a fact: a 63-bit hash."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def seen(run: Run, *, started_at: int, at: int, source: str = "poller") -> Fact:
    """A poll saw the build, running or finished."""
    word = word_of(Kind.SEEN, started_at, at)
    return Fact(run=run, source=source, kind=Kind.SEEN, received_at=at, word=word, started_at=started_at)


def final(run: Run, build: Build, *, at: int, source: str = "poller") -> Fact:
    """A finished build was read."""
    return Fact(
        run=run,
        source=source,
        kind=Kind.FINAL,
        received_at=at,
        word=word_of(Kind.FINAL, build.started_at, msgspec.json.encode(build)),
        started_at=build.started_at,
        body=build,
    )


def gone(run: Run, *, started_at: int, at: int) -> Fact:
    """A build that was seen no longer exists."""
    word = word_of(Kind.GONE, started_at)
    return Fact(run=run, source="poller", kind=Kind.GONE, received_at=at, word=word, started_at=started_at)


def report(run: Run, said: Report, *, source: str, at: int, principal: str = "") -> Fact:
    """A report. The same report at the same time has the same ``word`` and is one fact.

    A repetition at a later time is another fact. That is harmless, because the last value of each field counts.
    """
    return Fact(
        run=run,
        source=source,
        kind=Kind.REPORT,
        received_at=at,
        word=word_of(Kind.REPORT, principal, at, msgspec.json.encode(said)),
        started_at=said.started_at,
        principal=principal,
        body=said,
    )


def fresh(known: Iterable[Fact], new: Iterable[Fact]) -> list[Fact]:
    """The facts of ``new`` that are not known yet, each once."""
    words = {fact.word for fact in known}
    added = []
    for fact in new:
        if fact.word not in words:
            words.add(fact.word)
            added.append(fact)
    return added
