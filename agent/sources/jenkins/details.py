"""What a build's own JSON does not tell: the commit of a downstream deployment, the stages of a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from msgspec.structs import replace

from agent.deployments.stages import stages_of_overview, stages_of_wfapi
from agent.model.build import build_of
from agent.sources.jenkins.client import ForbiddenError, NotFoundError, PageError

if TYPE_CHECKING:
    from agent.config.rules import Match
    from agent.model.build import Build
    from agent.sources.jenkins.client import JenkinsClient

log = structlog.get_logger("poller")

# A deployment is started by a build, which may be started by a build, …: so far the cause is followed.
UPSTREAM_STEPS = 5
# Upstream builds that are remembered: one build often starts several deployments.
_REMEMBERED = 64
# Plugins that tell the stages: pipeline-rest-api, pipeline-graph-view. Neither is guaranteed to be there.
_STAGE_PAGES = (("wfapi/describe", stages_of_wfapi), ("pipeline-overview/tree", stages_of_overview))


class Enricher:
    """Asks for more where a rule or a build needs it; what is not to be had is left out, with the reason."""

    def __init__(self, client: JenkinsClient, controller: str) -> None:
        self._client = client
        self._controller = controller
        self._upstream: dict[tuple[str, int], Build | None] = {}
        self._told: set[str] = set()

    def enrich(self, build: Build, match: Match) -> Build:
        """The build with ``inherited`` and ``stages`` where they matter.

        Raises :class:`JenkinsError` when Jenkins did not answer that there is nothing to tell (an
        outage, a login page, a token that was revoked): then it is to be tried again, not to be left out.
        """
        if not build.checkouts and build.upstream:
            build = replace(build, inherited=self._with_checkout(build))
        if match.rule.stage is not None and build.stages is None:
            build = self._with_stages(build)
        return build

    def _with_checkout(self, build: Build) -> Build | None:
        """The nearest build up the chain of causes that checked something out."""
        for _ in range(UPSTREAM_STEPS):
            if not build.upstream:
                return None
            cause = build.upstream[0]
            upstream = self._read(cause.job, cause.number)
            if upstream is None or upstream.checkouts:
                return upstream
            build = upstream
        return None

    def _read(self, job: str, number: int) -> Build | None:
        if (job, number) not in self._upstream:
            if len(self._upstream) >= _REMEMBERED:
                self._upstream.clear()
            try:
                raw = self._client.build(job, number)
            except (NotFoundError, ForbiddenError, PageError) as error:
                log.info("upstream build cannot be read", build=f"{job}#{number}", reason=str(error))
                return None
            branch_job = self._client.is_branch_job(job)
            self._upstream[job, number] = build_of(raw, controller=self._controller, job=job, branch_job=branch_job)
        return self._upstream[job, number]

    def _with_stages(self, build: Build) -> Build:
        reasons = []
        for page, parse in _STAGE_PAGES:
            try:
                return replace(build, stages=parse(self._client.page(build.job, build.number, page)))
            except (NotFoundError, ForbiddenError, PageError, ValueError) as error:
                reasons.append(f"{page}: {error}")
        missing = "; ".join(reasons)
        if build.job not in self._told:
            self._told.add(build.job)
            log.warning("stages cannot be read", controller=self._controller, job=build.job, reason=missing)
        return replace(build, stages_missing=missing)
