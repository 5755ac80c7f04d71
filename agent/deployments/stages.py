"""The stages of a pipeline build, as the two plugins report them.

``/pipeline-overview/tree`` (pipeline-graph-view): ``{"status": "ok", "data": {"complete": true, "stages": [{"name":
"Build", "state": "success", "type": "STAGE", "startTimeMillis": ms, "totalDurationMillis": ms, "url": "/job/…",
"children": […]}, …]}}``. A running stage has no duration. Children of a skipped stage are not listed. A build without
stages has a placeholder, and so has one with stages of the old step ``stage 'x'`` without a block.

``/wfapi/describe`` (pipeline-rest-api): ``{"status": "SUCCESS", "stages": [{"id": "6", "name": "Build", "status":
"SUCCESS", "startTimeMillis": ms, "durationMillis": ms, "pauseDurationMillis": ms, …}, …]}``, all stages in one list,
including those of parallel branches. The duration includes pauses. A skipped stage has the status of what made
Declarative skip it: NOT_EXECUTED, FAILED, ABORTED or even SUCCESS. NOT_EXECUTED is also the status of a stage that ran
and was interrupted or set to NOT_BUILT. ``/execution/node/<id>/wfapi/describe`` has such a stage's steps:
``{"stageFlowNodes": [{"name": "Shell Script", …}, …]}``. Both plugins report ABORTED for a stage that was stopped
before its steps, while it waited for a node or for input. Its steps show that too, and both plugins use the same ids.

They are requested once the build is final. A stage's result is independent of the build's: a build that continued
(``catchError``) is SUCCESS or UNSTABLE with a FAILED stage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from agent.model.build import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNFINISHED = "UNFINISHED"
_LONGEST = 2**62

# A stage's status as a build result; None: the stage did not run. Keys are lower case. A stage that is still running or
# waiting for input in a final build has no end, and its result is unknown.
RESULTS: dict[str, str | None] = {
    # pipeline-rest-api
    "success": "SUCCESS",
    "failed": "FAILURE",
    "unstable": "UNSTABLE",
    "aborted": "ABORTED",
    "in_progress": UNFINISHED,
    "paused_pending_input": UNFINISHED,
    "not_executed": None,
    "skipped": None,
    "skipped_for_failure": None,  # stored by older versions of the agent
    # pipeline-graph-view; it also uses success, unstable, aborted and skipped
    "failure": "FAILURE",
    "running": UNFINISHED,
    "paused": UNFINISHED,
    "unknown": UNFINISHED,
    "queued": None,
    "not_built": None,
    # a combination made by the agent
    "worked, not_built": "NOT_BUILT",
    "aborted before its steps": None,
}

OVERVIEW: Final = "pipeline-graph-view"
WFAPI: Final = "pipeline-rest-api"
BY_STEPS: Final = "by the stage's steps"
_WORKED, _NOT_REACHED, _SKIPPED = "WORKED, NOT_BUILT", "ABORTED BEFORE ITS STEPS", "SKIPPED"

# The steps of a stage that Declarative skipped: the first; also the second if its agent comes before its `when`.
_CONTEXT = "Get contextual object from internal APIs"
_CHECKOUT = "Check out from version control"
_INPUT = "Wait for interactive input"
# A skipped stage takes tenths of a second. For a longer one the steps are not requested: it ran.
_ASKED_BELOW_MS = 10_000
# Characters of a stage's name. No text in an event is longer than 255.
_LONGEST_TEXT = 2_000
_NODE_ID = re.compile(r"[0-9]{1,18}")

Steps = Mapping[str, dict[str, Any]]
NO_STEPS: Final[Steps] = MappingProxyType({})


def result_of(stage: Stage) -> str | None:
    """The stage's status as a build result, :data:`UNFINISHED` if unknown; None: it did not run."""
    return RESULTS.get(stage.status.lower(), UNFINISHED)


def questions_of_overview(answer: dict[str, Any], wanted: Callable[[str], bool]) -> list[str]:
    """The ids of stages whose steps are needed: aborted ones, which may not have reached their steps.

    ``wanted``: whether a stage with this name matters. Raises :class:`ValueError` for an invalid answer. A stage with
    nested stages gets its status from those. Parallel branches are left out, because their nodes have no steps.
    """
    return [
        entry["id"]
        for entry, stage in _of_overview(answer)
        if _is_id(entry.get("id")) and stage.status == "aborted" and _stands_alone(entry) and wanted(stage.name)
    ]


def _stands_alone(entry: dict[str, Any]) -> bool:
    return entry.get("type", "STAGE") == "STAGE" and not _objects(entry.get("children"))


def stages_of_overview(answer: dict[str, Any], steps: Steps = NO_STEPS) -> tuple[Stage, ...]:
    """The stages and parallel branches of a ``/pipeline-overview/tree``, outer ones before nested ones.

    Raises :class:`ValueError` for an invalid answer. A branch with the same name as its only stage counts once. Empty:
    the build has no stages, or the plugin does not see them. ``steps``: as for :func:`stages_of_wfapi`.
    """
    return tuple(_told_by_steps(stage, steps, entry) for entry, stage in _of_overview(answer))


