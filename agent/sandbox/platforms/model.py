"""The deployments of a platform, independent of how it shows them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agent.model.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping

Outcome = Literal["running", "success", "failed", "canceled"]


@dataclass(frozen=True)
class Deployed:
    """One deployment: a job or stage of a run that deploys to an environment.

    ``number``: unique on the platform; its ids are made from it. ``ended_at``: None while it runs. ``attempt``: of the
    run. ``by_job``: whether a CI job of the platform made it, or another tool through the API.
    """

    number: int
    project: str
    created_at: int
    started_at: int
    ended_at: int | None
    outcome: Outcome = "success"
    environment: str = "production"
    job: str = "deploy"
    branch: str = "main"
    attempt: int = 1
    by_job: bool = True

    @property
    def commit(self) -> str:
        """A commit of its own."""
        return hashlib.sha1(f"{self.project}#{self.number}".encode(), usedforsecurity=False).hexdigest()

    @property
    def run(self) -> int:
        """The id of its run."""
        return 7_000_000 + self.number

    @property
    def job_number(self) -> int:
        """The id of its job."""
        return 9_000_000 + self.number

    @property
    def changed_at(self) -> int:
        """When the platform changed it last."""
        return self.started_at if self.ended_at is None else self.ended_at


@dataclass(frozen=True)
class Webhook:
    """A request that the platform sends: its headers without the signature, and its body."""

    headers: Mapping[str, str]
    body: object


@dataclass(frozen=True)
class Page:
    """The JSON of an answer, with headers."""

    content: object
    headers: Mapping[str, str]


def seconds(ms: int) -> str:
    """A time as GitHub and others write it: ``2026-11-23T12:00:00Z``."""
    return rfc3339(ms)[:19] + "Z"


def uuid(*parts: object) -> str:
    """A UUID that is always the same for the same parts."""
    digits = hashlib.sha256("/".join(str(part) for part in parts).encode()).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"
