"""How a build looks on its way: the combinations of fields that were seen on a recorded Jenkins 2.516.2.

Between them lie milliseconds, so a poller meets the odd ones rarely; a story shows them for as long as it likes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent.sandbox.jenkins.model import Build, JsonObject

PIPELINE_RUN: Final = "org.jenkinsci.plugins.workflow.job.WorkflowRun"


class Phase(StrEnum):
    """A moment in the life of a build."""

    STARTING = "starting"  # building, but not in progress yet; a pipeline shows it again just before its end
    RUNNING = "running"
    PROVISIONAL = "provisional"  # it runs and has a result, which may get worse
    ENDING = "ending"  # a pipeline that has no duration yet; others have one and are in progress all the same
    FINAL = "final"


class Interrupted(StrEnum):
    """What becomes of a running freestyle or matrix build when its controller restarts. Pipelines go on."""

    GOES_ON = "goes on"  # the controller was prepared for it, or nothing of the kind ran
    ABORTED = "aborted"
    VANISHED = "vanished"  # no record at all; its number is not given away again


def fields(build: Build, phase: Phase, result: str | None, took_ms: int) -> JsonObject:
    """The fields that tell the phase. ``result`` and ``took_ms`` count where the phase shows them."""
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
