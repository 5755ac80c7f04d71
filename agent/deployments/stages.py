"""The stages of a pipeline's build, as the two plugins that know them tell it.

``/pipeline-overview/tree`` (pipeline-graph-view): ``{"status": "ok", "data": {"complete": true, "stages": [{"name":
"Build", "state": "success", "type": "STAGE", "startTimeMillis": ms, "totalDurationMillis": ms, "url": "/job/…",
"children": […]}, …]}}``. A stage that still runs has no duration. What is below a skipped stage is not listed. A build
without stages has a placeholder, and so has one whose stages are those of the old ``stage 'x'`` without a block.

``/wfapi/describe`` (pipeline-rest-api): ``{"status": "SUCCESS", "stages": [{"id": "6", "name": "Build", "status":
"SUCCESS", "startTimeMillis": ms, "durationMillis": ms, "pauseDurationMillis": ms, …}, …]}``, all stages in one list,
those of parallel branches too. The duration includes pauses. A stage that was skipped has the word of whatever made
Declarative skip it: NOT_EXECUTED, FAILED, ABORTED or even SUCCESS; and NOT_EXECUTED is also said of a stage that
worked and was interrupted or set to NOT_BUILT. ``/execution/node/<id>/wfapi/describe`` tells such a stage's steps:
``{"stageFlowNodes": [{"name": "Shell Script", …}, …]}``. Both plugins call a stage aborted that was stopped before its
steps, while it waited for a node or for an answer: its steps tell that, too, and both have the same ids.

They are asked once the build is final. What its stages say is not bound to the build's result: a build that went on
(``catchError``) is SUCCESS or UNSTABLE with a FAILED stage in it.
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

# What a stage's word is as a build's result; None: the stage did not run. Keys are lower case. A stage that a final
# build left behind running or waiting for an answer began and has no end: nobody knows what came of it.
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
    "skipped_for_failure": None,  # older versions of the agent stored it
    # pipeline-graph-view, besides success, unstable, aborted and skipped
    "failure": "FAILURE",
    "running": UNFINISHED,
    "paused": UNFINISHED,
    "unknown": UNFINISHED,
    "queued": None,
    "not_built": None,
    # what the agent makes of both
    "worked, not_built": "NOT_BUILT",
    "aborted before its steps": None,
}

OVERVIEW: Final = "pipeline-graph-view"
WFAPI: Final = "pipeline-rest-api"
BY_STEPS: Final = "by the stage's steps"
_WORKED, _NOT_REACHED, _SKIPPED = "WORKED, NOT_BUILT", "ABORTED BEFORE ITS STEPS", "SKIPPED"

# The steps of a stage that Declarative skipped: the first, and the second where it had its agent before its `when`.
_CONTEXT = "Get contextual object from internal APIs"
_CHECKOUT = "Check out from version control"
_INPUT = "Wait for interactive input"
# A skipped stage takes tenths of a second. One that took longer is not asked for its steps: it ran.
_ASKED_BELOW_MS = 10_000
# Characters of what names a stage. No event has a text of more than 255.
_LONGEST_TEXT = 2_000
_NODE_ID = re.compile(r"[0-9]{1,18}")

Steps = Mapping[str, dict[str, Any]]
NO_STEPS: Final[Steps] = MappingProxyType({})


def result_of(stage: Stage) -> str | None:
    """The stage's word as a build's result, :data:`UNFINISHED` for one that nobody knows; None: it did not run."""
    return RESULTS.get(stage.status.lower(), UNFINISHED)


def questions_of_overview(answer: dict[str, Any], wanted: Callable[[str], bool]) -> list[str]:
    """The ids of the stages whose steps are to be looked at: stopped ones, which may not have come to their steps.

    ``wanted``: whether a stage of that name matters. Raises :class:`ValueError` for anything else. A stage with others
    within is told by those. A branch is none: the steps of its node are told by nobody.
    """
    return [
        entry["id"]
        for entry, stage in _of_overview(answer)
        if _is_id(entry.get("id")) and stage.status == "aborted" and _stands_alone(entry) and wanted(stage.name)
    ]


def _stands_alone(entry: dict[str, Any]) -> bool:
    return entry.get("type", "STAGE") == "STAGE" and not _objects(entry.get("children"))


def stages_of_overview(answer: dict[str, Any], steps: Steps = NO_STEPS) -> tuple[Stage, ...]:
    """The stages and parallel branches of a ``/pipeline-overview/tree``, outer ones before those within.

    Raises :class:`ValueError` for anything else. A branch of the same name as its only stage counts once. None at all:
    the build has no stages, or the plugin does not see them. ``steps``: as :func:`stages_of_wfapi` has them.
    """
    return tuple(_told_by_steps(stage, steps, entry) for entry, stage in _of_overview(answer))


def _of_overview(answer: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Stage]]:
    data = answer.get("data", answer)
    listed = _stages_in(data if isinstance(data, dict) else {}, "/pipeline-overview/tree")
    waiting: list[tuple[dict[str, Any], str]] = [(entry, "") for entry in reversed(listed)]
    while waiting:  # no recursion: whatever is nested, and however deep
        entry, around = waiting.pop()
        stage = _stage(entry, "state", "totalDurationMillis", OVERVIEW)
        counts = entry.get("type", "STAGE") in ("STAGE", "PARALLEL") and entry.get("placeholder") is not True
        if stage is not None and counts and stage.name != around:
            # Set to NOT_BUILT or interrupted; a stage that a restart left out has no time.
            worked = stage.status == "not_built" and _took(stage)
            yield entry, replace(stage, status=_WORKED) if worked else stage
        if stage is not None and stage.status == "skipped":
            continue
        name = stage.name if stage is not None and counts else around
        waiting += [(child, name) for child in reversed(_objects(entry.get("children")))]


def questions_of_wfapi(answer: dict[str, Any], wanted: Callable[[str], bool]) -> list[str]:
    """The ids of the stages whose word in a ``/wfapi/describe`` is to be checked by their steps.

    ``wanted``: whether a stage of that name matters. Raises :class:`ValueError` for anything else.
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
    """Whether the word may be that of a stage which did not run, or NOT_EXECUTED of one that did.

    ``troubled``: something went wrong in the build.
    """
    if stage.status in ("NOT_EXECUTED", "ABORTED"):
        return True
    return troubled and stage.status in ("FAILED", "SUCCESS") and _took(stage) < _ASKED_BELOW_MS


