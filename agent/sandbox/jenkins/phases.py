"""The phases of a build: the combinations of fields that were recorded from Jenkins 2.516.2.

Some phases last only milliseconds, so a poller rarely sees them. A test can show them as long as needed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent.sandbox.jenkins.model import Build, JsonObject

PIPELINE_RUN: Final = "org.jenkinsci.plugins.workflow.job.WorkflowRun"


class Phase(StrEnum):
    """A phase of a build."""

    STARTING = "starting"  # building, but not in progress yet; a pipeline has this phase again just before its end
    RUNNING = "running"
    PROVISIONAL = "provisional"  # it runs and has a result, which can get worse
    ENDING = "ending"  # a pipeline without a duration yet; other builds have one while they are still in progress
    FINAL = "final"


class Interrupted(StrEnum):
    """What happens to a running freestyle or matrix build when its controller restarts. Pipelines continue."""

    GOES_ON = "goes on"  # the restart was prepared, or no such build ran
    ABORTED = "aborted"
    VANISHED = "vanished"  # no record remains; its number is not used again


def fields(build: Build, phase: Phase, result: str | None, took_ms: int) -> JsonObject:
    """The fields of a phase. ``result`` and ``took_ms`` are used if the phase shows them."""
    pipeline = build.json_class == PIPELINE_RUN
    ended = phase in {Phase.ENDING, Phase.FINAL}
    in_progress = {Phase.STARTING: False, Phase.ENDING: not pipeline, Phase.FINAL: False}.get(phase, True)
    has_duration = phase is Phase.FINAL or (phase is Phase.ENDING and not pipeline)
    shown: JsonObject = {
        "building": not ended,
        "inProgress": in_progress,
        "result": None if phase in {Phase.STARTING, Phase.RUNNING} else result,
        "duration": took_ms if has_duration else 0,
    }
    return shown if shown["building"] or in_progress else {**shown, "executor": None}