def _of_overview(answer: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Stage]]:
    data = answer.get("data", answer)
    listed = _stages_in(data if isinstance(data, dict) else {}, "/pipeline-overview/tree")
    waiting: list[tuple[dict[str, Any], str]] = [(entry, "") for entry in reversed(listed)]
    while waiting:  # iterative, because nesting may be deep
        entry, around = waiting.pop()
        stage = _stage(entry, "state", "totalDurationMillis", OVERVIEW)
        counts = entry.get("type", "STAGE") in ("STAGE", "PARALLEL") and entry.get("placeholder") is not True
        if stage is not None and counts and stage.name != around:
            # Set to NOT_BUILT or interrupted. A stage left out by a restart has no duration.
            worked = stage.status == "not_built" and _took(stage)
            yield entry, replace(stage, status=_WORKED) if worked else stage
        if stage is not None and stage.status == "skipped":
            continue
        name = stage.name if stage is not None and counts else around
        waiting += [(child, name) for child in reversed(_objects(entry.get("children")))]


def questions_of_wfapi(answer: dict[str, Any], wanted: Callable[[str], bool]) -> list[str]:
    """The ids of the stages in a ``/wfapi/describe`` whose status has to be checked by their steps.

    ``wanted``: whether a stage with this name matters. Raises :class:`ValueError` for an invalid answer.
    """
    found = list(_of_wfapi(answer))
    bad = ("FAILED", "UNSTABLE", "ABORTED")
    troubled = answer.get("status") != "SUCCESS" or any(stage.status in bad for _, stage in found)
    return [
        entry["id"]
        for entry, stage in found
        if _is_id(entry.get("id")) and _doubtful(stage, troubled=troubled) and wanted(stage.name)
    ]


def _doubtful(stage: Stage, *, troubled: bool) -> bool:
    """Whether the stage may not have run despite its status, or may have run despite NOT_EXECUTED.

    ``troubled``: something in the build failed.
    """
    if stage.status in ("NOT_EXECUTED", "ABORTED"):
        return True
    return troubled and stage.status in ("FAILED", "SUCCESS") and _took(stage) < _ASKED_BELOW_MS


def stages_of_wfapi(answer: dict[str, Any], steps: Steps = NO_STEPS) -> tuple[Stage, ...]:
    """The stages of a ``/wfapi/describe``. Raises :class:`ValueError` for an invalid answer.

    ``steps``: answers of ``/execution/node/<id>/wfapi/describe`` by id. If one shows that the stage was skipped, or ran
    despite NOT_EXECUTED, that is the stage's status.
    """
    return tuple(_told_by_steps(stage, steps, entry) for entry, stage in _of_wfapi(answer))


def _told_by_steps(stage: Stage, steps: Steps, entry: dict[str, Any]) -> Stage:
    asked = steps.get(entry["id"]) if _is_id(entry.get("id")) else None
    word = None if asked is None else _by_steps(stage.status.upper(), asked)
    return stage if word is None else replace(stage, status=word, told_by=f"{WFAPI}, {BY_STEPS}")


def _is_id(value: object) -> bool:
    return isinstance(value, str) and _NODE_ID.fullmatch(value) is not None


def _of_wfapi(answer: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Stage]]:
    for entry in _stages_in(answer, "/wfapi/describe"):
        stage = _stage(entry, "status", "durationMillis", WFAPI)
        if stage is not None:
            yield entry, stage


def _by_steps(word: str, answer: dict[str, Any]) -> str | None:
    """A stage's status according to its steps, given the plugin's status; None if the steps do not show it."""
    listed = answer.get("stageFlowNodes")
    if not isinstance(listed, list):
        return None
    names = sorted(str(step.get("name")) for step in _objects(listed))
    if names in ([_CONTEXT], [_CHECKOUT, _CONTEXT]):
        return _SKIPPED
    # no node became available, or nobody answered the input
    if word in ("ABORTED", "NOT_EXECUTED") and names in ([], [_INPUT]):
        return _NOT_REACHED
    return _WORKED if word == "NOT_EXECUTED" and names else word


def _took(stage: Stage) -> int:
    return max(0, stage.ended_at - stage.started_at) if stage.ended_at else 0


def _stages_in(answer: dict[str, Any], where: str) -> list[dict[str, Any]]:
    if not isinstance(answer.get("stages"), list):
        raise ValueError(f"the answer of {where} has no list of stages")  # noqa: TRY004
    return _objects(answer["stages"])


def _objects(value: object) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _stage(entry: dict[str, Any], status: str, duration: str, told_by: str) -> Stage | None:
    """None for an entry without a stage name."""
    name, word, url = entry.get("name"), entry.get(status), entry.get("url")
    if not isinstance(name, str) or not name.strip():
        return None
    started_at, took = _ms(entry.get("startTimeMillis")), _ms(entry.get(duration))
    return Stage(
        name=name.strip()[:_LONGEST_TEXT],
        status=word[:_LONGEST_TEXT] if isinstance(word, str) else "",
        started_at=started_at or 0,
        ended_at=0 if not started_at or took is None else started_at + took,
        url=url[:_LONGEST_TEXT] if isinstance(url, str) else "",
        told_by=told_by,
    )


def _ms(value: object) -> int | None:
    """Milliseconds within what can be stored; None for an invalid time."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - not a number
        return None
    return int(max(0, min(value, _LONGEST // 2)))