def stages_of_wfapi(answer: dict[str, Any], steps: Steps = NO_STEPS) -> tuple[Stage, ...]:
    """The stages of a ``/wfapi/describe``. Raises :class:`ValueError` for anything else.

    ``steps``: answers of ``/execution/node/<id>/wfapi/describe`` by the id. Where one shows that the stage was skipped,
    or ran although it is called NOT_EXECUTED, that is the stage's status.
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
    """The word for a stage by its steps, given the plugin's own; None where they tell nothing."""
    listed = answer.get("stageFlowNodes")
    if not isinstance(listed, list):
        return None
    names = sorted(str(step.get("name")) for step in _objects(listed))
    if names in ([_CONTEXT], [_CHECKOUT, _CONTEXT]):
        return _SKIPPED
    if word in ("ABORTED", "NOT_EXECUTED") and names in ([], [_INPUT]):  # its node never came, or nobody let it go on
        return _NOT_REACHED
    return _WORKED if word == "NOT_EXECUTED" and names else word


def _took(stage: Stage) -> int:
    return max(0, stage.ended_at - stage.started_at) if stage.ended_at else 0


def _stages_in(answer: dict[str, Any], where: str) -> list[dict[str, Any]]:
    if not isinstance(answer.get("stages"), list):
        raise ValueError(f"no answer of {where}: it has no list of stages")  # noqa: TRY004
    return _objects(answer["stages"])


def _objects(value: object) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _stage(entry: dict[str, Any], status: str, duration: str, told_by: str) -> Stage | None:
    """None for an entry that names no stage."""
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
    """Milliseconds within what can be stored; None for what is no time."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - not a number
        return None
    return int(max(0, min(value, _LONGEST // 2)))
