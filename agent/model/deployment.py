"""A deployment as the outbox stores it: its part of a run, the content for Hivel, and its state."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agent.model import event as events
from agent.model.keys import Run  # noqa: TC001 - a field of a struct
from agent.model.status import Status  # noqa: TC001 - a field of a struct

if TYPE_CHECKING:
    from agent.model.event import DeploymentEvent


class State(enum.StrEnum):
    """The state of a deployment."""

    HELD = "held"  # waits until the poller has the final result
    PENDING = "pending"  # to be sent at its next attempt
    DELIVERED = "delivered"  # Hivel has it
    FAILED = "failed"  # needs a person: read the reason, correct the cause, replay
    DISCARDED = "discarded"  # discarded by a person


class Scope(enum.StrEnum):
    """Which part of a run a deployment covers."""

    WHOLE = "whole"  # the whole run
    STAGE = "stage"  # a stage that sent its own report
    RULE = "rule"  # one of several that the rule distinguishes by stage or repository


class Name(NamedTuple):
    """Identifies a part of a run, by what the run or the rule's findings say. A changed rule does not change it.

    ``environment`` as it was reported. ``start`` (UTC ms): of a stage that sent its own report, from that report.
    ``repository``: for rules that derive one deployment for each repository. ``again``: counts stages with the same
    name.
    """

    scope: Scope
    stage: str = ""
    environment: str = ""
    repository: str = ""
    start: int = 0
    again: int = 0


class Content(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The content of the event, without its id. Times are UTC milliseconds.

    ``problem``: why no event can be created; fields may then be missing. ``first_commit_at``: the time of the oldest
    new commit in this build.
    """

    status: Status
    started_at: int
    ended_at: int
    environment: str | None = None
    repo_url: str | None = None
    branch: str | None = None
    commit_hash: str | None = None
    first_commit_at: int | None = None
    build_number: str | None = None
    pr_number: str | None = None
    pr_numbers: tuple[int, ...] = ()
    image: str | None = None
    logs_url: str | None = None
    problem: str | None = None


class Deployment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A row of the outbox. Times are UTC milliseconds.

    Its part of a build: ``run``, the build's start and end (``build_started_at`` is exact once a poll has seen the
    build: ``known``), ``names`` (the first is its own, the others are bound to it) and ``anchor``, the ``word`` of its
    first fact. ``deployment_id`` is assigned when it leaves ``held`` and never changes. ``revision`` grows with every
    change of the content; ``sent_revision`` is the one that Hivel has (0: unknown which). ``number`` is the row number;
    0 before it is stored.
    """

    number: int = 0
    run: Run
    build_started_at: int
    build_ended_at: int
    known: bool
    names: tuple[Name, ...]
    anchor: int
    deployment_id: str | None = None
    state: State
    revision: int = 1
    sent_revision: int | None = None
    content: Content
    created_at: int = 0
    held_since: int | None = None
    next_attempt_at: int = 0
    attempts: int = 0
    settled_at: int | None = None
    reason: str | None = None

    @property
    def scope(self) -> Scope:
        """The part of the run."""
        return self.names[0].scope

    @property
    def named(self) -> bool:
        """Whether the run itself reported the environment."""
        return bool(self.names[0].environment)

    @property
    def frozen(self) -> bool:
        """Whether it has left ``held``. From then on it is never renamed and never removed."""
        return self.state is not State.HELD


def event_of(deployment_id: str, content: Content) -> DeploymentEvent:
    """The event to send. Raises :class:`agent.model.event.InvalidEventError`: see ``Content.problem``."""
    return events.completed(
        deployment_id=deployment_id,
        status=content.status,
        started_at=content.started_at,
        ended_at=content.ended_at,
        repo_url=content.repo_url,
        environment=content.environment,
        branch=content.branch,
        commit_hash=content.commit_hash,
        build_number=content.build_number,
        pr_number=content.pr_number,
        pr_numbers=content.pr_numbers,
        image=content.image,
        logs_url=content.logs_url,
    )
