"""Finds a deployment's repository, branch, commit and changes, from the build itself or from a related one.

A build without an application checkout takes them from the build that it names, repeats or was started by. One that
failed before its checkout takes them from other builds of its job.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agent.deployments import checkouts as own_checkouts
from agent.deployments.checkouts import Applications, Candidate, Wanted, own_branch
from agent.deployments.urls import is_same, plain, repository_of_page
from agent.model.build import Build, ChangeSet, Related, Relation
from agent.model.git import branch_name, branch_of_parameters, is_tag, remote_of, remotes_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.config.rules import Pattern
    from agent.model.build import Checkout

_RAN = ("SUCCESS", "UNSTABLE")
_OF_JOB = (Relation.SAME_JOB, Relation.SAME_PROJECT)
# Shorter parameter values occur in many texts by chance.
_TELLING = 2
_FIRST_USED = "the first one is used; to choose another, set repository in the rule"


@dataclass(frozen=True)
class Source:
    """Where a deployment's code comes from.

    ``origins``: how ``repo_url``, ``branch`` and ``commit`` were found, for people. ``own``: the data comes from the
    build or its job, not from another build. ``build``: the one with the checkout (``whose``: description, empty for
    the build itself). ``checkouts`` and ``changes``: those of the application in it. ``others``: further changes, from
    other builds that also started it. ``libraries``: shared libraries that the build itself checked out.
    """

    repo_url: str | None = None
    branch: str | None = None
    commit: str | None = None
    origins: dict[str, str] = field(default_factory=dict)
    own: bool = False
    build: Build | None = None
    whose: str = ""
    checkouts: tuple[Checkout, ...] = ()
    changes: tuple[ChangeSet, ...] = ()
    others: tuple[Source, ...] = ()
    libraries: tuple[Checkout, ...] = ()


NOTHING = Source()


def sources(
    build: Build,
    *,
    repository: Pattern | None = None,
    libraries: Sequence[Pattern] = (),
    each: bool = False,
    wanted: Wanted | None = None,
) -> list[Source]:
    """The application's repository; with ``each`` all that are not libraries. Never an empty list.

    ``wanted``: in place of ``repository`` and ``libraries``.
    """
    search = _Search(build, wanted or Wanted(libraries, repository))
    found = search.each() if each else [search.one()]
    return [replace(source, libraries=search.own.libraries) for source in found] if search.own.libraries else found


def has_application(build: Build, wanted: Wanted) -> bool:
    """Whether the build, or one of its related builds, checked out an application."""
    return _held_by(build, wanted) is not None


def failed_early(build: Build) -> bool:
    """Whether a build without checkouts may have failed before its checkout."""
    return build.result not in _RAN


# ---- which build


@dataclass(frozen=True)
class _Held:
    """A build that checked out the application, and the path to it. ``others``: of further upstream builds."""

    build: Build
    applications: Applications
    way: tuple[Related, ...] = ()
    others: tuple[_Held, ...] = ()


def _held_by(build: Build, wanted: Wanted, own: Applications | None = None) -> _Held | None:
    """The build that a run parameter names, the build itself, the one that it repeats, or those that started it.

    ``own``: its own checkouts, if known already.
    """
    if found := _first(build, Relation.NAMED, wanted):
        return found
    applications = own or own_checkouts.of_build(build, wanted)
    if applications.candidates and not applications.last_resort:
        return _Held(build, applications)
    if found := _first(build, Relation.REPEATED, wanted):
        return found
    return None if _failed_early(build, wanted) else _newest_cause(build, wanted)


def _related(build: Build) -> tuple[Related, ...]:
    inherited = (Related(Relation.CAUSE, build.inherited),) if build.inherited is not None else ()
    return build.related or inherited


def _through(related: Related, wanted: Wanted) -> _Held | None:
    found = _held_by(related.build, wanted)
    return found and replace(found, way=(related, *found.way))


def _first(build: Build, how: Relation, wanted: Wanted) -> _Held | None:
    held = (_through(each, wanted) for each in _related(build) if each.how is how)
    return next((found for found in held if found), None)


def _newest_cause(build: Build, wanted: Wanted) -> _Held | None:
    """Several upstream builds merged in the queue: the newest one's commit is deployed, with the changes of all."""
    causes = [each for each in _related(build) if each.how is Relation.CAUSE]
    held = [found for each in causes if (found := _through(each, wanted))]
    if not held:
        return None
    newest = max(held, key=lambda each: (each.way[0].build.started_at, each.way[0].build.number))
    return replace(newest, others=(*newest.others, *(each for each in held if each is not newest)))


def _failed_early(build: Build, wanted: Wanted) -> bool:
    """Whether a build failed before a checkout that other builds of its job have."""
    return failed_early(build) and any(
        each.how in _OF_JOB and _held_by(each.build, wanted) is not None for each in _related(build)
    )


# ---- its data


