"""The stages of a pipeline's build, as the two plugins that know them tell it.

``/wfapi/describe`` (pipeline-rest-api): ``{"stages": [{"name": "Build", "status": "SUCCESS", "startTimeMillis": ms,
"durationMillis": ms, "pauseDurationMillis": ms, "error": {"message": "…", "type": "…"}}, …]}``, all stages in one list,
those of parallel branches too. The duration includes pauses.

``/pipeline-overview/tree`` (pipeline-graph-view): ``{"status": "ok", "data": {"complete": true, "stages": [{"name":
"Build", "state": "success", "type": "STAGE", "startTimeMillis": ms, "totalDurationMillis": ms, "url": "/job/…",
"children": […]}, …]}}``. A stage that still runs has no duration.

Both are asked once the build is final. What its stages say is not bound to the build's result: a build that went on
(``catchError``) is SUCCESS or UNSTABLE with a FAILED stage in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agent.model.build import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    "not_executed": None,  # skipped by `when`, or set to NOT_BUILT
    "skipped": None,  # newer versions write this for `when`
    "skipped_for_failure": None,  # see stages_of_wfapi
    # pipeline-graph-view, besides success, unstable, aborted and skipped
    "failure": "FAILURE",
    "running": UNFINISHED,
    "paused": UNFINISHED,
    "unknown": UNFINISHED,
    "queued": None,
    "not_built": None,
}

# A stage that Declarative skips takes tenths of a second; one that took longer ran, whatever its error.
_SKIPPED_WITHIN_MS = 2_000


def result_of(stage: Stage) -> str | None:
    """The stage's word as a build's result, :data:`UNFINISHED` for one that nobody knows; None: it did not run."""
    return RESULTS.get(stage.status.lower(), UNFINISHED)


def stages_of_wfapi(answer: dict[str, Any]) -> tuple[Stage, ...]:
    """The stages of a ``/wfapi/describe``. Raises :class:`ValueError` for anything else.

    The plugin does not tell a stage that Declarative skipped because an earlier one had failed from one that failed:
    both are FAILED with the earlier one's error. A stage that began after another had ended with the very same error
    and that took no time itself is taken for skipped, and its status is ``SKIPPED_FOR_FAILURE``.
    """
    listed = _stages_in(answer, "/wfapi/describe")
    stages, failures = list[Stage](), list[tuple[object, int]]()
    for entry in listed:
        stage = _stage(entry, "status", "durationMillis")
        if stage is None:
            continue
        error = entry.get("error")
        if error and stage.status in ("FAILED", "ABORTED"):
            if stage.ended_at - stage.started_at < _SKIPPED_WITHIN_MS and any(
                error == earlier and ended_at <= stage.started_at for earlier, ended_at in failures
            ):
                stage = msgspec.structs.replace(stage, status="SKIPPED_FOR_FAILURE")
            failures.append((error, stage.ended_at))
        stages.append(stage)
    return tuple(stages)


def stages_of_overview(answer: dict[str, Any]) -> tuple[Stage, ...]:
    """The stages and parallel branches of a ``/pipeline-overview/tree``, outer ones before those within.

    Raises :class:`ValueError` for anything else. A branch of the same name as its only stage counts once.
    """
    data = answer.get("data", answer)
    listed = _stages_in(data if isinstance(data, dict) else {}, "/pipeline-overview/tree")
    return tuple(_flattened(listed))


def _flattened(listed: list[dict[str, Any]]) -> Iterator[Stage]:
    waiting: list[tuple[dict[str, Any], str]] = [(entry, "") for entry in reversed(listed)]
    while waiting:  # no recursion: whatever is nested, and however deep
        entry, around = waiting.pop()
        stage = _stage(entry, "state", "totalDurationMillis")
        counts = entry.get("type", "STAGE") in ("STAGE", "PARALLEL") and entry.get("placeholder") is not True
        if stage is not None and counts and stage.name != around:
            yield stage
        name = stage.name if stage is not None and counts else around
        waiting += [(child, name) for child in reversed(_objects(entry.get("children")))]


def _stages_in(answer: dict[str, Any], where: str) -> list[dict[str, Any]]:
    if not isinstance(answer.get("stages"), list):
        raise ValueError(f"no answer of {where}: it has no list of stages")  # noqa: TRY004
    return _objects(answer["stages"])


def _objects(value: object) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _stage(entry: dict[str, Any], status: str, duration: str) -> Stage | None:
    """None for an entry that names no stage."""
    name, word, url = entry.get("name"), entry.get(status), entry.get("url")
    if not isinstance(name, str) or not name.strip():
        return None
    started_at, took = _ms(entry.get("startTimeMillis")), _ms(entry.get(duration))
    return Stage(
        name=name.strip(),
        status=word if isinstance(word, str) else "",
        started_at=started_at or 0,
        ended_at=0 if not started_at or took is None else started_at + took,
        url=url if isinstance(url, str) else "",
    )


def _ms(value: object) -> int | None:
    """Milliseconds within what can be stored; None for what is no time."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - not a number
        return None
    return int(max(0, min(value, _LONGEST // 2)))
