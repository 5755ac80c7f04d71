"""The ``deployment_id``: made from the key in one place. Nothing is ever read out of one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from agent.model.keys import JENKINS
from agent.model.required import LONGEST

if TYPE_CHECKING:
    from agent.model.keys import Run

_HASH_LENGTH = 16


def run_id(run: Run) -> str:
    """The id of the whole run, not limited yet: ``main:deploy/shop#12``; of other systems the run's own name."""
    project = run.project
    if project.provider == JENKINS:
        return f"{project.scope}:{project.name}#{run.number}"
    return run.number


def limited_id(deployment_id: str) -> str:
    """The id itself, or when it has more than 255 characters its first 238, ``~`` and 16 hex digits of its SHA-256.

    Two long ids that differ anywhere stay different, and the same build always gets the same id.
    """
    if len(deployment_id) <= LONGEST:
        return deployment_id
    digest = hashlib.sha256(deployment_id.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]
    return f"{deployment_id[: LONGEST - 1 - _HASH_LENGTH]}~{digest}"


def build_deployment_id(controller: str, job: str, number: int) -> str:
    """The id of a whole build: ``main:deploy/shop#12``. Hook, poller and backfill all make the same one."""
    return limited_id(f"{controller}:{job}#{number}")


def part_deployment_id(deployment_id: str, *parts: str) -> str:
    """The id of one of several events of a build: ``main:deploy/shop#12:production``, its environment or repository."""
    return limited_id(":".join((deployment_id, *parts)))


def reused_number_id(deployment_id: str, started_at: int) -> str:
    """The id of a build whose number Jenkins uses a second time (job deleted and created again).

    ``started_at`` (ms) is the build's timestamp, which tells the two builds apart.
    """
    return limited_id(f"{deployment_id}@{started_at}")
