"""The outbox as an interface. tests/conformance/ tests what it promises.

One thread at a time may use an outbox object. Several objects, in threads and processes, may be open on the same data.
All times are UTC milliseconds. Every method raises :class:`agent.outbox.values.OutboxError` if the outbox cannot be
used; nothing of that call is then stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from agent.model.deployment import Deployment
    from agent.model.endings import Ended
    from agent.model.fact import Fact
    from agent.model.keys import Project, Run
    from agent.model.times import Clock
    from agent.outbox.hooks import HookDelivery, HookStart
    from agent.outbox.tally import DeployedWeek
    from agent.outbox.values import (
        Action,
        Attempt,
        Backlog,
        Change,
        Claimed,
        ControllerState,
        Counts,
        DeliveryState,
        Deployed,
        FailedGroups,
        Filter,
        Found,
        GapLook,
        Hour,
        JobCursor,
        JobError,
        Keep,
        LastDeployments,
        Missed,
        Names,
        OpenBuild,
        Page,
        Progress,
        Recent,
        RunState,
        SetAside,
        Settlement,
        StoredReport,
        WantedBuild,
    )


class Deployments(Protocol):
    """Facts and the deployments derived from them."""

    def transaction(self) -> AbstractContextManager[None]:
        """A block that is all or nothing, and durable when the outermost block ends. It excludes all other writers."""
        ...

    def when_enqueued(self, call: Callable[[], object]) -> None:
        """Call this after each transaction with which a deployment became due, in the thread of the transaction.

        If it is not known whether the transaction is stored, it is called, too.
        """
        ...

    def load(self, runs: Collection[Run]) -> dict[Run, RunState]:
        """What is stored about these runs, under the current and former names of their projects.

        Facts are in the order in which they were stored. An open build of the poller is among them as a SEEN fact.
        """
        ...

    def store(self, changes: Sequence[Change]) -> dict[str, int]:
        """Store facts, and insert, rewrite and remove deployments, in one transaction.

        Returns the ids that another deployment has or had, each with the start of that deployment's build. Deployments
        with such an id were not inserted or, if they were to be rewritten, not changed.
        """
        ...

    def add_report(self, body: str) -> None:
        """Put a report into the inbox, as ``emit`` does."""
        ...

    def reports(self, limit: int) -> list[StoredReport]:
        """The oldest ``limit`` reports of the inbox."""
        ...

    def remove_report(self, report: StoredReport) -> None:
        """Remove a report that was accepted or set aside."""
        ...

    def set_aside(self, item: SetAside) -> None:
        """Store what caused an unexpected exception. It replaces an earlier entry with the same subject."""
        ...

    def held(self, since: int | None = None) -> list[Run]:
        """Runs with deployments that have been held since before ``since``; None: all runs with held deployments.

        Deployments held since a time in the future count too: the clock was set back.
        """
        ...

    def replay(self, deployments: Sequence[Deployment]) -> list[bool]:
        """Make settled deployments pending with fresh attempts and unchanged content. ``sent_revision`` is kept.

        False for each deployment whose state or revision has changed meanwhile.
        """
        ...

    def discard(self, deployments: Sequence[Deployment], reason: str) -> list[bool]:
        """Discard failed or pending deployments: they are kept, and never sent unless replayed.

        False for each deployment whose state or revision has changed meanwhile.
        """
        ...

    def note_action(self, numbers: Sequence[int], action: Action) -> None:
        """Store what a person did with the deployments with these numbers. It is deleted with the deployment."""
        ...


class Deliveries(Protocol):
    """Claims and settlements. Only the one dispatcher of an outbox claims: see the engine's lock."""

    def claim(self, limit: int, *, besides: Collection[int] = ()) -> list[Claimed]:
        """The deployments that are due, oldest first, without those in flight (``besides``: their numbers).

        A claim writes nothing: after a crash, what was in flight is still due.
        """
        ...

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Record the outcomes of attempts, in one transaction.

        After a success the deployment is delivered with the content that was sent, whatever its revision is now. If it
        was delivered before, ``sent_revision`` does not change. Any other outcome counts only if the revision is still
        the one that was sent; otherwise only the attempt is recorded, and the newer revision stays due.
        """
        ...

    def make_due(self, *, later_than: int) -> int:
        """Make pending deployments due whose next attempt is later than ``later_than``; returns how many."""
        ...

    def save_delivery_state(self, state: DeliveryState) -> None:
        """Store the state of delivery for other processes."""
        ...

    def delivery_state(self) -> DeliveryState | None:
        """The stored state of delivery; None if delivery never ran."""
        ...


class Cursors(Protocol):
    """How far the polls of each controller have read."""

    def jobs(self, controller: str) -> dict[str, JobCursor]:
        """All cursors by full name."""
        ...

    def job(self, controller: str, full_name: str) -> JobCursor | None:
        """The cursor of one job; None if the poller never saw the job."""
        ...

    def open_builds(self, controller: str) -> dict[str, list[OpenBuild]]:
        """The open builds of all jobs, by full name."""
        ...

    def wanted_builds(self, controller: str) -> list[WantedBuild]:
        """Builds that sent a report and that the poller has not read yet, oldest first."""
        ...

    def want_builds(self, controller: str, builds: Sequence[tuple[str, int]]) -> None:
        """Make the poller read these builds (job, number), unless they are open already."""
        ...

    def job_errors(self, controller: str | None = None) -> dict[str, JobError]:
        """Jobs that could not be read, by full name."""
        ...

    def save_progress(self, progress: Progress) -> None:
        """Store how far a poll has read, in one transaction (the caller's, if there is one)."""
        ...

    def endings(self, controller: str, full_name: str) -> list[Ended]:
        """What became of the build numbers below the job's cursor: ranges that do not overlap, lowest first.

        A range may contain open builds; those have not ended.
        """
        ...

    def former_names(self, project: Project) -> list[Project]:
        """Other names under which builds of this project may be stored."""
        ...

    def was_reported(self, run: Run, started_at: int) -> bool:
        """Whether a deployment exists for the build of this run, under the current or a former name of its project."""
        ...

    def controller(self, name: str) -> ControllerState | None:
        """The state of one controller; None if it was never polled."""
        ...

    def save_controller(self, state: ControllerState) -> None:
        """Insert or replace."""
        ...

    def missed(self) -> list[Missed]:
        """Jobs with builds that were deleted before they could be read, latest first."""
        ...


class Backfills(Protocol):
    """Progress of interrupted backfills, so that they can be resumed."""

    def backfill_span(self, words: str) -> tuple[int, int] | None:
        """Start and end of the unfinished backfill with these arguments."""
        ...

    def begin_backfill(self, words: str, since: int, until: int) -> None:
        """Store the time span: ``7d`` means the same seven days if the backfill is resumed tomorrow."""
        ...

    def backfilled_jobs(self, words: str, controller: str) -> set[str]:
        """The jobs that are finished."""
        ...

    def note_backfilled_job(self, words: str, controller: str, full_name: str) -> None:
        """Mark a job as finished."""
        ...

    def end_backfill(self, words: str) -> None:
        """Mark the backfill as finished: the same arguments start a new one."""
        ...


class Gaps(Protocol):
    """How far the APIs of platforms were read for webhooks that did not arrive."""

    def gap_looks(self) -> list[GapLook]:
        """All of them, in the order of hook, project and stream."""
        ...

    def gap_look(self, hook: str, project: str, stream: str) -> GapLook | None:
        """The one of this stream; None if it was never read."""
        ...

    def save_gap_look(self, look: GapLook) -> None:
        """Insert or replace."""
        ...


class Looking(Protocol):
    """Queries for people: the command line, the metrics, the pages."""

    def query(self, which: Filter, page: Page) -> list[Deployment]:
        """A page of deployments, newest first. It reads until the page is full: all deployments, if few match."""
        ...

    def find(self, name: str) -> Deployment | None:
        """The deployment with this deployment_id or, if there is none, with this number."""
        ...

    def with_numbers(self, numbers: Collection[int]) -> dict[int, Deployment]:
        """The deployments with these numbers that exist, by number."""
        ...

    def deployed(
        self, since: int, until: int, *, environment: str | None = None, repo_url: str | None = None
    ) -> Iterator[Deployed]:
        """Deployments that ended at or after ``since`` and before ``until``, without discarded ones.

        They come in the order of their ends and, if these are equal, of their numbers. They are read during the
        iteration, all from one state of the outbox.
        """
        ...

    def deployed_by_week(
        self, since: int, until: int, *, environment: str | None = None, repo_url: str | None = None
    ) -> Iterator[Deployed | DeployedWeek]:
        """The same deployments for the figures of DORA: most whole weeks are added up, which is faster by far.

        They come by environment and repository, and for each of these in the order of their ends. During the iteration
        this outbox object must not be used for anything else.
        """
        ...

    def projects(self, ended_since: int) -> list[Project]:
        """Projects with deployments whose build ended at or after this time, each under the name it had then."""
        ...

    def outdated(self, among: int) -> int:
        """How many of the newest ``among`` deployments were delivered in an older or unknown revision."""
        ...

    def quiet_since(self, moment: int, *, least: int) -> list[LastDeployments]:
        """Projects with at least ``least`` deploying builds, none of which ended at or after ``moment``.

        Projects that were renamed are left out. Discarded deployments and those with a problem do not count. Takes 0.1
        s for a million deployments.
        """
        ...

    def of_run(self, run: Run) -> list[Deployment]:
        """All deployments of a run, under the current and former names of its project."""
        ...

    def attempts(self, deployment: Deployment) -> list[Attempt]:
        """The first attempt and the last ones, oldest first. ``Deployment.attempts`` has their number."""
        ...

    def actions(self, deployment: Deployment) -> list[Action]:
        """What persons did with a deployment, oldest first."""
        ...

    def facts(self, run: Run) -> list[Fact]:
        """All facts about a run, under the current and former names of its project."""
        ...

    def counts(self) -> Counts:
        """Deployments by state. The time does not depend on how many are pending or delivered."""
        ...

    def backlog(self) -> Backlog:
        """The counts, and when the oldest pending deployment was enqueued: one statement."""
        ...

    def controllers(self) -> list[ControllerState]:
        """All controllers that were ever polled."""
        ...

    def open_build_counts(self) -> Mapping[str, int]:
        """The number of open builds by controller."""
        ...

    def things_set_aside(self, limit: int) -> list[SetAside]:
        """The newest entries first."""
        ...


class Pages(Protocol):
    """Queries for the web pages. None of them reads all deployments, whatever their number."""

    def search(self, which: Filter, page: Page, *, count_to: int = 0) -> Found:
        """The same as :meth:`Looking.query`, but it may stop before the page is full and returns where to continue.

        ``count_to``: also count all that match, on this page or not. It counts to this number, and stops earlier if it
        reads too many others. 0: nothing is counted.
        """
        ...

    def failed_groups(self, limit: int) -> FailedGroups:
        """Failed deployments by their causes: at most ``limit`` groups."""
        ...

    def names(self, at_most: int = 1_000) -> Names:
        """The environments and the repositories of all deployments, each in order: at most so many of each."""
        ...

    def per_hour(self, since: int) -> list[Hour]:
        """What was delivered and what failed, from the hour of ``since`` on. Hours without either are left out."""
        ...

    def recent(self, since: int) -> Recent:
        """How many deployments ended at or after ``since``, by state."""
        ...


class Hooks(Protocol):
    """Deliveries of webhooks, and the starts that they announced."""

    def hook_delivery(self, hook: str, delivery_id: str) -> HookDelivery | None:
        """The delivery with this id; None if it is not known, or if the id is empty."""
        ...

    def note_hook_delivery(self, delivery: HookDelivery) -> None:
        """Store a delivery. It replaces an earlier one of the same webhook with the same id, unless the id is empty."""
        ...

    def hook_deliveries(self, limit: int, hook: str | None = None) -> list[HookDelivery]:
        """The newest deliveries of a webhook, or of all, newest first."""
        ...

    def hook_start(self, key: str) -> HookStart | None:
        """What is known about the start with this key."""
        ...

    def note_hook_start(self, start: HookStart) -> None:
        """Insert or replace what is known about a start."""
        ...


class Housekeeping(Protocol):
    """Deletion in small steps of a few milliseconds each."""

    def prune(self, keep: Keep) -> bool:
        """Delete a few outdated rows; True if there may be more.

        Facts of a build are deleted with its attempts when the build is final or gone (or its project is no longer
        polled) and all its deployments have been settled for ``bodies_ms``. Deployments are deleted after
        ``deployments_ms``; a hash of their ids is kept for ``ids_ms``. Failed deployments stay until a person decides.
        Deliveries and starts of webhooks are deleted after :data:`agent.outbox.hooks.KEEP_MS`.
        """
        ...

    def try_writing(self) -> None:
        """Test that the outbox can be written, without changing data."""
        ...

    def size(self) -> int:
        """Bytes used by data, without free pages."""
        ...


class Outbox(Deployments, Deliveries, Cursors, Backfills, Gaps, Looking, Pages, Hooks, Housekeeping, Protocol):
    """The whole interface."""

    @property
    def clock(self) -> Clock:
        """The clock for all stored times."""
        ...

    def close(self) -> None:
        """Close all files."""
        ...

    def all_deployments(self) -> Iterator[Deployment]:
        """All deployments, oldest first, read in batches. For copying an outbox and for tests."""
        ...
