"""The values that are stored in the outbox and read from it. All times are UTC milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.model.deployment import Content, Deployment, State
    from agent.model.endings import Ended
    from agent.model.fact import Fact
    from agent.model.keys import Project, Run
    from agent.model.status import Status

# Characters of Hivel's answer that are kept with an attempt.
ANSWER_LIMIT = 2_000
# The number of attempts that are kept for one deployment beside the first, so that long retries need little space.
LAST_ATTEMPTS = 20


class OutboxError(Exception):
    """The outbox cannot be used right now. The message says which outbox, what happened and what to do."""


class DamagedError(OutboxError):
    """The outbox is damaged. The agent that holds the run lock repairs it."""


class OlderOutboxError(OutboxError):
    """An older version wrote the outbox. The agent that holds the run lock upgrades it."""


class NewerOutboxError(OutboxError):
    """A newer version has changed the outbox so that this one cannot work on it. Only an upgrade of the agent helps."""


class MovedError(OutboxError):
    """The outbox was copied to another one, or is an incomplete copy. No agent may work on it."""


class LeaseLostError(OutboxError):
    """Another agent has the lease of this controller, or it has expired. The transaction was rolled back."""


class OutboxFullError(OutboxError):
    """``[outbox] max_size`` is reached: nothing new is accepted until deployments are delivered and deleted."""


class AlreadyRunningError(Exception):
    """Another agent uses this outbox; the message has its process id."""


# ---- facts and deployments


class RunState(msgspec.Struct, frozen=True):
    """Everything that is stored about a run, under the current and former names of its project."""

    run: Run
    facts: tuple[Fact, ...] = ()
    deployments: tuple[Deployment, ...] = ()


class Change(msgspec.Struct, frozen=True):
    """What to store for a run: new facts, and deployments to insert (number 0), rewrite and remove.

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
    """What caused an unexpected exception. ``kind``: report or run. ``body``: the report as it was stored."""

    at: int
    kind: str
    subject: str
    error: str
    body: str | None = None
    id: int = 0


# ---- claims and settlements


@dataclass(frozen=True)
class Claimed:
    """A due deployment with the content to send. ``attempts``: earlier attempts.

    ``claim``: the number of the claim, where several agents share an outbox. It changes when another agent takes over.
    """

    number: int
    deployment_id: str
    revision: int
    content: Content
    attempts: int
    created_at: int
    claim: int = 0


@dataclass(frozen=True)
class Settlement:
    """The outcome of one attempt to send ``claimed``.

    ``state`` DELIVERED: Hivel has it, whatever its revision is now. PENDING: try again at ``next_attempt_at``, or when
    due if None. FAILED: Hivel refused this revision. ``already_there``: Hivel already had the id; if the revision is
    above 1, it is unknown which one Hivel has.
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
    """The state of delivery when it was last stored: ``open``, ``outage`` or ``paused``."""

    state: str
    since: int
    reason: str | None
    next_probe_at: int | None


# ---- cursors


@dataclass(frozen=True)
class JobCursor:
    """All builds below ``next_build_number`` were read, except the job's open builds.

    ``looked_at`` is the latest time seen on Jenkins' clock, in its answers or as the start of a build that was read: no
    build below the cursor started later. ``newest_number`` and ``newest_started_at`` identify the newest build seen.
    ``no_rule_since``: from that number on no rule matched the job, and nothing was read. ``absent``: when last checked,
    the job was not in Jenkins' list or had a lower number; the next job with its name may be a different one.
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
    """A build that is not final yet. ``seen`` False: Jenkins has assigned the number but shows no build.

    ``first_seen_at`` is 0 for a build that existed before the agent's first poll. ``waiting_since``: since when it is
    neither running nor final; None while it runs. ``started_at`` by Jenkins' clock; None until Jenkins shows a build.
    An open build counts as a SEEN fact of its run.
    """

    number: int
    seen: bool
    first_seen_at: int
    waiting_since: int | None = None
    started_at: int | None = None


@dataclass(frozen=True)
class WantedBuild:
    """A build that sent a report and that the poller has not read yet."""

    full_name: str
    number: int
    since: int


@dataclass(frozen=True)
class JobError:
    """A job that could not be read: the last error, since when, and the time of the next attempt."""

    full_name: str
    error: str
    since: int
    next_try_at: int


@dataclass(frozen=True)
class Missed:
    """Build numbers of a job whose builds were deleted before they could be read."""

    controller: str
    full_name: str
    builds: int
    newest_number: int
    noted_at: int


@dataclass(frozen=True)
class Renamed:
    """The job with the cursor ``former`` is now called ``full_name``."""

    former: JobCursor
    full_name: str


@dataclass(frozen=True)
class Progress:
    """How far a poll of one controller has read. Stored together with the facts that it found.

    All fields are changes; jobs that are not named keep what they have: ``cursors``, ``open_builds`` (all open builds
    of a job), ``missed`` (builds and newest number, by job), ``renamed`` (applied first), ``no_longer_wanted``,
    ``errors`` (None: the job was read) and ``ended`` (what became of numbers that are no longer open, by job). For jobs
    in ``begun`` the stored data of an earlier job with the same name is deleted.
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

    ``report_from``: builds that ended earlier are history; None until the first poll is complete. ``clock_ahead_ms``:
    how far the controller's clock was ahead of this machine's at its last answer; negative: behind.
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
    """Conditions that a deployment must all meet. It ended at or after ``since`` and before ``until``.

    ``reason``: the reason contains this text, ignoring case. ``cause``: the cause of the reason is this one, see
    :func:`agent.model.causes.cause_of`. ``project``: exactly this project name. ``scope``: this controller. ``job``:
    the full name of the job, on any controller. ``job_prefix``: the full name begins with it. ``text``: the
    deployment_id or the job's full name begins with it. ``build_ended_since``: the build ended then or later.
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
    build_ended_since: int | None = None
    job: str | None = None
    job_prefix: str | None = None
    text: str | None = None
    cause: str | None = None