class _Search:
    """The sources of one build."""

    def __init__(self, build: Build, wanted: Wanted) -> None:
        self.build = build
        self.wanted = wanted
        self.own = own_checkouts.of_build(build, wanted)

    def one(self) -> Source:
        held = _held_by(self.build, self.wanted, self.own)
        if held is not None:
            return self._with_others(held)
        if (source := self._of_job()).repo_url:
            return source
        if self.own.candidates and not source.commit:  # most likely a library
            return self._source(_Held(self.build, self.own), self.own.candidates[0])
        note = self.own.note or source.origins.get("repo_url", "")
        return replace(source, origins=source.origins | ({"repo_url": note} if note else {}))

    def each(self) -> list[Source]:
        held = _held_by(self.build, self.wanted, self.own)
        if held is None or len(held.applications.candidates) == 1:
            return [self.one()]
        several = replace(held, applications=replace(held.applications, certain=True))
        return [self._source(several, candidate, alone=False) for candidate in held.applications.candidates]

    def _with_others(self, held: _Held) -> Source:
        source = self._source(held, held.applications.candidates[0])
        others = [self._source(each, each.applications.candidates[0]) for each in held.others]
        same = [each for each in others if is_same(each.repo_url or "", source.repo_url or "")]
        if not others:
            return source
        builds = ", ".join(_called(each.way[0].build) for each in held.others)
        note = f"{source.origins['repo_url']}; the newest of {len(others) + 1} upstream builds, the others are {builds}"
        return replace(source, others=tuple(same), origins=source.origins | {"repo_url": note})

    def _source(self, held: _Held, candidate: Candidate, *, alone: bool = True) -> Source:
        return _Reading(self.build, held, candidate, alone=alone).source()

    def _of_job(self) -> Source:
        """For a build without checkouts: data of its job and of other builds of the job."""
        build, origins = self.build, dict[str, str]()
        other = self._other_build() if failed_early(build) else None
        repo_url = self._repository_of_job(other, origins)
        branch, origins["branch"] = _branch_elsewhere(build, "")
        if not branch and other:
            branch, origins["branch"] = _branch_of_other(build, other)
        commit = build.revision.commit if build.revision else None
        if commit:
            origins["commit"] = "the commit that the branch job was started for"
        told = {key: words for key, words in origins.items() if words}
        # Systems without checkout data may still have changes.
        changes = () if build.checkouts else build.change_sets
        return Source(repo_url, branch, commit, told, own=bool(repo_url), build=build, changes=changes)

    def _other_build(self) -> Source | None:
        """Another build of the job with a checkout that does not depend on its parameters."""
        for related in _related(self.build):
            held = _through(related, self.wanted) if related.how in _OF_JOB else None
            if held is not None and held.build is related.build:
                found = self._source(held, held.applications.candidates[0])
                if found.repo_url and not _by_parameter(self.build, related.build, found.repo_url):
                    return found
        return None

    def _repository_of_job(self, other: Source | None, origins: dict[str, str]) -> str | None:
        page = self.build.pull_request_url or ""
        repository = repository_of_page(page)
        pattern = self.wanted.repository
        if repository and (
            self.wanted.is_library(repository) or (pattern and pattern.match(plain(repository)) is None)
        ):
            repository = None
        if other and other.repo_url and (repository is None or is_same(other.repo_url, repository)):
            origins["repo_url"] = f"{other.origins['repo_url']}; this build checked out nothing"
            return other.repo_url
        if repository:
            origins["repo_url"] = f"the branch job's page {page}"
        return repository


def _by_parameter(build: Build, other: Build, text: str | None) -> bool:
    """Whether a parameter of the other build seems to have produced this text, and has another value in this build."""
    return any(
        len(value) >= _TELLING and value in (text or "") and build.parameters.get(name) != value
        for name, value in other.parameters.items()
    )


def _branch_of_other(build: Build, source: Source) -> tuple[str | None, str]:
    """The branch of another build of the job, or the value of the parameter that determines it."""
    other = source.build or build
    for name, value in other.parameters.items():
        if source.branch and branch_name(value, commit="") == source.branch:
            branch = branch_name(build.parameters.get(name))
            return branch, f"parameter {name}, which determined the branch of {_called(other)}" if branch else ""
    if _by_parameter(build, other, source.branch):
        return None, ""
    return source.branch, f"{source.origins.get('branch', '')}; this build checked out nothing" if source.branch else ""


