"""One look at one stream of a project: reads what ended, and takes what is missing."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from agent.model.secrets import redact
from agent.sources.webhooks.gaps.errors import ApiError, SpentError, WaitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config.settings import WebhookSettings
    from agent.sources.webhooks.gaps.api import Api
    from agent.sources.webhooks.gaps.values import Cursor, Step, Stream
    from agent.sources.webhooks.values import Delivery, Meaning, Reader

log = structlog.get_logger("webhooks")

# The position is stored after this many steps. After a crash, these are read again.
STORE_EVERY = 50
# Problems of single runs that are logged in one look.
MOST_PROBLEMS = 5


class Result(enum.Enum):
    """What became of a run that the platform lists."""

    FOUND = "found"  # it was missing
    KNOWN = "known"
    IGNORED = "ignored"  # it is no deployment, or not wanted
    REFUSED = "refused"  # a report without a required field


@dataclass(frozen=True)
class Took:
    """``deployment_id``: of what was found or known. ``reason``: why it was ignored or refused."""

    result: Result
    deployment_id: str = ""
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Subject:
    """What a look is about: a stream of a project of a hook."""

    hook: WebhookSettings
    project: str
    stream: str

    def __str__(self) -> str:
        return f"{self.hook.name} {self.project} ({self.stream})"


class Store(Protocol):
    """The outbox, as gap repair needs it. Every method raises :class:`agent.outbox.values.OutboxError`."""

    async def take(self, hook: WebhookSettings, webhooks: Sequence[tuple[Delivery, Meaning]]) -> Took:
        """Store a deployment if it is missing: the webhooks of its start and end, and what they mean.

        It is on the disk when this returns.
        """
        ...

    async def save(self, subject: Subject, cursor: Cursor, found: int) -> None:
        """Store how far a look has read. ``found``: the missing deployments since the last call."""
        ...


@dataclass
class Seen:
    """What a look saw. ``wait_ms``: the platform asks to wait. ``unfinished``: the next look continues soon."""

    cursor: Cursor
    took: list[Took] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    error: str | None = None
    wait_ms: int | None = None
    unfinished: bool = False
    steps: int = 0

    @property
    def found(self) -> int:
        """How many missing deployments were found."""
        return sum(each.result is Result.FOUND for each in self.took)


async def look(api: Api, subject: Subject, stream: Stream, cursor: Cursor, *, reader: Reader, store: Store) -> Seen:
    """Read everything since the cursor. Errors of the platform end the look and are part of the result."""
    seen = Seen(cursor)
    stored_found = 0
    api.begin()
    try:
        async for step in stream(api, subject.project, cursor):
            await _take(seen, step, subject.hook, reader, store)
            seen.steps += 1
            if seen.steps % STORE_EVERY == 0:
                await store.save(subject, seen.cursor, seen.found - stored_found)
                stored_found = seen.found
    except SpentError:
        seen.unfinished = True
    except WaitError as error:
        seen.error, seen.wait_ms = str(error), error.wait_ms
    except ApiError as error:
        seen.error = str(error)
    except ValueError as error:
        seen.error = redact(f"an answer of {subject.hook.platform} has another shape: {error}")[:500]
    finally:
        await store.save(subject, seen.cursor, seen.found - stored_found)
    return seen


async def _take(seen: Seen, step: Step, hook: WebhookSettings, reader: Reader, store: Store) -> None:
    problem = step.problem
    if step.deliveries and step.ended_at >= seen.cursor.begun:
        try:
            webhooks = [(delivery, reader(delivery, hook)) for delivery in step.deliveries]
        except ValueError as error:
            problem = str(error)
        else:
            took = await store.take(hook, webhooks)
            seen.took.append(took)
            problem = took.reason if took.result is Result.REFUSED else ""
    if problem:
        seen.problems.append(redact(problem))
    seen.cursor = step.cursor


def tell(subject: Subject, seen: Seen) -> None:
    """Log what a look found, and what it could not read."""
    about = {"webhook": subject.hook.name, "project": subject.project}
    for took in seen.took:
        if took.result is Result.FOUND:
            log.info("missed deployment found", **about, deployment_id=took.deployment_id)
    for problem in seen.problems[:MOST_PROBLEMS]:
        log.warning("cannot read a deployment of the platform", **about, reason=problem)
    if len(seen.problems) > MOST_PROBLEMS:
        log.warning("cannot read deployments of the platform", **about, more=len(seen.problems) - MOST_PROBLEMS)
