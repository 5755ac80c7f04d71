"""Whether a controller has a plugin that lists the stages of a build, if a rule needs the stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.config.rules import first_match
from agent.inspect.findings import Finding, Level, subject_of
from agent.sources.jenkins.client import JenkinsClient, JenkinsError, NotFoundError
from agent.sources.jenkins.details import OVERVIEW, WFAPI

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.config.rules import Rule
    from agent.config.settings import JenkinsSettings
    from agent.sources.jenkins.client import Job

# A few jobs tell: the plugins are there for all pipelines of a controller, or for none.
_JOBS = 3


def missing_plugins(rules: Sequence[Rule], controller: JenkinsSettings, jobs: Iterable[Job]) -> list[Finding]:
    """Ask for the stages of the last build of a few jobs that a rule for stages is for. At most 9 requests."""
    tried = [job for job in jobs if job.next_build_number > 1 and _needs_stages(rules, job)][:_JOBS]
    if not tried:
        return []
    client = JenkinsClient(controller)
    try:
        answers = [_stages_missing(client, job) for job in tried]
    finally:
        client.close()
    missing = [build for build in answers if build]
    if not missing or "" in answers:
        return []
    words = (
        f"the stages of {missing[0]} cannot be read: no plugin lists them, or it is not a pipeline. A rule with stage "
        "needs the plugin pipeline-graph-view or pipeline-rest-api in Jenkins; without it, without_stages in "
        "[[deployment]] says what becomes of the build"
    )
    return [Finding(Level.WARNING, subject_of(controller), words)]


def _needs_stages(rules: Sequence[Rule], job: Job) -> bool:
    match = first_match(rules, job.full_name)
    return match is not None and match.rule.stage is not None


def _stages_missing(client: JenkinsClient, job: Job) -> str | None:
    """The build that was tried if no plugin lists its stages, "" if one does; None if that is not known."""
    try:
        builds = client.builds(job, 0, 1).builds
    except JenkinsError:
        return None  # a job that cannot be read is a finding of the poller, not of this
    if not builds:
        return None
    for page in (OVERVIEW, WFAPI):
        try:
            client.page(job.full_name, builds[0].number, page)
        except NotFoundError:
            continue
        except JenkinsError:
            return None
        return ""
    return f"{job.full_name} #{builds[0].number}"
