"""A finished build, reduced to the data that deployments are derived from."""

from __future__ import annotations

import enum

import msgspec

# How many characters are kept of all parameters of a build together, and the kind of a parameter that did not fit.
PARAMETERS_TEXT = 64_000
TOO_LONG = "too long"


class Checkout(msgspec.Struct, frozen=True, omit_defaults=True):
    """One checkout, from one ``BuildData`` action of the git plugin. Credentials are already removed.

    ``branches`` as git spells them, ``""`` for a name that is null. ``kind``: ``svn`` and ``hg`` for other systems,
    whose plugins provide less: Mercurial no repository, Subversion only a revision number.
    """

    remote_urls: tuple[str, ...]
    branches: tuple[str, ...]
    commit: str | None
    kind: str = ""


class ChangeSet(msgspec.Struct, frozen=True, omit_defaults=True):
    """The changes in one checkout since the previous build.

    ``head``: the newest commit, which was checked out. ``messages``: of the newest commits, newest first.
    ``oldest_at``: time of the oldest commit (UTC milliseconds).
    """

    head: str | None = None
    messages: tuple[str, ...] = ()
    oldest_at: int | None = None


class Revision(msgspec.Struct, frozen=True, omit_defaults=True):
    """The revision that a branch job was started for (``SCMRevisionAction``), whatever the build checked out.

    ``name``: the branch, tag or pull request. ``commit``: for a pull request its own last commit, not a trial merge.
    ``target``: the target branch of a pull request or Gerrit change; None for anything else.
    """

    name: str | None = None
    commit: str | None = None
    target: str | None = None


class UpstreamBuild(msgspec.Struct, frozen=True):
    """A reference to another build: the job's full name and the number."""

    job: str
    number: int


class Relation(enum.StrEnum):
    """Why a related build was read."""

    NAMED = "named"  # a run parameter names it: it is what is deployed
    REPEATED = "repeated"  # this build repeats it: Replay, Restart from Stage, Rebuild
    CAUSE = "cause"  # it started this build
    # For a build that failed before its checkout:
    SAME_JOB = "same job"  # another build of its job
    SAME_PROJECT = "same project"  # a build of another branch of the same multibranch project


class Stage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One stage of a pipeline build, from one of the stage plugins (see ``agent.deployments.stages``).

    ``status`` is the plugin's status, unless the steps contradict it (``agent.deployments.stages.RESULTS`` lists all
    values). Times are UTC milliseconds; ``ended_at`` is 0 for a stage that did not end, both are 0 for one that did not
    start. ``url`` may be a path on the controller; empty if there is no page. ``told_by``: the source of the status,
    for people.
    """

    name: str
    status: str
    started_at: int = 0
    ended_at: int = 0
    url: str = ""
    told_by: str = ""


class Build(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A finished build with everything that its deployments are derived from.

    ``controller``, ``job`` and ``number`` are not stored, because the fact's key has them. Times are UTC milliseconds.

    ``masked_parameters``: parameters whose value Jenkins hides; ``parameter_kinds`` says what they are: ``password``,
    ``run``, ``file``, … or :data:`TOO_LONG`. ``libraries``: the shared libraries that a pipeline loaded
    (``name@version``); None: unknown. ``pull_request_url``: the page of the branch or pull request in the metadata of a
    branch job. ``named_builds``: by the run parameters that name them. ``upstream``: the builds that started this one.
    ``repeats``: the build that this one repeats.

    Fields that need further requests are filled in with ``msgspec.structs.replace``: ``related``, and ``stages`` (None:
    not read) or the reason why they could not be read. ``inherited`` and ``change_messages`` come from builds that
    older versions stored.
    """

    controller: str = ""
    job: str = ""
    number: int = 0
    url: str = ""
    result: str | None = None
    started_at: int
    ended_at: int
    branch_job: bool = False
    parameters: dict[str, str] = {}
    masked_parameters: tuple[str, ...] = ()
    parameter_kinds: dict[str, str] = {}
    checkouts: tuple[Checkout, ...] = ()
    libraries: tuple[str, ...] | None = None
    revision: Revision | None = None
    change_sets: tuple[ChangeSet, ...] = ()
    upstream: tuple[UpstreamBuild, ...] = ()
    repeats: UpstreamBuild | None = None
    named_builds: dict[str, UpstreamBuild] = {}
    related: tuple[Related, ...] = ()
    inherited: Build | None = None
    stages: tuple[Stage, ...] | None = None
    stages_missing: str | None = None
    change_messages: tuple[str, ...] = ()  # newest first
    pull_request_url: str | None = None

    @property
    def messages(self) -> tuple[str, ...]:
        """The messages of all new commits in the build, newest first within each checkout."""
        return tuple(message for each in self.change_sets for message in each.messages) or self.change_messages


class Related(msgspec.Struct, frozen=True, omit_defaults=True):
    """A build that was read because of another one. ``parameter``: the run parameter that names it."""

    how: Relation
    build: Build
    parameter: str = ""
