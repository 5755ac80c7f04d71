"""Whether a controller has a plugin that lists stages, if a rule needs them."""

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

# A few jobs are enough: a plugin works for all pipelines of a controller or for none.
_JOBS = 3


def missing_plugins(rules: Sequence[Rule], controller: JenkinsSettings, jobs: Iterable[Job]) -> list[Finding]:
    """Request the stages of the last build of a few jobs whose rule has ``stage``. At most 9 requests."""
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
        "[[deployment]] decides whether the build is an event"
    )
    return [Finding(Level.WARNING, subject_of(controller), words)]


def _needs_stages(rules: Sequence[Rule], job: Job) -> bool:
    match = first_match(rules, job.full_name)
    return match is not None and match.rule.stage is not None


def _stages_missing(client: JenkinsClient, job: Job) -> str | None:
    """The build that was tried, if no plugin lists its stages; "" if a plugin does; None if it is not known."""
    try:
        builds = client.builds(job, 0, 1).builds
    except JenkinsError:
        return None  # jobs that cannot be read are reported elsewhere
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
