"""Details that a build's own JSON lacks: the commit of a downstream deployment, the stages of a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
from msgspec.structs import replace

from agent.deployments.checkouts import Wanted
from agent.deployments.stages import questions_of_overview, questions_of_wfapi, stages_of_overview, stages_of_wfapi
from agent.sources.jenkins.errors import JenkinsError, raise_unless_nothing_to_tell
from agent.sources.jenkins.raw import build_of
from agent.sources.jenkins.related import RelatedBuilds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.config.rules import Match, Pattern
    from agent.model.build import Build, Stage
    from agent.sources.jenkins.client import JenkinsClient, Job
    from agent.sources.jenkins.raw import RawBuild

log = structlog.get_logger("poller")

# Pages with stages, of the plugins pipeline-graph-view and pipeline-rest-api. Either may be missing. The first is
# preferred, because only it distinguishes skipped stages from failed or successful ones.
OVERVIEW = "pipeline-overview/tree"
WFAPI = "wfapi/describe"
# The maximum number of stages of one build whose steps are requested.
MOST_QUESTIONS = 20
# If a build has more stages, they count as unreadable.
MOST_STAGES = 1_000


class Details:
    """Completes builds with further requests where a rule or a build needs them.

    ``libraries``: repositories that the configuration lists as libraries, not applications.
    """

    def __init__(self, client: JenkinsClient, controller: str, libraries: Sequence[Pattern] = ()) -> None:
        self._client = client
        self._controller = controller
        self._libraries = libraries
        self._related = RelatedBuilds(client, controller)
        self._told: set[str] = set()

    def build(
        self,
        raw: RawBuild,
        job: Job,
        match: Match | None,
        *,
        pull_request_url: str | None = None,
        listed: Iterable[RawBuild] = (),
        give_up: bool = False,
    ) -> Build:
        """The build, with ``related`` and ``stages`` if needed. ``listed``: builds of the job from the same answer.

        Raises :class:`JenkinsError` if a detail cannot be read now: try again later. With ``give_up`` the detail is
        left out and the reason is stored instead.
        """
        build = build_of(
            raw,
            controller=self._controller,
            job=job.full_name,
            branch_job=job.branch_job,
            pull_request_url=pull_request_url,
        )
        wanted = Wanted(self._libraries, match.rule.repository if match else None)
        build = self._related.with_related(build, job, wanted, listed=listed, give_up=give_up)
        if match is not None and match.rule.stage is not None:
            build = self._with_stages(build, match.rule.stage, give_up=give_up)
        return build

    # ---- stages

    def _with_stages(self, build: Build, pattern: Pattern, *, give_up: bool) -> Build:
        reasons, none_seen = [], False
        try:
            if stages := self._stages_of_overview(build, pattern, give_up=give_up):
                return replace(build, stages=stages)
            none_seen = True  # the plugin does not see stages of the old step `stage 'x'`
        except (JenkinsError, ValueError) as error:
            raise_unless_nothing_to_tell(error, give_up=give_up)
            reasons.append(f"{OVERVIEW}: {error}")
        try:
            return replace(build, stages=self._stages_of_wfapi(build, pattern, give_up=give_up))
        except (JenkinsError, ValueError) as error:
            raise_unless_nothing_to_tell(error, give_up=give_up)
            reasons.append(f"{WFAPI}: {error}")
        if none_seen:
            return replace(build, stages=())
        missing = "; ".join(reasons)
        if build.job not in self._told:
            self._told.add(build.job)
            log.warning("stages cannot be read", controller=self._controller, job=build.job, reason=missing)
        return replace(build, stages_missing=missing)

    def _stages_of_overview(self, build: Build, pattern: Pattern, *, give_up: bool) -> tuple[Stage, ...]:
        """Stages from the plugin that knows which were skipped. Only aborted stages may need a further request."""
        answer = self._client.page(build.job, build.number, OVERVIEW)
        nodes = questions_of_overview(answer, lambda name: pattern.match(name) is not None)
        return _bounded(stages_of_overview(answer, self._steps(build, nodes, give_up=give_up)))

    def _stages_of_wfapi(self, build: Build, pattern: Pattern, *, give_up: bool) -> tuple[Stage, ...]:
        """Stages from the plugin whose status may be wrong. For doubtful stages that match, the steps are requested."""
        answer = self._client.page(build.job, build.number, WFAPI)
        nodes = questions_of_wfapi(answer, lambda name: pattern.match(name) is not None)
        return _bounded(stages_of_wfapi(answer, self._steps(build, nodes, give_up=give_up)))

    def _steps(self, build: Build, nodes: Sequence[str], *, give_up: bool) -> dict[str, dict[str, Any]]:
        """The steps of these stages by id. For stages whose steps cannot be read, the plugin's status is used."""
        steps = {}
        for node in nodes[:MOST_QUESTIONS]:
            try:
                steps[node] = self._client.page(build.job, build.number, f"execution/node/{node}/{WFAPI}")
            except JenkinsError as error:
                raise_unless_nothing_to_tell(error, give_up=give_up)
        return steps


def _bounded(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    if len(stages) > MOST_STAGES:
        raise ValueError(f"it has {len(stages)} stages, more than {MOST_STAGES}")
    return stages
