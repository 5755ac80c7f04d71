"""The values that go into the outbox and come out of it. All times are UTC milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.model.deployment import Content, Deployment, State
    from agent.model.endings import Ended
    from agent.model.fact import Fact
    from agent.model.keys import Project, Run

# So much of an answer of Hivel is kept with an attempt.
ANSWER_LIMIT = 2_000
# So many attempts of one deployment are kept beside the first: a year of retries is not.
LAST_ATTEMPTS = 20


class OutboxError(Exception):
    """The outbox cannot be used right now; the message names it, what happened and what to do."""


class DamagedError(OutboxError):
    """The outbox is broken. The agent that holds the run lock repairs it."""


class OlderOutboxError(OutboxError):
    """An older version wrote it. The agent that holds the run lock upgrades it, or is about to."""


class OutboxFullError(OutboxError):
    """``[outbox] max_size`` is reached: nothing new is taken in until deployments were delivered and deleted."""


class AlreadyRunningError(Exception):
    """Another agent works on this outbox; the message names its process."""


# ---- facts and deployments


class RunState(msgspec.Struct, frozen=True):
    """Everything that is stored about a run, under its project's name and the former ones."""

    run: Run
    facts: tuple[Fact, ...] = ()
    deployments: tuple[Deployment, ...] = ()


class Change(msgspec.Struct, frozen=True):
    """What is to be stored of a run: new facts, and deployments to insert (number 0), to rewrite, to remove.

    A deployment is rewritten only if it is still in the state and revision of ``before``; see :meth:`Outbox.store`.
    """

    facts: tuple[Fact, ...] = ()
    inserted: tuple[Deployment, ...] = ()
    rewritten: tuple[Deployment, ...] = ()
    removed: tuple[Deployment, ...] = ()


@dataclass(frozen=True)
class StoredReport:
    """A report in the inbox, as ``emit`` stored it."""

    id: int
    received_at: int
    body: str


class SetAside(msgspec.Struct, frozen=True):
    """What an exception that nobody expected came from. ``kind``: report, run; ``body``: a report as it was stored."""

    at: int
    kind: str
    subject: str
    error: str
    body: str | None = None
    id: int = 0


# ---- claims and settlements


@dataclass(frozen=True)
class Claimed:
    """A deployment that is due, to be sent as it is here. ``attempts``: how often it was tried before."""

    number: int
    deployment_id: str
    revision: int
    content: Content
    attempts: int
    created_at: int


@dataclass(frozen=True)
class Settlement:
    """What came of one attempt to send ``claimed``.

    ``state`` DELIVERED: Hivel has it, whatever the deployment says by now. PENDING: again at ``next_attempt_at``, or
    when due if None. FAILED: Hivel refused this revision. ``already_there``: Hivel had the id before; then of a
    revision above 1 nobody knows which one it has.
    """

    claimed: Claimed
    state: State
    counts_as_attempt: bool
    at: int
    duration_ms: int
    http_status: int | None
    verdict: str
    answer: str
    reason: str | None = None
    next_attempt_at: int | None = None
    already_there: bool = False


class DeliveryState(msgspec.Struct, frozen=True):
    """What the delivery was up to when it last said so: ``open``, ``outage`` or ``paused``."""

    state: str
    since: int
    reason: str | None
    next_probe_at: int | None


# ---- cursors


@dataclass(frozen=True)
class JobCursor:
    """Numbers below ``next_build_number`` were read, but for the job's open builds.

    ``looked_at`` is the latest that Jenkins' clock has shown, in its answers or as the start of a build that was read:
    no build below started later. ``newest_number`` and ``newest_started_at`` name the newest build that was seen.
    ``no_rule_since``: from that number on no rule matched the job, and nothing was read. ``absent``: the job was not in
    Jenkins' list, or had a lower number, when it was last looked for: what has its name next may be another one.
    """

    full_name: str
    next_build_number: int
    looked_at: int
    newest_number: int | None = None
    newest_started_at: int | None = None
    no_rule_since: int | None = None
    absent: bool = False


@dataclass(frozen=True)
class OpenBuild:
    """A build that is not final yet. ``seen`` False: Jenkins gave the number away but shows no build.
    ``first_seen_at`` is 0 for a build that was there before the agent's first poll.

    ``waiting_since``: since when it is neither running nor final; None while it runs. ``started_at`` by Jenkins'
    clock; None as long as no build was shown. As long as it is here it counts as a SEEN fact of its run.
    """

    number: int
    seen: bool
    first_seen_at: int
    waiting_since: int | None = None
    started_at: int | None = None


