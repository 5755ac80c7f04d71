"""The stages of a build for ``explain``: the status of each, the plugin that reported it, and the events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.deployments.stages import OVERVIEW, WFAPI, result_of
from agent.model.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.config.rules import Rule
    from agent.model.build import Build, Stage


class StageView(msgspec.Struct, frozen=True):
    """One stage. Times are RFC 3339. ``says``: the status from the plugin. ``events``: the ids of its events."""

    name: str
    says: str
    told_by: str
    started_at: str | None
    ended_at: str | None
    events: list[str]
    reason: str


class StagesView(msgspec.Struct, frozen=True):
    """The stages of a build whose rule has ``stage``. ``whose``: which plugin they were read from, for people."""

    rule: str
    whose: str
    listed: list[StageView]


def stages_view(build: Build, rule: Rule, events: Mapping[str, Sequence[str]], *, reported: bool) -> StagesView | None:
    """None if the rule has no ``stage``. ``events``: ids by stage name. ``reported``: the build reported itself."""
    if rule.stage is None:
        return None
    listed = [_view(stage, rule, events, reported=reported) for stage in build.stages or ()]
    return StagesView(f'stage = "{rule.stage.text}"', _whose(build), listed)


def _whose(build: Build) -> str:
    if build.stages is None:
        return f"they could not be read: {build.stages_missing or 'they were not requested'}"
    if not build.stages:
        return "the build has none"
    if any(stage.told_by.startswith(WFAPI) for stage in build.stages):
        return f"read from {WFAPI}: {OVERVIEW} listed none"
    if any(stage.told_by == OVERVIEW for stage in build.stages):
        return f"read from {OVERVIEW}: only this plugin marks skipped stages reliably; {WFAPI} was not asked"
    return "read by an older version of the agent, which did not record the plugin"


def _view(stage: Stage, rule: Rule, events: Mapping[str, Sequence[str]], *, reported: bool) -> StageView:
    found = list(events.get(stage.name, ()))
    return StageView(
        name=stage.name,
        says=stage.status,
        told_by=stage.told_by,
        started_at=rfc3339(stage.started_at) if stage.started_at else None,
        ended_at=rfc3339(stage.ended_at) if stage.ended_at else None,
        events=found,
        reason="" if found else _why_none(stage, rule, reported=reported),
    )


def _why_none(stage: Stage, rule: Rule, *, reported: bool) -> str:
    if rule.stage is None or rule.stage.match(stage.name) is None:
        return "the rule does not match it"
    if result_of(stage) is None:
        return "it did not run"
    return "the build reported itself, and the report takes precedence" if reported else "none was derived from it"
