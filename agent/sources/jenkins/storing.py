"""Stores the results of a poll: facts and cursors together, several jobs in one transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from agent.model.deployment import State
from agent.model.endings import Ending
from agent.outbox.values import OutboxError, Progress
from agent.sources.jenkins.look import STORE_AT, ended
from agent.sources.jenkins.unread import in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.ingest.ingest import Ingest
    from agent.model.endings import Ended
    from agent.model.fact import Fact
    from agent.sources.jenkins.reading import Looked
    from agent.sources.jenkins.unread import Unread

log = structlog.get_logger("poller")

# Jobs stored in one transaction. One transaction for each job would wait for the disk each time.
JOBS_TOGETHER = 20
# Endings that are logged once for each build. Read builds are logged when stored, unreadable ones as missed.
_NOT_REPORTED = (Ending.HISTORY, Ending.NO_RULE, Ending.FORMER_NAME)


@dataclass
class PollReport:
    """What one poll did. ``problems``: messages about what could not be read; ``job_errors``: number of such jobs."""

    controller: str
    jobs: int = 0
    moved: int = 0
    followed: int = 0
    renamed: int = 0
    enqueued: list[str] = field(default_factory=list)
    underivable: list[str] = field(default_factory=list)
    missed: int = 0
    problems: list[str] = field(default_factory=list)
    job_errors: int = 0
    requests: int = 0
    complete: bool = False


class Storing:
    """Stores what one poll of a controller finds, and counts it in the report.

    ``take_reports`` accepts waiting reports and is called before facts are stored. Methods raise :class:`OutboxError`.
    """

    def __init__(self, ingest: Ingest, take_reports: Callable[[], object], unread: Unread, report: PollReport) -> None:
        self._ingest = ingest
        self._take_reports = take_reports
        self._unread = unread
        self._report = report
        self._looked: list[Looked] = []
        self.stored = False

    def set_aside(self, job: str, error: Exception) -> None:
        """The job could not be read: start its backoff."""
        self._unread.failed(job, error)
        self._report.problems.append(f"job {job}: {in_words(error)}")

    def accept(self, facts: Sequence[Fact], progress: Progress | None = None) -> None:
        """Store at once. ``stored`` is true from then on."""
        self.stored = True
        if facts:
            self._take_reports()
        for each in self._ingest.accept(facts, progress).deployments:
            if each.deployment_id is not None and each.state is State.PENDING:
                self._report.enqueued.append(each.deployment_id)
            elif each.deployment_id is not None and each.state is State.FAILED:
                self._report.underivable.append(each.deployment_id)

    def add(self, looked: Looked) -> None:
        """Store a job with the next batch."""
        self._looked.append(looked)
        if len(self._looked) >= JOBS_TOGETHER or sum(len(job.facts) for job in self._looked) >= STORE_AT:
            self.commit()

    def commit(self) -> None:
        """Store the batch now. After a crash, what was not stored is read again."""
        together, self._looked = self._looked, []
        self._commit(together)

    def _commit(self, together: list[Looked]) -> None:
        if not together:
            return
        progress = self._progress(together)
        try:
            self.accept([fact for job in together for fact in job.facts], progress)
        except OutboxError:
            raise
        except Exception as error:  # noqa: BLE001 - an unexpected error concerns one of the jobs
            if len(together) == 1:
                self.set_aside(together[0].name, error)
                return
            for each in together:
                self._commit([each])
        else:
            for each in together:
                self._tell(each, progress.ended[each.name])

    def _progress(self, together: list[Looked]) -> Progress:
        now = self._ingest.outbox.clock.now_ms()
        return Progress(
            self._report.controller,
            cursors=tuple(job.look.cursor for job in together),
            open_builds={job.name: tuple(job.look.open_builds) for job in together},
            missed={job.name: (job.missed, job.newest_missed) for job in together if job.missed},
            renamed=tuple(job.renamed for job in together if job.renamed is not None),
            begun=frozenset(job.name for job in together if job.begun),
            ended={job.name: ended(job.candidate, job.look, now) for job in together},
        )

    def note(self, looked: Looked) -> None:
        """Record what could and could not be read."""
        troubles = looked.look.troubles
        self._unread.read(looked.name, besides=looked.candidate.resting | troubles.keys())
        for number, error in troubles.items():
            self._unread.failed(looked.name, error, number)
            self._report.problems.append(f"build {looked.name}#{number}: {in_words(error)}")

    def _tell(self, looked: Looked, settled: Sequence[Ended]) -> None:
        told = log.bind(controller=self._report.controller, job=looked.name)
        if looked.renamed is not None:
            told.info("job was renamed", before=looked.renamed.former.full_name)
            self._report.renamed += 1
        for each in settled:
            if each.ending in _NOT_REPORTED:
                told.info("builds are not reported", first=each.first, last=each.last, reason=each.ending.value)
        if looked.missed:
            told.warning("builds disappeared before they could be read", builds=looked.missed)
            self._report.missed += looked.missed
        self._report.followed += len(looked.look.open_builds)
