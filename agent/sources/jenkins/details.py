"""What a build's own JSON does not tell: the commit of a downstream deployment, the stages of a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from msgspec.structs import replace

from agent.deployments.stages import stages_of_overview, stages_of_wfapi
from agent.model.fact import SAME_BUILD_MS
from agent.sources.jenkins.errors import (
    ControllerDownError,
    ForbiddenError,
    JenkinsError,
    NotFoundError,
    PageError,
    StoppedError,
)
from agent.sources.jenkins.raw import Phase, build_of

if TYPE_CHECKING:
    from agent.config.rules import Match
    from agent.model.build import Build
    from agent.sources.jenkins.client import JenkinsClient, Job
    from agent.sources.jenkins.raw import RawBuild

log = structlog.get_logger("poller")

# A deployment is started by a build, which may be started by a build, …: so far the cause is followed.
UPSTREAM_STEPS = 5
# Upstream builds that are remembered: one build often starts several deployments.
REMEMBERED = 64
# Plugins that tell the stages: pipeline-rest-api, pipeline-graph-view. Neither is guaranteed to be there.
_STAGE_PAGES = (("wfapi/describe", stages_of_wfapi), ("pipeline-overview/tree", stages_of_overview))
# What says that there is nothing to tell. Anything else (an outage, a login page, a revoked token) may be mended.
_NOTHING_TO_TELL = (NotFoundError, ForbiddenError, PageError, ValueError)


class Details:
    """Makes whole builds of answers: asks for more where a rule or a build needs it."""

    def __init__(self, client: JenkinsClient, controller: str) -> None:
        self._client = client
        self._controller = controller
        self._upstream: dict[tuple[str, int], Build] = {}
        self._told: set[str] = set()

    def build(
        self,
        raw: RawBuild,
        job: Job,
        match: Match | None,
        *,
        pull_request_url: str | None = None,
        give_up: bool = False,
    ) -> Build:
        """The build with ``inherited`` and ``stages`` where they matter.

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
        if not build.checkouts and build.upstream:
            build = replace(build, inherited=self._with_checkout(build, give_up=give_up))
        if match is not None and match.rule.stage is not None:
            build = self._with_stages(build, give_up=give_up)
        return build

    # ---- the build that had the checkout

    def _with_checkout(self, build: Build, *, give_up: bool) -> Build | None:
        """The nearest build up the chain of causes that checked something out."""
        for _ in range(UPSTREAM_STEPS):
            if not build.upstream:
                return None
            upstream = self._read(build, give_up=give_up)
            if upstream is None or upstream.checkouts:
                return upstream
            build = upstream
        return None

    def _read(self, build: Build, *, give_up: bool) -> Build | None:
        """The build that started this one."""
        cause = build.upstream[0]
        key = cause.job, cause.number
        known = self._upstream.get(key)
        # Started long after that one ended: of a job that was created again, and has the number once more.
        if known is not None and build.started_at <= known.ended_at + SAME_BUILD_MS:
            return known
        try:
            raw = self._client.build(cause.job, cause.number)
        except JenkinsError as error:
            _raise_unless(error, give_up=give_up)
            log.info("upstream build cannot be read", build=f"{cause.job}#{cause.number}", reason=str(error))
            return None
        branch_job = self._client.is_branch_job(cause.job)
        found = build_of(raw, controller=self._controller, job=cause.job, branch_job=branch_job)
        self._upstream.pop(key, None)
        if raw.phase is Phase.FINAL:  # while it runs, its checkouts may be still to come
            self._upstream[key] = found
            if len(self._upstream) > REMEMBERED:
                del self._upstream[next(iter(self._upstream))]
        return found

    # ---- stages

    def _with_stages(self, build: Build, *, give_up: bool) -> Build:
        reasons = []
        for page, parse in _STAGE_PAGES:
            try:
                return replace(build, stages=parse(self._client.page(build.job, build.number, page)))
            except (JenkinsError, ValueError) as error:
                _raise_unless(error, give_up=give_up)
                reasons.append(f"{page}: {error}")
        missing = "; ".join(reasons)
        if build.job not in self._told:
            self._told.add(build.job)
            log.warning("stages cannot be read", controller=self._controller, job=build.job, reason=missing)
        return replace(build, stages_missing=missing)


def _raise_unless(error: Exception, *, give_up: bool) -> None:
    """Unless there is nothing to tell, or nobody waits for it any longer."""
    if isinstance(error, _NOTHING_TO_TELL):
        return
    if not give_up or isinstance(error, (ControllerDownError, StoppedError)):
        raise error