@dataclass(frozen=True)
class Page:
    """At most ``limit`` deployments, newest first, with numbers below ``before`` and above ``after`` (None: no limit).

    With ``after`` alone they are those closest to it: the page before the one that begins there.
    """

    limit: int = 50
    before: int | None = None
    after: int | None = None


class Counted(NamedTuple):
    """How many there are. ``more``: there are more than that, or there may be, and they were not counted."""

    n: int
    more: bool = False


NOT_COUNTED = Counted(0, more=True)


@dataclass(frozen=True)
class Found:
    """A page of deployments, newest first.

    ``older``: the next page is ``Page(before=older)``; None: there are no older ones. ``newer``: the previous page is
    ``Page(after=newer)``; None: there are no newer ones. ``complete`` is False if the page stopped after the number of
    rows that one page may read: it may have fewer than ``limit`` deployments, or none, although there are more.
    ``count``: of all that match, on any page.
    """

    deployments: tuple[Deployment, ...]
    older: int | None = None
    newer: int | None = None
    complete: bool = True
    count: Counted = NOT_COUNTED


class Names(NamedTuple):
    """The names that deployments have."""

    environments: list[str]
    repositories: list[str]


class FailedGroup(NamedTuple):
    """``n`` failed deployments with the same cause: ``Filter(states=(State.FAILED,), cause=cause)`` selects them.

    ``first_at`` and ``last_at``: when the first and the last of them failed. ``newest``: the number of the newest one,
    as an example, and ``reason`` its reason.
    """

    cause: str
    n: int
    first_at: int
    last_at: int
    newest: int
    reason: str | None


class FailedGroups(NamedTuple):
    """The largest groups first. ``failed``: how many deployments were grouped, the newest ones.

    ``more``: there are more groups, or more failed deployments.
    """

    groups: list[FailedGroup]
    failed: int
    more: bool = False


class Hour(NamedTuple):
    """How many deployments were delivered, and how many failed, from ``begins_at`` for an hour in UTC.

    It counts what happened. A deployment that was replayed and delivered again counts twice.
    """

    begins_at: int
    delivered: int
    failed: int


class Recent(NamedTuple):
    """The deployments that ended at or after a time, by state. ``more``: so many wait or failed that not all were read.

    Then ``delivered`` is too large, and the others are too small.
    """

    delivered: int
    pending: int
    held: int
    failed: int
    discarded: int
    more: bool = False


class Deployed(NamedTuple):
    """The columns of a deployment that the DORA metrics are computed from. ``number``: its row number.

    ``hotfix``: its branch begins with ``hotfix/`` or ``hotfix-``.
    """

    number: int
    status: Status
    environment: str | None
    repo_url: str | None
    commit_hash: str | None
    first_commit_at: int | None
    started_at: int
    ended_at: int
    hotfix: bool = False


@dataclass(frozen=True)
class LastDeployments:
    """The last deploying builds of a project. ``ends``: their end times (UTC ms), ascending, at most 50.

    ``newest_run`` is the build that ended last; ``newest_started_at`` is its start.
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


class Backlog(NamedTuple):
    """How many deployments are in each state, and when the oldest pending one was enqueued; None: none is pending."""

    counts: Counts
    oldest_pending: int | None


class Attempt(msgspec.Struct, frozen=True):
    """One failed attempt, or the successful one. ``n`` counts from 1."""

    n: int
    at: int
    duration_ms: int
    http_status: int | None
    verdict: str
    answer: str


class Action(msgspec.Struct, frozen=True):
    """What a person did with a deployment. ``what``: ``replay`` or ``discard``; ``reason``: what the person wrote."""

    at: int
    what: str
    who: str
    reason: str = ""


class GapLook(msgspec.Struct, frozen=True):
    """How far one stream of a platform's project was read for webhooks that did not arrive.

    ``begun``: what ended earlier is never taken. ``at``: what the platform lists before was taken, except ``open``: the
    ids of what had not ended. ``found``: the missed deployments that were found in all. ``looked_at``: the last look
    without an error. ``error``: of the last look.
    """

    hook: str
    project: str
    stream: str
    begun: int
    at: int
    open: tuple[str, ...] = ()
    found: int = 0
    looked_at: int | None = None
    error: str | None = None


class LastRepair(msgspec.Struct, frozen=True):
    """The outbox was found damaged ``at``; ``events`` were read from the file, which is now ``moved_to``."""

    at: int
    moved_to: str
    problem: str
    events: int


@dataclass(frozen=True)
class Keep:
    """Retention in milliseconds: facts and attempts after delivery, deployments, ids of deleted deployments."""

    bodies_ms: int
    deployments_ms: int
    ids_ms: int
