"""Which events a verb is to change: IDs, or filters whose result is counted first and done after a yes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from agent.cli.values import job_pattern, moment
from agent.ingest import replay
from agent.model.deployment import State
from agent.outbox.values import Filter

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.inspect.queue import Queue
    from agent.model.deployment import Deployment
    from agent.outbox.interface import Outbox


@dataclass(frozen=True)
class Action:
    """What the verb does, in words. ``takes_delivered``: also to delivered events, with ``--all-delivered``."""

    verb: str
    """*say what to* … (``replay``)"""
    done: str
    """*nothing was* … (``replayed``)"""
    effect: str
    """*3 event(s) would be* … (``sent again``)"""
    takes_delivered: bool = False

    @property
    def filters(self) -> str:
        """The options that select by a state."""
        return "--failed / --all-delivered" if self.takes_delivered else "--failed"


@dataclass(frozen=True)
class Wanted:
    """What the command line said."""

    ids: tuple[str, ...]
    failed: bool
    since: str | None
    until: str | None
    job: str | None
    environment: str | None
    error: str | None
    yes: bool
    all_delivered: bool = False

    @property
    def by_filters(self) -> bool:
        """Whether it said more than IDs."""
        given = (self.failed, self.all_delivered, self.since, self.until, self.job, self.environment, self.error)
        return any(given)


def selection_options(action: Action) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a verb the options of a selection; it is called with all of them as ``wanted``, a :class:`Wanted`."""
    delivered = click.option("--all-delivered", is_flag=True, help="Delivered events too; needs --since.")
    options = (
        click.argument("ids", nargs=-1, metavar="[ID]..."),
        click.option("--failed", is_flag=True, help="Failed events."),
        *([delivered] if action.takes_delivered else []),
        click.option("--since", help="Only events enqueued since then: 24h, 2026-01-31, 2026-01-31T18:00:00Z."),
        click.option("--until", help="Only events enqueued before then."),
        click.option("--job", help='Only events of jobs that match: "deploy/**" or "re:…".'),
        click.option("--environment", help="Only events of this environment."),
        click.option("--error", help="Only events whose reason contains this text."),
        click.option("--yes", is_flag=True, help="Do not ask."),
    )
    names = {field.name for field in fields(Wanted)}

    def give(verb: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(verb)
        def wrapper(**arguments: Any) -> Any:
            wanted = Wanted(**{name: arguments.pop(name) for name in names & arguments.keys()})
            return verb(wanted=wanted, **arguments)

        for option in reversed(options):
            wrapper = option(wrapper)
        return wrapper

    return give


def choose(outbox: Outbox, queue: Queue, wanted: Wanted, action: Action) -> list[Deployment]:
    """The deployments, after a yes where they were selected by filters.

    Raises a :class:`click.ClickException` when the selection makes no sense, names an event that is not there, or
    nobody can be asked; :class:`click.Abort` after a no.
    """
    if wanted.ids:
        if wanted.by_filters:
            raise click.UsageError(f"either IDs or {action.filters} with filters, not both")
        return _named(queue, wanted.ids, action)
    which = _filter(wanted, action, outbox.clock.now_ms())
    chosen = replay.choose(outbox, which, job_pattern("--job", wanted.job))
    if chosen and not wanted.yes:
        _confirm(f"{len(chosen)} event(s) would be {action.effect}")
    return chosen


def _named(queue: Queue, ids: tuple[str, ...], action: Action) -> list[Deployment]:
    found = {name: queue.find(name) for name in ids}
    unknown = [name for name, row in found.items() if row is None]
    if unknown:
        raise click.ClickException(f"there is no event {', '.join(map(repr, unknown))}; nothing was {action.done}")
    return list({row.number: row for row in found.values() if row is not None}.values())


def _filter(wanted: Wanted, action: Action, now_ms: int) -> Filter:
    if not wanted.failed and not wanted.all_delivered:
        ways = "IDs, --failed, or --all-delivered --since …" if action.takes_delivered else "IDs or --failed"
        raise click.UsageError(f"say what to {action.verb}: {ways}")
    if wanted.all_delivered and wanted.since is None:
        raise click.UsageError("--all-delivered needs --since: everything that was ever sent is rarely meant")
    states = (State.FAILED, wanted.failed), (State.DELIVERED, wanted.all_delivered)
    return Filter(
        states=tuple(state for state, chosen in states if chosen),
        since=None if wanted.since is None else moment("--since", wanted.since, now_ms),
        until=None if wanted.until is None else moment("--until", wanted.until, now_ms),
        environment=wanted.environment,
        reason=wanted.error,
    )


def _confirm(told: str) -> None:
    if not sys.stdin.isatty():
        raise click.ClickException(f"{told}; repeat the command with --yes to do it")
    click.confirm(f"{told}. Do it?", abort=True, err=True)
