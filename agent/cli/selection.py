"""The events that a verb changes, selected by IDs or by filters. A selection by filters must be confirmed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from agent.cli.filters import Filters, filter_options
from agent.model.deployment import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.inspect.queue import Queue
    from agent.model.deployment import Deployment
    from agent.outbox.interface import Outbox


@dataclass(frozen=True)
class Action:
    """The texts of a verb. ``takes_delivered``: it also takes delivered events, with ``--all-delivered``."""

    verb: str
    """*select the events to* … (``replay``)"""
    done: str
    """*nothing was* … (``replayed``)"""
    effect: str
    """*3 event(s) would be* … (``sent again``)"""
    takes_delivered: bool = False
    reason_names: tuple[str, ...] = ("--error",)
    """Names of the option that filters by the reason."""

    @property
    def filters(self) -> str:
        """The options that select by state."""
        return "--failed / --all-delivered" if self.takes_delivered else "--failed"


@dataclass(frozen=True)
class Wanted:
    """The selection on the command line."""

    ids: tuple[str, ...]
    failed: bool
    yes: bool
    filters: Filters
    all_delivered: bool = False

    @property
    def by_filters(self) -> bool:
        """Whether there is an option besides the IDs."""
        return self.failed or self.all_delivered or self.filters.given


def selection_options(action: Action) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of a selection to a verb, which gets them as ``wanted``, a :class:`Wanted`."""
    delivered = click.option("--all-delivered", is_flag=True, help="Select delivered events. Needs --since.")
    options: tuple[Callable[[Any], Any], ...] = (
        click.argument("ids", nargs=-1, metavar="[ID]..."),
        click.option("--failed", is_flag=True, help="Select failed events."),
        *([delivered] if action.takes_delivered else []),
        filter_options(*action.reason_names),
        click.option("--yes", is_flag=True, help="Do not ask for confirmation."),
    )

    def give(verb: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(verb)
        def wrapper(
            ids: tuple[str, ...],
            *,
            failed: bool,
            yes: bool,
            filters: Filters,
            all_delivered: bool = False,
            **arguments: Any,
        ) -> Any:
            return verb(wanted=Wanted(ids, failed, yes, filters, all_delivered), **arguments)

        for option in reversed(options):
            wrapper = option(wrapper)
        return wrapper

    return give


def choose(outbox: Outbox, queue: Queue, wanted: Wanted, action: Action) -> list[Deployment]:
    """The selected deployments, oldest first. A selection by filters must be confirmed.

    Raises :class:`click.ClickException` if the selection is invalid, names an unknown event, or cannot be confirmed;
    :class:`click.Abort` if the answer is no.
    """
    if wanted.ids:
        if wanted.by_filters:
            raise click.UsageError(f"use either IDs or {action.filters} with filters, not both")
        return _named(queue, wanted.ids, action)
    chosen = list(wanted.filters.select(outbox, _states(wanted, action)))[::-1]
    if chosen and not wanted.yes:
        _confirm(f"{len(chosen)} event(s) would be {action.effect}")
    return chosen


def _named(queue: Queue, ids: tuple[str, ...], action: Action) -> list[Deployment]:
    found = {name: queue.find(name) for name in ids}
    unknown = [name for name, row in found.items() if row is None]
    if unknown:
        raise click.ClickException(f"there is no event {', '.join(map(repr, unknown))}; nothing was {action.done}")
    return list({row.number: row for row in found.values() if row is not None}.values())


def _states(wanted: Wanted, action: Action) -> tuple[State, ...]:
    if not wanted.failed and not wanted.all_delivered:
        ways = "IDs, --failed, or --all-delivered --since …" if action.takes_delivered else "IDs or --failed"
        raise click.UsageError(f"select the events to {action.verb}: {ways}")
    if wanted.all_delivered and wanted.filters.since is None:
        raise click.UsageError("--all-delivered requires --since, so that you do not send all events again by mistake")
    states = (State.FAILED, wanted.failed), (State.DELIVERED, wanted.all_delivered)
    return tuple(state for state, chosen in states if chosen)


def _confirm(told: str) -> None:
    if not sys.stdin.isatty():
        raise click.ClickException(f"{told}; to confirm, repeat the command with --yes")
    click.confirm(f"{told}. Continue?", abort=True, err=True)
