"""Findings: the results of ``check`` and ``init``."""

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
    """How serious a finding is. The agent works with a warning, but not with an error."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(msgspec.Struct, frozen=True):
    """One result. ``message`` says what is wrong and what to do."""

    level: Level
    subject: str
    message: str


def subject_of(controller: JenkinsSettings) -> str:
    """The subject of findings about a controller."""
    return f"jenkins {controller.name}"
