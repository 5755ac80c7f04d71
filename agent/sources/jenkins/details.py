"""What a build's own JSON does not tell: the commit of a downstream deployment, the stages of a pipeline."""

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

# The pages of the plugins that tell the stages, pipeline-graph-view and pipeline-rest-api. Neither is guaranteed to be
# there. The first one's word counts: only it tells a skipped stage from one that failed or went well.
OVERVIEW = "pipeline-overview/tree"
WFAPI = "wfapi/describe"
# So many stages of one build are asked for their steps.
MOST_QUESTIONS = 20
# A build with more stages is taken for one whose stages cannot be read.
MOST_STAGES = 1_000


class Details:
    """Makes whole builds of answers: asks for more where a rule or a build needs it.

    ``libraries``: repositories that are never the application's, by the configuration.
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
        """The build with ``related`` and ``stages`` where they matter. ``listed``: builds of the job, read with it.

        Raises :class:`JenkinsError` when Jenkins did not answer that there is nothing to tell: then it is to be tried
        again. With ``give_up`` that is left out, too, with the reason.
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
            none_seen = True  # the plugin does not see those of the old step `stage 'x'`
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
        """The stages by the plugin that knows which were skipped: only those that were stopped may need a question."""
        answer = self._client.page(build.job, build.number, OVERVIEW)
        nodes = questions_of_overview(answer, lambda name: pattern.match(name) is not None)
        return _bounded(stages_of_overview(answer, self._steps(build, nodes, give_up=give_up)))

    def _stages_of_wfapi(self, build: Build, pattern: Pattern, *, give_up: bool) -> tuple[Stage, ...]:
        """The stages by the plugin whose words may lie: those that match and look like it are asked for their steps."""
        answer = self._client.page(build.job, build.number, WFAPI)
        nodes = questions_of_wfapi(answer, lambda name: pattern.match(name) is not None)
        return _bounded(stages_of_wfapi(answer, self._steps(build, nodes, give_up=give_up)))

    def _steps(self, build: Build, nodes: Sequence[str], *, give_up: bool) -> dict[str, dict[str, Any]]:
        """The steps of these stages by their ids, as far as they can be read; else the plugin's own word counts."""
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