@dataclass(frozen=True)
class WantedBuild:
    """A build that reported something and that no poll knows yet."""

    full_name: str
    number: int
    since: int


@dataclass(frozen=True)
class JobError:
    """A job that could not be read: the last error, since when, and when it is tried again."""

    full_name: str
    error: str
    since: int
    next_try_at: int


@dataclass(frozen=True)
class Missed:
    """Numbers of a job whose builds were gone before they could be read."""

    controller: str
    full_name: str
    builds: int
    newest_number: int
    noted_at: int


@dataclass(frozen=True)
class Renamed:
    """The job of cursor ``former`` is called ``full_name`` now."""

    former: JobCursor
    full_name: str


@dataclass(frozen=True)
class Progress:
    """How far a poll of one controller read; stored together with the facts that it found.

    ``cursors``, ``open_builds`` (all that a job has, by its name), ``missed`` (builds and newest number, by job),
    ``renamed`` (applied first), ``no_longer_wanted``, ``errors`` (None: the job was read) and ``ended`` (what became of
    numbers that are not open any more, by job) are changes: what is not named stays. Of the jobs ``begun`` anew, what
    was noted of an earlier one of that name is forgotten.
    """

    controller: str
    cursors: tuple[JobCursor, ...] = ()
    open_builds: Mapping[str, tuple[OpenBuild, ...]] = field(default_factory=dict)
    missed: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    renamed: tuple[Renamed, ...] = ()
    no_longer_wanted: tuple[WantedBuild, ...] = ()
    errors: Mapping[str, JobError | None] = field(default_factory=dict)
    begun: frozenset[str] = frozenset()
    ended: Mapping[str, tuple[Ended, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ControllerState:
    """What ``status`` shows of a controller.

    ``report_from``: builds that ended before are history; None until the first poll was complete.
    ``clock_ahead_ms``: how far its clock was ahead of this machine's when it last answered; negative: behind.
    """

    name: str
    state: str
    since: int
    report_from: int | None = None
    polled_at: int | None = None
    jobs: int | None = None
    last_error: str | None = None
    clock_ahead_ms: int | None = None


# ---- looking


@dataclass(frozen=True)
class Filter:
    """Which deployments; conditions add up. ``since`` and ``until`` (not included) are times of enqueueing.

    ``reason``: the reason contains this text, in any case. ``project``: of this project, under this very name.
    ``scope``: of this controller. ``ended_since``: their builds ended then or later.
    """

    states: tuple[State, ...] = ()
    since: int | None = None
    until: int | None = None
    environment: str | None = None
    status: str | None = None
    repo_url: str | None = None
    reason: str | None = None
    project: Project | None = None
    scope: str | None = None
    ended_since: int | None = None


@dataclass(frozen=True)
class Page:
    """The newest first: at most ``limit`` with numbers below ``before`` (None: from the newest on)."""

    limit: int = 50
    before: int | None = None


@dataclass(frozen=True)
class LastDeployments:
    """The last builds of a project that were deployments. ``ends``: when they ended (UTC ms), ascending, at most 50.

    ``newest_run`` is the one that ended last; ``newest_started_at`` its start.
    """

    project: Project
    newest_run: str
    newest_started_at: int
    ends: tuple[int, ...]


class Counts(msgspec.Struct, frozen=True):
    """How many deployments are in each state."""

    pending: int
    held: int
    delivered: int
    failed: int
    discarded: int = 0


class Attempt(msgspec.Struct, frozen=True):
    """One attempt that failed, or the one that succeeded. ``n`` counts from 1."""

    n: int
    at: int
    duration_ms: int
    http_status: int | None
    verdict: str
    answer: str


class LastRepair(msgspec.Struct, frozen=True):
    """The outbox was found damaged ``at``; ``events`` could be read from the file that was ``moved_to``."""

    at: int
    moved_to: str
    problem: str
    events: int


@dataclass(frozen=True)
class Keep:
    """How long what is kept, in milliseconds: bodies of facts and attempts after delivery, deployments, their ids."""

    bodies_ms: int
    deployments_ms: int
    ids_ms: int
