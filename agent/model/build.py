"""A finished build, reduced to what deployments are made of."""

from __future__ import annotations

import enum

import msgspec

# Characters that are kept of the parameters of a build; the kind of one for which there was no room.
PARAMETERS_TEXT = 64_000
TOO_LONG = "too long"


class Checkout(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where sources came from, as one ``BuildData`` action of git says it. Credentials are already removed.

    ``branches`` as git spells them, ``""`` for a name that is null. ``kind``: ``svn`` and ``hg`` for other systems,
    whose plugins tell less: Mercurial no repository, Subversion the number of a revision.
    """

    remote_urls: tuple[str, ...]
    branches: tuple[str, ...]
    commit: str | None
    kind: str = ""


class ChangeSet(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is new in one checkout since the build before.

    ``head``: the newest commit, which is the one that was checked out. ``messages``: newest first, those of the newest
    commits. ``oldest_at``: when the oldest commit was made (UTC milliseconds).
    """

    head: str | None = None
    messages: tuple[str, ...] = ()
    oldest_at: int | None = None


class Revision(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a branch job was started for (``SCMRevisionAction``): certain, whatever the build checked out.

    ``name``: the branch, tag or pull request. ``commit``: of a pull request its own last commit, not a trial merge.
    ``target``: the branch that a pull request (or a Gerrit change) is for; None for everything else.
    """

    name: str | None = None
    commit: str | None = None
    target: str | None = None


class UpstreamBuild(msgspec.Struct, frozen=True):
    """A build that another one names: the job's full name and the number."""

    job: str
    number: int


class Relation(enum.StrEnum):
    """Why a build was read for the sake of another one."""

    NAMED = "named"  # a run parameter names it: it is what is deployed
    REPEATED = "repeated"  # by Replay, Restart from Stage, Rebuild
    CAUSE = "cause"  # it started the other one
    # Of one that failed before it checked anything out:
    SAME_JOB = "same job"  # another build of its job
    SAME_PROJECT = "same project"  # a build of another branch of its multibranch project


class Stage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One stage of a pipeline's build, as one of the stage plugins tells it (see ``agent.deployments.stages``).

    ``status`` is the plugin's own word, but where its steps tell otherwise (``agent.deployments.stages.RESULTS`` has
    all words). Times are UTC milliseconds; ``ended_at`` is 0 for a stage that did not end, both are 0 for one that did
    not start. ``url`` may be a path on the controller; empty when there is no page. ``told_by``: in words, whose word
    the status is.
    """

    name: str
    status: str
    started_at: int = 0
    ended_at: int = 0
    url: str = ""
    told_by: str = ""


class Build(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A finished build with everything from which its deployments are derived, now or again later.

    ``controller``, ``job`` and ``number`` are left out where it is stored: the fact's key says them. Times are UTC
    milliseconds.

    ``masked_parameters`` have no value that Jenkins tells; ``parameter_kinds`` says what they are: ``password``,
    ``run``, ``file``, … or :data:`TOO_LONG`. ``libraries``: the shared libraries that a pipeline loaded
    (``name@version``); None: not told. ``pull_request_url``: the page of the branch or pull request that a branch job's
    metadata names. ``named_builds``: by the run parameters that name them; ``upstream``: the builds that started it;
    ``repeats``: the build of which it is a repetition.

    What a single answer of Jenkins does not tell is filled in (``msgspec.structs.replace``): ``related``, the builds
    that were read for its sake; ``stages`` (None: not read) or, in words, why they could not be read.
    ``inherited`` and ``change_messages`` are of builds that older versions stored.
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
        """The messages of all commits that are new in the build, newest first within each checkout."""
        return tuple(message for each in self.change_sets for message in each.messages) or self.change_messages


class Related(msgspec.Struct, frozen=True, omit_defaults=True):
    """A build that was read for the sake of another. ``parameter``: the run parameter that names it."""

    how: Relation
    build: Build
    parameter: str = ""
