"""Finds related builds that show what a build deploys: named, repeated, upstream, or others of the same job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import structlog
from msgspec.structs import replace

from agent.deployments import checkouts, repository
from agent.model.build import Related, Relation
from agent.model.fact import SAME_BUILD_MS
from agent.sources.jenkins.client import Job
from agent.sources.jenkins.errors import JenkinsError, raise_unless_nothing_to_tell
from agent.sources.jenkins.raw import Phase, build_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agent.deployments.checkouts import Wanted
    from agent.model.build import Build, UpstreamBuild
    from agent.sources.jenkins.client import JenkinsClient
    from agent.sources.jenkins.raw import RawBuild

log = structlog.get_logger("poller")

K = TypeVar("K")
V = TypeVar("V")

# Upstream builds have upstream builds; the chain is followed this far.
UPSTREAM_STEPS = 5
# Queued builds may be merged into one: this many of its upstream builds are read.
_CAUSES = 10
# At most this many run parameters, and this many other builds of a job, are read.
_NAMED = 3
_OTHERS = 3
# At most this many other branches of a project are read, most likely first.
_BRANCHES = 2
_TRUNKS = ("main", "master", "trunk", "develop")
# For a build that failed before its checkout: this many builds of the job are listed to find one with a checkout.
LISTED = 10
# Cache sizes, for builds (one build often starts several deployments) and for jobs.
REMEMBERED = 64
_JOBS = 500


@dataclass(frozen=True)
class _Question:
    """Search context: ``job`` and ``listed`` (builds from the same answer) concern the first build only."""

    wanted: Wanted
    give_up: bool
    steps: int
    job: Job | None = None
    listed: tuple[RawBuild, ...] = ()

    def further(self) -> _Question:
        return _Question(self.wanted, self.give_up, self.steps - 1)


class RelatedBuilds:
    """Reads related builds, most likely first, and no more than needed.

    Raises :class:`JenkinsError` if one cannot be read now: try again later. With ``give_up`` it is left out.
    """

    def __init__(self, client: JenkinsClient, controller: str) -> None:
        self._client = client
        self._controller = controller
        self._builds: dict[tuple[str, int], Build] = {}
        # By job or multibranch project; None: it has no build with a checkout.
        self._of_jobs: dict[str, Build | None] = {}

    def with_related(
        self, build: Build, job: Job, wanted: Wanted, *, listed: Iterable[RawBuild] = (), give_up: bool = False
    ) -> Build:
        """The build with its related builds. ``listed``: builds of its job from the same answer."""
        own = checkouts.of_build(build, wanted)
        if own.candidates and not own.last_resort:
            self._note(build.job, _as_other(build))
        return self._complete(build, _Question(wanted, give_up, UPSTREAM_STEPS, job, tuple(listed)))

    def _complete(self, build: Build, question: _Question) -> Build:
        if question.steps > 0:
            for find in (self._named, self._others, self._causes, self._repeated, self._listed):
                build = replace(build, related=(*build.related, *find(build, question)))
                told = any(each.how in (Relation.SAME_JOB, Relation.SAME_PROJECT) for each in build.related)
                if told or repository.has_application(build, question.wanted):
                    break
        return build

    def _named(self, build: Build, question: _Question) -> Iterator[Related]:
        """The build in a run parameter; if there are several, the first one with a checkout."""
        for parameter, named in list(build.named_builds.items())[:_NAMED]:
            read = self._read(build, named, question)
            if read is not None and repository.has_application(read, question.wanted):
                yield Related(Relation.NAMED, read, parameter)
                return

    def _causes(self, build: Build, question: _Question) -> Iterator[Related]:
        for cause in build.upstream[:_CAUSES]:
            read = self._read(build, cause, question)
            if read is not None:
                yield Related(Relation.CAUSE, read)

    def _repeated(self, build: Build, question: _Question) -> Iterator[Related]:
        read = self._read(build, build.repeats, question) if build.repeats else None
        if read is not None:
            yield Related(Relation.REPEATED, read)

    def _read(self, build: Build, which: UpstreamBuild, question: _Question) -> Build | None:
        key = which.job, which.number
        known = self._builds.get(key)
        # Started long after that build ended: it may belong to a job that was created again and reuses the number.
        if known is None or build.started_at > known.ended_at + SAME_BUILD_MS:
            known = self._ask(which, give_up=question.give_up)
        return known and self._complete(known, question.further())

    def _ask(self, which: UpstreamBuild, *, give_up: bool) -> Build | None:
        try:
            raw = self._client.build(which.job, which.number)
        except JenkinsError as error:
            raise_unless_nothing_to_tell(error, give_up=give_up)
            log.info("upstream build cannot be read", build=f"{which.job}#{which.number}", reason=str(error))
            return None
        branch_job = self._client.is_branch_job(which.job)
        found = build_of(raw, controller=self._controller, job=which.job, branch_job=branch_job)
        self._builds.pop((which.job, which.number), None)
        if raw.phase is Phase.FINAL:  # a running build may not have its checkouts yet
            _remember(self._builds, (which.job, which.number), found, REMEMBERED)
        return found

    # ---- for a build that failed before its checkout

    def _others(self, build: Build, question: _Question) -> Iterator[Related]:
        """Other builds of the job that checked out an application, nearest first."""
        if question.job is None or not repository.failed_early(build):
            return
        near = sorted(question.listed, key=lambda raw: abs(raw.number - build.number))
        found = [each for raw in near if (each := self._other(build.job, build, raw, question))]
        if not found and (known := self._of_jobs.get(build.job)):
            found = [known]
        yield from (Related(Relation.SAME_JOB, each) for each in found[:_OTHERS])
        if not found and build.branch_job and (known := self._of_jobs.get(build.job.rpartition("/")[0])):
            yield Related(Relation.SAME_PROJECT, known)

    def _other(self, job: str, build: Build, raw: RawBuild, question: _Question) -> Build | None:
        """Another build of a job, if it checked out an application."""
        if (job, raw.number) == (build.job, build.number):
            return None
        other = build_of(raw, controller=self._controller, job=job, branch_job=build.branch_job)
        own = checkouts.of_build(other, question.wanted)
        return _as_other(other) if own.candidates and not own.last_resort else None

    def _listed(self, build: Build, question: _Question) -> Iterator[Related]:
        """List builds, once for each job or project, if the repository is not known otherwise."""
        if question.job is None or not repository.failed_early(build) or build.pull_request_url:
            return
        if build.job not in self._of_jobs:
            found = self._ask_job(build, question.job, question)
            self._note(build.job, found[0] if found else None)
            yield from (Related(Relation.SAME_JOB, each) for each in found[:_OTHERS])
            if found:
                return
        if build.branch_job:
            yield from self._of_project(build, question)

    def _of_project(self, build: Build, question: _Question) -> Iterator[Related]:
        """Builds of other branches: all branches of a multibranch project usually have the same repository."""
        project = build.job.rpartition("/")[0]
        if project not in self._of_jobs:
            others = self._client.other_branches(build.job)
            others.sort(key=lambda job: job.rpartition("/")[2] not in _TRUNKS)
            for job in others[:_BRANCHES]:
                if found := self._ask_job(build, Job(job, 0, branch_job=True), question):
                    self._note(job, found[0])
                    break
            else:
                self._note(project, None)
        if known := self._of_jobs[project]:
            yield Related(Relation.SAME_PROJECT, known)

    def _ask_job(self, build: Build, job: Job, question: _Question) -> list[Build]:
        try:
            listed = self._client.builds(job, 0, LISTED).builds
        except JenkinsError as error:
            raise_unless_nothing_to_tell(error, give_up=question.give_up)
            return []
        return [each for raw in listed if (each := self._other(job.full_name, build, raw, question))]

    def _note(self, job: str, build: Build | None) -> None:
        """Cache the job's build; for a branch job also for its project."""
        _remember(self._of_jobs, job, build, _JOBS)
        if build is not None and build.branch_job:
            _remember(self._of_jobs, job.rpartition("/")[0], build, _JOBS)


def _as_other(build: Build) -> Build:
    """The part of another build that is kept: its checkouts, and the parameters that they may depend on."""
    return replace(build, change_sets=(), upstream=(), repeats=None, named_builds={}, related=(), stages=None)


def _remember(known: dict[K, V], key: K, value: V, most: int) -> None:
    known.pop(key, None)
    known[key] = value
    if len(known) > most:
        del known[next(iter(known))]
