"""The jobs of one poll: first requests run concurrently, results are processed in order, no job blocks the others."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

from agent.sources.jenkins.errors import AskedToWaitError, JenkinsError, UnauthorizedError, UnreachableError
from agent.sources.jenkins.look import first_look
from agent.sources.jenkins.reading import NOT_OF_ONE_JOB, Looked

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Future

    from agent.sources.jenkins.discovery import Found
    from agent.sources.jenkins.look import Candidate
    from agent.sources.jenkins.reader import FirstAnswer, JobReader
    from agent.sources.jenkins.reading import Reading
    from agent.sources.jenkins.storing import Storing

# After this many jobs in a row without an answer, the controller itself is checked.
SILENT_JOBS = 5


class Round:
    """Looks at the jobs of one poll.

    ``is_up`` sends a request to the controller itself and raises if there is no answer.
    """

    def __init__(self, reader: JobReader, reading: Reading, storing: Storing, *, is_up: Callable[[], object]) -> None:
        self._reader = reader
        self._reading = reading
        self._storing = storing
        self._is_up = is_up
        self._silent: list[tuple[str, JenkinsError]] = []
        self._patience = SILENT_JOBS

    def look_at(self, found: Found, *, at_once: int, stopping: Callable[[], bool]) -> None:
        """Read and store all jobs. Raises :class:`JenkinsError` if the controller itself does not answer any more, and
        :class:`agent.outbox.values.OutboxError`.
        """
        renewed = [Looked(candidate, first_look(candidate)) for candidate in found.renewed]
        try:
            with closing(self._ask_all(found.candidates, at_once)) as asked:
                for candidate, answer in asked:
                    looked = self._look(candidate, answer)
                    if looked is not None and looked.candidate.took_name:
                        renewed.append(looked)
                    elif looked is not None:
                        self._storing.add(looked)
                    if stopping():
                        break
        except JenkinsError:
            self._storing.commit()  # what was read so far
            raise
        self._others_answer()
        self._storing.commit()
        if stopping():
            return
        # These names belonged to other jobs. Now it is known which of those were found under other names.
        for looked in renewed:
            self._storing.add(self._reading.with_what_is_gone(looked))
        self._storing.commit()

    def _ask_all(
        self, candidates: Iterable[Candidate], at_once: int
    ) -> Generator[tuple[Candidate, Future[FirstAnswer | None]]]:
        """Send the first request for each job, several at once but only a few ahead of the processing."""
        with ThreadPoolExecutor(at_once, thread_name_prefix="ask") as pool:
            asked: deque[tuple[Candidate, Future[FirstAnswer | None]]] = deque()
            try:
                for candidate in candidates:
                    asked.append((candidate, pool.submit(self._reader.ask_ahead, candidate)))
                    if len(asked) > 2 * at_once:
                        yield asked.popleft()
                while asked:
                    yield asked.popleft()
            finally:
                pool.shutdown(cancel_futures=True)

    def _look(self, candidate: Candidate, answer: Future[FirstAnswer | None]) -> Looked | None:
        """Read one job; None if it could not be read: its cursor is unchanged."""
        name = candidate.job.full_name
        try:
            looked = self._reading.look(candidate, answer.result() or self._reader.ask(candidate))
        except AskedToWaitError as error:
            if error.asked:  # a page that always asks to wait gets a longer backoff, and other jobs go first
                self._storing.set_aside(name, error)
            raise
        except NOT_OF_ONE_JOB:
            raise
        except (UnreachableError, UnauthorizedError) as error:
            self._note_silence(name, error)
        except Exception as error:  # noqa: BLE001 - an unexpected error concerns only this job
            self._storing.set_aside(name, error)
        else:
            self._others_answer()
            self._storing.note(looked)
            return looked
        return None

    def _note_silence(self, job: str, error: JenkinsError) -> None:
        """Other jobs' answers will show whether the job or the controller fails."""
        self._silent.append((job, error))
        if len(self._silent) >= self._patience:
            self._is_up()
            self._patience *= 2
            self._others_answer()

    def _others_answer(self) -> None:
        for job, error in self._silent:
            self._storing.set_aside(job, error)
        self._silent.clear()
