"""What a build's own JSON does not tell: the commit of a downstream deployment, the stages of a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from msgspec.structs import replace

from agent.deployments.checkouts import Wanted
from agent.deployments.stages import stages_of_overview, stages_of_wfapi
from agent.sources.jenkins.errors import JenkinsError, raise_unless_nothing_to_tell
from agent.sources.jenkins.raw import build_of
from agent.sources.jenkins.related import RelatedBuilds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.config.rules import Match, Pattern
    from agent.model.build import Build
    from agent.sources.jenkins.client import JenkinsClient, Job
    from agent.sources.jenkins.raw import RawBuild

log = structlog.get_logger("poller")

# Plugins that tell the stages: pipeline-rest-api, pipeline-graph-view. Neither is guaranteed to be there.
_STAGE_PAGES = (("wfapi/describe", stages_of_wfapi), ("pipeline-overview/tree", stages_of_overview))


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
            build = self._with_stages(build, give_up=give_up)
        return build

    # ---- stages

    def _with_stages(self, build: Build, *, give_up: bool) -> Build:
        reasons = []
        for page, parse in _STAGE_PAGES:
            try:
                return replace(build, stages=parse(self._client.page(build.job, build.number, page)))
            except (JenkinsError, ValueError) as error:
                raise_unless_nothing_to_tell(error, give_up=give_up)
                reasons.append(f"{page}: {error}")
        missing = "; ".join(reasons)
        if build.job not in self._told:
            self._told.add(build.job)
            log.warning("stages cannot be read", controller=self._controller, job=build.job, reason=missing)
        return replace(build, stages_missing=missing)
