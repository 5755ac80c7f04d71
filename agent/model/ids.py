"""The ``deployment_id``: made from the key, here only. Ids are never parsed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from agent.model.keys import JENKINS
from agent.model.required import LONGEST

if TYPE_CHECKING:
    from agent.model.keys import Run

_HASH_LENGTH = 16


def run_id(run: Run) -> str:
    """The id of the whole run before shortening: ``main:deploy/shop#12``; for other systems the name of the run."""
    project = run.project
    if project.provider == JENKINS:
        return f"{project.scope}:{project.name}#{run.number}"
    return run.number


def limited_id(deployment_id: str) -> str:
    """The id; if it is longer than 255 characters, its first 238, ``~`` and 16 hex digits of its SHA-256.

    Different long ids stay different, and the same build always gets the same id.
    """
    if len(deployment_id) <= LONGEST:
        return deployment_id
    digest = hashlib.sha256(deployment_id.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]
    return f"{deployment_id[: LONGEST - 1 - _HASH_LENGTH]}~{digest}"


def build_deployment_id(controller: str, job: str, number: int) -> str:
    """The id of a whole build: ``main:deploy/shop#12``. Reports, the poller and backfill produce the same id."""
    return limited_id(f"{controller}:{job}#{number}")


def part_deployment_id(deployment_id: str, *parts: str) -> str:
    """The id of one of several events of a build, by environment or repository: ``main:deploy/shop#12:production``."""
    return limited_id(":".join((deployment_id, *parts)))


def reused_number_id(deployment_id: str, started_at: int) -> str:
    """The id of a build whose number Jenkins uses again (the job was deleted and created again).

    ``started_at`` (ms) is the build's start, which distinguishes the two builds.
    """
    return limited_id(f"{deployment_id}@{started_at}")
