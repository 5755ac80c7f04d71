"""The outbox as everybody but its engine sees it. What is promised here is tested in tests/conformance/.

An outbox is used by one thread at a time; several of them, in threads and processes, may be open on the same data.
All times are UTC milliseconds. Every method raises :class:`agent.outbox.values.OutboxError` when the outbox cannot be
used, and then nothing of its work is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from agent.model.deployment import Deployment
    from agent.model.endings import Ended
    from agent.model.fact import Fact
    from agent.model.keys import Project, Run
    from agent.model.times import Clock
    from agent.outbox.values import (
        Attempt,
        Change,
        Claimed,
        ControllerState,
        Counts,
        DeliveryState,
        Filter,
        JobCursor,
        JobError,
        Keep,
        LastDeployments,
        Missed,
        OpenBuild,
        Page,
        Progress,
        RunState,
        SetAside,
        Settlement,
        StoredReport,
        WantedBuild,
    )


class Deployments(Protocol):
    """Facts and the deployments that they amount to."""

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing, durable when the outermost block ends; no other writer comes in between."""
        ...

    def load(self, runs: Collection[Run]) -> dict[Run, RunState]:
        """What is stored about these runs, each under its project's name and the former names of it.

        Facts in the order in which they were stored; an open build of the poller is a SEEN fact among them.
        """
        ...

    def store(self, changes: Sequence[Change]) -> dict[str, int]:
        """Store facts, insert, rewrite and remove deployments, in one transaction.

        Returns the ids that could not be given because another deployment has or had them, each with the start of
        that one's build: those deployments were not inserted (or, rewritten ones, stayed as they were).
        """
        ...

    def add_report(self, body: str) -> None:
        """Put a report into the inbox, as ``emit`` does."""
        ...

    def reports(self, limit: int) -> list[StoredReport]:
        """The oldest reports of the inbox."""
        ...

    def remove_report(self, report: StoredReport) -> None:
        """It was taken, or set aside."""
        ...

    def set_aside(self, item: SetAside) -> None:
        """Remember what an exception that nobody expected came from; the same subject again replaces it."""
        ...

    def held(self, since: int | None = None) -> list[Run]:
        """The runs with deployments that are held, since before ``since`` or (the clock was set back) from later than
        now on; None: all of them."""
        ...

    def replay(self, deployments: Sequence[Deployment]) -> list[bool]:
        """Make settled deployments pending with fresh attempts, as they are. Which revision Hivel has stays known.

        False for each that is not in its state and revision any more.
        """
        ...

    def discard(self, deployments: Sequence[Deployment], reason: str) -> list[bool]:
        """Let failed or pending ones go: kept, their ids known, never sent again unless replayed.

        False for each that is not in its state and revision any more.
        """
        ...


