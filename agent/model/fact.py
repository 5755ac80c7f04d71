"""A fact: what one source said about one run, once. Facts are added and never changed; they go with their build."""

from __future__ import annotations

import enum
import hashlib
from typing import TYPE_CHECKING

import msgspec

from agent.model.build import Build
from agent.model.keys import Run  # noqa: TC001 - a field of a struct

if TYPE_CHECKING:
    from collections.abc import Iterable

# A clock of Jenkins' and ours, a queue, and a build that reports its end a little later.
SAME_BUILD_MS = 600_000
# A report that comes with an earlier time than the one before it, by so little, came after it all the same.
STEP_BACK_MS = 600_000


class Kind(enum.StrEnum):
    """What a fact says."""

    SEEN = "seen"  # a poll saw the build; ``started_at`` is exact
    FINAL = "final"  # a poll or a backfill read the finished build; the body is a Build
    GONE = "gone"  # a build that a poll saw is not there any more
    REPORT = "report"  # the build, or somebody for it, said something; the body is a Report
    UNREADABLE = "unreadable"  # a report that says nothing that can be understood; the body is its text


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a report says of a deployment, its texts stripped and within bounds.

    ``status`` is the word as it was said, in the words of ``provider``. ``stage``: it is about that stage alone. Times
    are UTC milliseconds by the clock of who said them. ``url`` is the page of the build.
    ``given``: the names of those fields that somebody wrote down (a flag, an argument, a file). All others were found
    in the environment of the build, where the checkout of a shared library leaves its own repository and commit.
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


Body = Build | Report | str | None


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """What ``source`` (poller, backfill, emit, intake, spool, …) said of ``run``.

    ``received_at`` (UTC ms) is when it was said, by the clock of the project's controller. ``started_at`` (UTC ms) is
    exact for what polls say; of reports it is what they say. ``principal``: the team whose token the report had.
    ``word`` is the fact's identity: the same word twice is one fact.
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
    """63 bits that tell one word from another."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def seen(run: Run, *, started_at: int, at: int, source: str = "poller") -> Fact:
    """A poll saw the build, running or (again) finished."""
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
    """A build that was seen is not there any more."""
    word = word_of(Kind.GONE, started_at)
    return Fact(run=run, source="poller", kind=Kind.GONE, received_at=at, word=word, started_at=started_at)


def report(run: Run, said: Report, *, source: str, at: int, principal: str = "") -> Fact:
    """A report. The same one at the same moment is the same word; said again later it is another, which harms nobody:
    of each field the last word counts."""
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
    """What of ``new`` is not known yet, each word once."""
    words = {fact.word for fact in known}
    added = []
    for fact in new:
        if fact.word not in words:
            words.add(fact.word)
            added.append(fact)
    return added