class _Reading:
    """The data of one checkout of a build. ``alone``: it is the only one that counts."""

    def __init__(self, build: Build, held: _Held, candidate: Candidate, *, alone: bool) -> None:
        self._build = build
        self._held = held
        self._candidate = candidate
        self._alone = alone
        holder, checkout = held.build, candidate.checkout
        self._raw = candidate.raw_branch
        self._is_own_branch = holder.branch_job and self._raw == own_branch(holder)
        remotes = () if self._is_own_branch else remotes_of(checkout.branches, len(checkout.remote_urls))
        self._remotes = remotes
        self._where = f"checkout {candidate.number} of {len(holder.checkouts)}{whose_words(held.way)}"
        self._remote = remote_of(self._raw, remotes)
        self._called = f" ({self._remote})" if self._is_remote_to_tell() else ""

    def source(self) -> Source:
        candidate, checkout = self._candidate, self._candidate.checkout
        origins = {"repo_url": self._said(self._note())}
        branch, origins["branch"] = self._branch()
        commit, origins["commit"] = self._commit()
        return Source(
            candidate.url or None,
            branch,
            commit,
            {key: words for key, words in origins.items() if words},
            own=self._held.build is self._build and not self._held.applications.last_resort,
            build=self._held.build,
            whose=whose_words(self._held.way),
            checkouts=(checkout,),
            changes=self._changes(),
        )

    def _is_remote_to_tell(self) -> bool:
        return self._remote in ("origin", "upstream") or (
            bool(self._remote) and self._raw.startswith(("refs/remotes/", "remotes/"))
        )

    def _said(self, note: str) -> str:
        return f"{self._where}{self._called}" + (f"; {note}" if note else "")

    def _note(self) -> str:
        """The note about the choice of the repository."""
        applications, urls = self._held.applications, self._candidate.checkout.remote_urls
        if not urls:
            return "the SCM plugin does not report the repository; set repo_url in the rule"
        note = applications.note
        if len(applications.candidates) > 1 and not note and not applications.certain:
            all_urls = ", ".join(each.url for each in applications.candidates)
            note = f"{len(applications.candidates)} checkouts could be the application's: {all_urls}; "
            return note + _FIRST_USED
        told = self._remote == "origin" or own_checkouts.is_called_after(self._candidate.url, self._candidate.checkout)
        if not note and len({plain(url) for url in urls}) > 1 and not told:
            note = f"{len(urls)} remotes: {', '.join(urls)}; {_FIRST_USED}"
        return note

    def _branch(self) -> tuple[str | None, str]:
        checkout, holder = self._candidate.checkout, self._held.build
        commit, is_name = checkout.commit, self._is_own_branch or checkout.kind != ""
        if self._is_own_branch and _is_change(holder):
            branch = None
        else:
            branch = branch_name(self._raw, self._remotes, commit=commit, is_name=is_name)
        if branch:
            tag = f"tag of {self._where}" if is_tag(self._raw, self._remotes) else ""
            return branch, self._with_why(tag or f"{self._where}{self._called}")
        found = _branch_elsewhere(holder, whose_words(self._held.way), commit=commit)
        if found[0] is None and holder is not self._build:
            found = _branch_elsewhere(self._build, "", commit=commit)
        return found

    def _commit(self) -> tuple[str | None, str]:
        """The checkout's commit. For a pull request its own commit, not the temporary merge commit of the build."""
        commit, revision = self._candidate.checkout.commit, self._held.build.revision
        is_pull = revision is not None and revision.target is not None
        if revision and revision.commit and is_pull and self._is_own_branch and commit != revision.commit:
            return revision.commit, f"the pull request's own commit; {self._where} is a temporary merge for the build"
        return commit, self._with_why(f"{self._where}{self._called}") if commit else ""

    def _with_why(self, words: str) -> str:
        return f"{words}; {self._candidate.why}" if self._candidate.why else words

    def _changes(self) -> tuple[ChangeSet, ...]:
        """Change sets that end with the commit; if ``alone``, also those that end with no other checkout's commit."""
        holder = self._held.build
        if self._alone and not holder.change_sets and holder.change_messages:  # stored by an older version
            return (ChangeSet(messages=holder.change_messages),)
        mine, others = self._candidate.checkout.commit, {each.commit for each in holder.checkouts}
        return tuple(
            each
            for each in holder.change_sets
            if (each.head is not None and each.head == mine) or (self._alone and each.head not in others)
        )


# ---- words and branches


def _is_change(build: Build) -> bool:
    """Whether a branch job belongs to a Gerrit change, ``11/4711/3``: its name is not a branch."""
    return branch_name(own_branch(build), (), commit="") is None


def _branch_elsewhere(build: Build, whose: str, *, commit: str | None = None) -> tuple[str | None, str]:
    """For a detached HEAD or no checkout: the branch from the branch job's name or the parameters."""
    if build.branch_job and not _is_change(build):
        return own_branch(build), f"job name{whose}"
    if build.branch_job and build.revision and build.revision.target:
        return build.revision.target, f"target branch of the change{whose}"
    branch, parameter = branch_of_parameters(build.parameters, commit=commit)
    return branch, f"parameter {parameter}{whose}" if branch else ""


def whose_words(way: Iterable[Related]) -> str:
    """Describes the build that data comes from: nearest last, intermediate ones only where there was a choice."""
    links = list(way)
    if not links:
        return ""
    words = _link(links[-1])
    return words + "".join(_link(each) for each in reversed(links[:-1]) if each.how is not Relation.CAUSE)


def _link(related: Related) -> str:
    called = _called(related.build)
    match related.how:
        case Relation.NAMED:
            return f" of build {called}, named by parameter {related.parameter}"
        case Relation.REPEATED:
            return f" of build {called}, which was repeated"
        case Relation.SAME_JOB:
            return f" of build {called} of the same job"
        case Relation.SAME_PROJECT:
            return f" of build {called} of another branch"
        case Relation.CAUSE:
            return f" of upstream build {called}"


def _called(build: Build) -> str:
    return f"{build.job}#{build.number}"