class Deliveries(Protocol):
    """Claims and settlements. Only the one dispatcher of an outbox claims: see the engine's lock."""

    def claim(self, limit: int, *, besides: Collection[int] = ()) -> list[Claimed]:
        """The deployments that are due, oldest first, without those in flight (``besides``: their numbers).

        A claim writes nothing: after a crash, what was in flight is simply due.
        """
        ...

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Record what came of attempts, in one transaction.

        A success settles the deployment whatever its revision is by now: it becomes delivered with the content that
        was sent. Of one that was delivered before, the revision that Hivel has stays what it was. Everything else obeys
        the revision: of an older one only the attempt is recorded, and the newer one stays due.
        """
        ...

    def make_due(self, *, later_than: int) -> int:
        """Let pending ones that wait beyond ``later_than`` be due now; returns how many."""
        ...

    def save_delivery_state(self, state: DeliveryState) -> None:
        """Tell other processes what the delivery is up to."""
        ...

    def delivery_state(self) -> DeliveryState | None:
        """What the delivery last said; None: it never ran."""
        ...


class Cursors(Protocol):
    """How far the polls of each controller have read."""

    def jobs(self, controller: str) -> dict[str, JobCursor]:
        """All cursors by full name."""
        ...

    def job(self, controller: str, full_name: str) -> JobCursor | None:
        """One cursor; None: the job was never seen."""
        ...

    def open_builds(self, controller: str) -> dict[str, list[OpenBuild]]:
        """The open builds of all jobs, by full name."""
        ...

    def wanted_builds(self, controller: str) -> list[WantedBuild]:
        """Builds that reported something and that no poll knows yet, the oldest first."""
        ...

    def want_builds(self, controller: str, builds: Sequence[tuple[str, int]]) -> None:
        """Ask for these builds (job, number), unless they are open already."""
        ...

    def job_errors(self, controller: str | None = None) -> dict[str, JobError]:
        """Jobs that could not be read, by full name."""
        ...

    def save_progress(self, progress: Progress) -> None:
        """Store how far a poll read, in one transaction; within that of the caller where there is one."""
        ...

    def endings(self, controller: str, full_name: str) -> list[Ended]:
        """What became of the numbers below the job's cursor, in ranges that do not overlap, the lowest first.

        Open builds may lie in them, and have not ended yet.
        """
        ...

    def former_names(self, project: Project) -> list[Project]:
        """Under which names builds of this project may be stored, besides its own."""
        ...

    def was_reported(self, run: Run, started_at: int) -> bool:
        """Whether the build of this run (under this or a former name of the project) has a deployment."""
        ...

    def controller(self, name: str) -> ControllerState | None:
        """None: it was never polled."""
        ...

    def save_controller(self, state: ControllerState) -> None:
        """Insert or replace."""
        ...

    def missed(self) -> list[Missed]:
        """Jobs with builds that were gone before they could be read, the latest first."""
        ...


class Backfills(Protocol):
    """Backfills that were interrupted go on where they were."""

    def backfill_span(self, words: str) -> tuple[int, int] | None:
        """Since and until of the unfinished backfill that was asked for in these words."""
        ...

    def begin_backfill(self, words: str, since: int, until: int) -> None:
        """Remember the span: ``7d`` means the same seven days when it is resumed tomorrow."""
        ...

    def backfilled_jobs(self, words: str, controller: str) -> set[str]:
        """The jobs that are done."""
        ...

    def note_backfilled_job(self, words: str, controller: str, full_name: str) -> None:
        """This job is done."""
        ...

    def end_backfill(self, words: str) -> None:
        """All is done: the same words ask anew."""
        ...


class Looking(Protocol):
    """For people: the command line, the metrics, the pages."""

    def query(self, which: Filter, page: Page) -> list[Deployment]:
        """A page of deployments, the newest first."""
        ...

    def find(self, name: str) -> Deployment | None:
        """The one with this deployment_id, else with this number."""
        ...

    def projects(self, ended_since: int) -> list[Project]:
        """Those with deployments of builds that ended then or later, each under the name that these have."""
        ...

    def outdated(self, among: int) -> int:
        """How many of the newest ``among`` deployments Hivel has in another revision than the last, or nobody knows
        in which."""
        ...

    def quiet_since(self, moment: int, *, least: int) -> list[LastDeployments]:
        """Projects with at least so many builds that were deployments, none of which ended then or later.

        Without those that have another name by now. What cannot be sent and what was discarded does not count. It takes
        a tenth of a second for a million deployments.
        """
        ...

    def of_run(self, run: Run) -> list[Deployment]:
        """All deployments of a run, under its project's name and the former ones."""
        ...

    def attempts(self, deployment: Deployment) -> list[Attempt]:
        """The first attempt and the last ones, oldest first; how many there were is ``Deployment.attempts``."""
        ...

    def facts(self, run: Run) -> list[Fact]:
        """What was said about a run, under its project's name and the former ones."""
        ...

    def counts(self) -> Counts:
        """As fast for a million pending or delivered ones as for none."""
        ...

    def oldest_pending(self) -> int | None:
        """When the pending one that waits longest was enqueued."""
        ...

    def controllers(self) -> list[ControllerState]:
        """All controllers that were ever polled."""
        ...

    def open_build_counts(self) -> Mapping[str, int]:
        """How many builds are followed, by controller."""
        ...

    def things_set_aside(self, limit: int) -> list[SetAside]:
        """The newest first."""
        ...


class Housekeeping(Protocol):
    """Deleting, in small steps; a step takes some milliseconds."""

    def prune(self, keep: Keep) -> bool:
        """Delete a little of what is older; True when there may be more.

        The facts of a build go together, once it is final or gone (or its project is not polled) and all its
        deployments are settled for ``bodies_ms``; attempts go with them. Deployments go after ``deployments_ms``, and
        leave a hash of their ids for ``ids_ms``. Failed ones stay until somebody decides.
        """
        ...

    def try_writing(self) -> None:
        """Write something that changes nothing."""
        ...

    def size(self) -> int:
        """Bytes that the data takes, without what is free inside."""
        ...


class Outbox(Deployments, Deliveries, Cursors, Backfills, Looking, Housekeeping, Protocol):
    """All of it."""

    @property
    def clock(self) -> Clock:
        """What tells the time of everything that is stored."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...

    def all_deployments(self) -> Iterator[Deployment]:
        """Every one, oldest first, in pieces: to copy an outbox, or to count in tests."""
        ...
