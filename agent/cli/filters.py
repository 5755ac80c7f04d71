"""Options that select events of the outbox. They are the same for ``queue list``, ``queue discard`` and ``replay``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from agent.cli.values import job_pattern, time_span
from agent.ingest.replay import newest_first
from agent.model.status import Status
from agent.outbox.values import Filter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.model.deployment import Deployment, State
    from agent.outbox.interface import Outbox


@dataclass(frozen=True)
class Filters:
    """The options as they were given. An event must meet all of them."""

    since: str | None = None
    until: str | None = None
    environment: str | None = None
    repo: str | None = None
    status: str | None = None
    job: str | None = None
    reason: str | None = None

    @property
    def given(self) -> bool:
        """Whether there is at least one condition."""
        return self != Filters()

    def select(self, outbox: Outbox, states: tuple[State, ...] = ()) -> Iterator[Deployment]:
        """The events that meet the conditions, newest first. Raises :class:`click.UsageError` for an invalid value."""
        since, until = time_span(self.since, self.until, outbox.clock.now_ms())
        which = Filter(
            states=states,
            since=since,
            until=until,
            environment=self.environment,
            repo_url=self.repo,
            status=self.status,
            reason=self.reason,
        )
        return newest_first(outbox, which, job_pattern("--job", self.job))


def filter_options(*reason_names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of :class:`Filters` to a verb, which gets them as ``filters``.

    ``reason_names``: the names of the option for the text in the reason.
    """
    times = "7d, 12h, 2026-01-31, 2026-01-31T18:00:00Z"
    options = (
        click.option("--since", metavar="TIME", help=f"Deployments that ended at or after this time: {times}."),
        click.option("--until", metavar="TIME", help="Deployments that ended before this time."),
        click.option("--environment", metavar="NAME", help="Events of this environment."),
        click.option("--repo", metavar="URL", help="Events with this repo_url."),
        click.option(
            "--status", type=click.Choice([status.value for status in Status]), help="Events with this status."
        ),
        click.option(
            "--job", metavar="PATTERN", help='Events of jobs that match the pattern, such as "deploy/**" or "re:…".'
        ),
        click.option(
            *reason_names, "reason_text", metavar="TEXT", help="Events whose reason contains this text, ignoring case."
        ),
    )
    names = {field.name for field in fields(Filters)} - {"reason"}

    def give(verb: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(verb)
        def wrapper(**arguments: Any) -> Any:
            given = {name: arguments.pop(name) for name in names}
            return verb(filters=Filters(**given, reason=arguments.pop("reason_text")), **arguments)

        for option in reversed(options):
            wrapper = option(wrapper)
        return wrapper

    return give
