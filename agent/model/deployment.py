"""A deployment as the outbox keeps it: which part of which run it is, what Hivel gets of it, and how far it is."""

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
    """Where a deployment is on its way."""

    HELD = "held"  # waits for the poller's final word
    PENDING = "pending"  # to be sent when its next attempt is due
    DELIVERED = "delivered"  # Hivel has it
    FAILED = "failed"  # needs a person: see the reason, mend it, replay
    DISCARDED = "discarded"  # a person let it go


class Scope(enum.StrEnum):
    """What part of a run a deployment is."""

    WHOLE = "whole"  # all of it
    STAGE = "stage"  # a stage that reported itself
    RULE = "rule"  # one of several that the rule tells apart: its stages, its repositories


class Name(NamedTuple):
    """What names a part in the words of the run itself or of the rule's findings; no change of a rule moves it.

    ``environment`` as it was reported. ``start`` (UTC ms): of a stage that reported itself, as it said.
    ``repository``: of a rule that makes a deployment of each repository. ``again``: of stages with the same name.
    """

    scope: Scope
    stage: str = ""
    environment: str = ""
    repository: str = ""
    start: int = 0
    again: int = 0


class Content(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What Hivel gets of a deployment but for the id. Times are UTC milliseconds.

    ``problem``: why no event can be made of it; then fields may be missing. ``first_commit_at``: the time of the
    oldest commit that is new in this build.
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

    Which part of which build: ``run``, the build's start and end (``build_started_at`` is exact once ``known``, that
    is once a poll named the build), ``names`` (the first is its own, the others are bound to it) and ``anchor``, the
    word of its first fact. ``deployment_id`` is given when it leaves ``held``, and never changes.
    ``revision`` grows with every change of the content; ``sent_revision`` is the one that Hivel has (0: not known
    which). ``number`` is its number in the outbox; 0 before it is stored.
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
        """What part of the run it is."""
        return self.names[0].scope

    @property
    def named(self) -> bool:
        """Whether the run itself said the environment."""
        return bool(self.names[0].environment)

    @property
    def frozen(self) -> bool:
        """It left ``held``: it is never renamed and never removed."""
        return self.state is not State.HELD


def event_of(deployment_id: str, content: Content) -> DeploymentEvent:
    """The event that Hivel gets. Raises :class:`agent.model.event.InvalidEventError`: see ``Content.problem``."""
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
