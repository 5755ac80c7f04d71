"""Findings: what ``check`` and ``init`` say about one thing that they looked at."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from agent.config.settings import JenkinsSettings

# Subjects of findings.
HIVEL = "hivel"
CONFIGURATION = "configuration"


class Level(enum.StrEnum):
    """How serious a finding is: the agent works in spite of a warning, and does not in spite of an error."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. ``message`` says what is wrong and what to do about it."""

    level: Level
    subject: str
    message: str


def subject_of(controller: JenkinsSettings) -> str:
    """The subject of findings about a controller."""
    return f"jenkins {controller.name}"
