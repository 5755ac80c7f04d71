"""Decides which of a build's own checkouts is the application's, and which are shared libraries.

Certain facts from Jenkins come first: the commit that a branch job was started for, the page of its repository, the
libraries that the pipeline loaded. Names are only used if these leave a choice, and the result says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import unquote

from agent.deployments.urls import is_same, path_of, plain, repository_of_page
from agent.model.git import branch_name, remote_of, remotes_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agent.config.rules import Pattern
    from agent.model.build import Build, Checkout

# A build records a shared library's checkout like any other, so libraries are recognised by repository name.
_LIBRARY_NAME = re.compile(r"(?i)(^|[-_./:])(lib|libs|library|libraries)(\.git)?/?$")
# Parameters that may contain the revision to deploy.
REVISION_PARAMETER = re.compile(
    r"(?i)branch|tag|revision|(?:^|_)rev(?:$|_)|commit|sha|version|release|(?:^|_)ref(?:$|_)"
)
_WORDS = re.compile(r"[^a-z0-9]+")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,64}", re.IGNORECASE)


@dataclass(frozen=True)
class Wanted:
    """What configuration, rule and report say about the application's repository.

    ``libraries``: repositories that are never the application. ``repository``: the rule's pattern. ``url``: from a
    report. ``named``: revisions that the rule names, each with its origin for people.
    """

    libraries: Sequence[Pattern] = ()
    repository: Pattern | None = None
    url: str = ""
    named: tuple[tuple[str, str], ...] = ()

    def is_library(self, url: str) -> bool:
        """Whether the configuration declares this repository a library."""
        name = plain(url)
        return any(pattern.match(name) is not None for pattern in self.libraries)


NOTHING_WANTED = Wanted()


@dataclass(frozen=True)
class Candidate:
    """One repository among a build's checkouts: the ``remote``-th URL of the ``number``-th checkout (from 1).

    ``why``: why this checkout of the repository was chosen, for people.
    """

    checkout: Checkout
    number: int
    remote: int = 0
    why: str = ""

    @property
    def url(self) -> str:
        """Empty for systems that do not provide it."""
        return self.checkout.remote_urls[self.remote] if self.checkout.remote_urls else ""

    @property
    def raw_branch(self) -> str:
        """The branch of this remote, as git spells it; empty if the checkout has none."""
        branches = self.checkout.branches
        aligned = len(branches) == len(self.checkout.remote_urls)
        index = self.remote if aligned else origin_of(self.checkout)
        return (branches[index : index + 1] or branches[:1] or ("",))[0]


@dataclass(frozen=True)
class Applications:
    """The repositories that may be the application's, most likely first, each once, with a note for people.

    ``certain``: the first one is the application. ``last_resort``: they are probably libraries. ``libraries``:
    checkouts that certainly are.
    """

    candidates: tuple[Candidate, ...] = ()
    note: str = ""
    certain: bool = False
    last_resort: bool = False
    libraries: tuple[Checkout, ...] = ()


def of_build(build: Build, wanted: Wanted = NOTHING_WANTED) -> Applications:
    """The checkouts of a build that may be the application."""
    return _Choice(build, wanted).made() if build.checkouts else Applications()


class _Choice:
    """Chooses the application among the checkouts of one build."""

    def __init__(self, build: Build, wanted: Wanted) -> None:
        self._build = build
        self._wanted = wanted
        self._all = [Candidate(checkout, number) for number, checkout in enumerate(build.checkouts, 1)]
        self._known = [each for each in self._all if not any(map(wanted.is_library, each.checkout.remote_urls))]
        certain, self._why_certain = self._find_certain()
        self._certain = {each.number for each in certain}
        loaded = _Loaded(build, [each for each in self._known if each.number not in self._certain])
        self._loaded, self._unclear, self._all_loaded_are_known = loaded.found, loaded.unclear, loaded.complete

    def made(self) -> Applications:
        eligible, words = self._eligible()
        if words and not eligible:
            return Applications(note=f"no checkout matches {words}: {_urls(self._all)}", libraries=self._libraries(()))
        rest = [each for each in eligible if each.number not in self._loaded]
        if not rest:
            return self._only_libraries(eligible, words)
        applications = [each for each in rest if each.number in self._certain]
        if applications:
            others = [each for each in rest if each.number not in self._certain]
            note = f"chosen by {words}" if words else self._why_certain
            return self._result([*applications, *others], note, certain=True)
        return self._guessed(rest, words)

    def _find_certain(self) -> tuple[list[Candidate], str]:
        """The revision that the branch job was started for, from ``SCMRevisionAction`` and the job's page."""
        commit = self._build.revision.commit if self._build.revision else None
        at_commit = [each for each in self._known if commit and each.checkout.commit == commit]
        if at_commit:
            return at_commit, "at the commit that the branch job was started for"
        page = repository_of_page(self._build.pull_request_url or "")
        of_page = [each for each in self._known if page and is_same(each.url, page)]
        return of_page, "the repository of the branch job's page" if of_page else ""

    def _eligible(self) -> tuple[list[Candidate], str]:
        """What the rule or a report selects, with the reason; else the first remote of each checkout."""
        pattern, url = self._wanted.repository, self._wanted.url
        if pattern is not None:
            chosen = [each for each in self._remotes() if pattern.match(plain(each.url)) is not None]
            return chosen, f"repository = {pattern.text!r}"
        if url and (reported := [each for each in self._remotes() if is_same(each.url, url)]):
            return reported, "the repository that was reported"
        firsts = [_of_remote(each, _remotes(each.checkout)[0]) for each in self._known if each.url]
        return firsts or self._known, ""

    def _remotes(self) -> Iterator[Candidate]:
        """Each checkout with each of its remotes."""
        return (_of_remote(each, remote) for each in self._known for remote in _remotes(each.checkout))

    def _only_libraries(self, eligible: list[Candidate], words: str) -> Applications:
        if words:  # the rule takes precedence
            return self._result(
                eligible, f"chosen by {words}, although the build loaded it as a library", last_resort=True
            )
        note = f"only shared libraries were checked out: {_urls(self._all)}"
        return Applications(note=note, libraries=self._libraries(()))

    def _guessed(self, rest: list[Candidate], words: str) -> Applications:
        """Choose by names, if Jenkins' data is not enough."""
        named = [each for each in rest if _LIBRARY_NAME.search(each.url)]
        others = [each for each in rest if each not in named]
        if words:
            return self._result([*others, *named], f"chosen by {words}")
        if self._all_loaded_are_known:
            return self._of_own_branch([*others, *named], [])
        if not others:
            note = "only a library was checked out; if it is not the application, set repo_url in the rule"
            return self._result(rest[:1], note, last_resort=True, named=named)
        return self._of_own_branch(others, named)

    def _of_own_branch(self, candidates: list[Candidate], named: list[Candidate]) -> Applications:
        own = [each for each in candidates if is_on_own_branch(self._build, each)]
        if not own or len(own) == len(candidates):
            return self._result(candidates, self._unclear, named=named)
        one = len({plain(each.url) for each in own}) == 1
        ordered = [*own, *(each for each in candidates if each not in own)]
        return self._result(ordered, "the only one on the job's own branch" if one else self._unclear, named=named)

    def _result(
        self,
        candidates: list[Candidate],
        note: str,
        *,
        certain: bool = False,
        last_resort: bool = False,
        named: Iterable[Candidate] = (),
    ) -> Applications:
        """Each repository once, because a build may check it out several times."""
        groups: dict[str, list[Candidate]] = {}
        for each in candidates:
            group = groups.setdefault(plain(each.url) if each.url else f"#{each.number}", [])
            if each.number not in [other.number for other in group]:  # otherwise the same checkout with another remote
                group.append(each)
        revisions = _Revisions(self._build, self._wanted)
        distinct = tuple(revisions.choose(sorted(group, key=lambda each: each.number)) for group in groups.values())
        return Applications(distinct, note, certain, last_resort, self._libraries(named))

    def _libraries(self, named: Iterable[Candidate]) -> tuple[Checkout, ...]:
        known = {each.number for each in self._known}
        left_out = self._loaded | {each.number for each in named}
        return tuple(each.checkout for each in self._all if each.number in left_out or each.number not in known)


class _Loaded:
    """The checkouts of libraries that the pipeline loaded: ``found`` by checkout number.

    ``LibrariesAction`` has the libraries' names but not their checkouts. Library checkouts have a bare branch name,
    others usually not; a cached library has no checkout. ``complete``: all libraries were found. ``unclear``: several
    checkouts are possible, for people.
    """

    def __init__(self, build: Build, candidates: list[Candidate]) -> None:
        self._build = build
        self._names = [each.partition("@")[0].lower() for each in build.libraries or ()]
        self._versions = {each.partition("@")[2] for each in build.libraries or ()}
        self.unclear = ""
        self.found: set[int] = set()
        if self._names:
            self._find(candidates)
        self.complete = build.libraries is not None and len(self.found) >= len(self._names)

    def _find(self, candidates: list[Candidate]) -> None:
        wanted = len(self._names)
        bare = [each for each in candidates if self._is_bare(each)]
        likeliest = sorted(bare, key=self._likeness, reverse=True)
        self.found = {each.number for each in likeliest[:wanted]}
        if len(bare) > wanted and self._likeness(likeliest[wanted - 1]) == self._likeness(likeliest[wanted]):
            # Libraries are usually loaded before anything else is checked out.
            self.found = {each.number for each in bare[:wanted]}
            libraries = ", ".join(self._build.libraries or ())
            self.unclear = f"Jenkins does not show which of {_urls(bare)} are the libraries {libraries}; "
            self.unclear += "the last one is used; to choose another, set repository in the rule"
        # Libraries loaded with the older retrieval methods look like any other checkout.
        rest = [each for each in candidates if each.number not in self.found]
        for each in rest:
            left = len(rest) - sum(other.number in self.found for other in rest)
            if len(self.found) < wanted and left > 1 and self._is_called_so(each):
                self.found.add(each.number)

    def _is_bare(self, candidate: Candidate) -> bool:
        """Whether the branch has no remote, as only for libraries and branch jobs' own checkouts."""
        revision = self._build.revision
        may_be_own = revision is None or revision.commit is None or revision.target is not None
        if may_be_own and is_on_own_branch(self._build, candidate):
            return False
        names, urls = candidate.checkout.branches, candidate.checkout.remote_urls
        remotes = remotes_of(names, len(urls))
        return bool(names) and all(
            branch_name(name, remotes, commit="") is not None
            and not name.startswith("refs/")
            and not remote_of(name, remotes)
            for name in names
        )

    def _likeness(self, candidate: Candidate) -> tuple[bool, bool, bool, bool]:
        """How much it looks like a library."""
        return (
            not _named_by_parameter(self._build, candidate),
            self._is_called_so(candidate),
            _LIBRARY_NAME.search(candidate.url) is not None,
            not self._versions.isdisjoint(candidate.checkout.branches),
        )

    def _is_called_so(self, candidate: Candidate) -> bool:
        """Whether the repository's name fits the library: ``shared`` fits ``jenkins-shared``."""
        words = set(_WORDS.split(path_of(candidate.url).rpartition("/")[2].lower()))
        return any(words.issuperset(_WORDS.split(name)) for name in self._names)


class _Revisions:
    """Chooses among several checkouts of one repository the one that is deployed."""

    def __init__(self, build: Build, wanted: Wanted) -> None:
        self._build = build
        self._named = wanted.named

    def choose(self, group: list[Candidate]) -> Candidate:
        """The one named by the rule or a parameter, else the one that the branch job was started for, else the last."""
        if len(group) == 1:
            return group[0]
        chosen, which = self._chosen(group)
        names = ", then ".join(_shown(each) for each in group)
        return replace(chosen, why=f"checked out {len(group)} times, {names}; {which}")

    def _chosen(self, group: list[Candidate]) -> tuple[Candidate, str]:
        for text, words in self._named:
            if hits := [each for each in group if _is_named(each, text)]:
                return hits[-1], f"{words} names this one"
        if hits := [each for each in group if _named_by_parameter(self._build, each)]:
            return hits[-1], f"parameter {_named_by_parameter(self._build, hits[-1])} names this one"
        commit = self._build.revision.commit if self._build.revision else None
        if hits := [each for each in group if commit and each.checkout.commit == commit]:
            return hits[-1], "the branch job was started for this one"
        return group[-1], "the last one is used"


def is_on_own_branch(build: Build, candidate: Candidate) -> bool:
    """Whether a branch job checked out its own branch."""
    return build.branch_job and own_branch(build) in (
        candidate.raw_branch,
        *map(branch_name, candidate.checkout.branches),
    )


def own_branch(build: Build) -> str:
    """The name of a branch job: its branch, tag, pull request or change."""
    told = build.revision.name if build.revision else None
    return told or unquote(build.job.rpartition("/")[2])


def origin_of(checkout: Checkout) -> int:
    """With several remotes, the index of the branch of ``origin``; else the first."""
    remotes = remotes_of(checkout.branches, len(checkout.remote_urls))
    for index, name in enumerate(checkout.branches):
        if remote_of(name, remotes) == "origin":
            return index
    return 0


def _of_remote(candidate: Candidate, remote: int) -> Candidate:
    return candidate if remote == candidate.remote else replace(candidate, remote=remote)


def _remotes(checkout: Checkout) -> list[int]:
    """The indexes of the remote URLs, most likely first: origin's, or one whose host is the remote's name."""
    places = list(range(len(checkout.remote_urls)))
    if len(places) < 2:
        return places
    if len(checkout.branches) == len(places):
        first = origin_of(checkout)
    else:
        called_so = [place for place in places if is_called_after(checkout.remote_urls[place], checkout)]
        first = called_so[0] if len(called_so) == 1 else 0
    if first < len(places):
        places.insert(0, places.pop(first))
    return places


def is_called_after(url: str, checkout: Checkout) -> bool:
    """Whether the branch's remote is named after the URL's host: ``github/main`` for ``github.com``."""
    remote = remote_of(checkout.branches[0], remotes_of(checkout.branches, 2)) if checkout.branches else ""
    return remote not in ("", "*") and remote in re.split(r"[^a-z0-9-]+", plain(url).partition("/")[0])


def _named_by_parameter(build: Build, candidate: Candidate) -> str:
    """The parameter that names the revision of a checkout; empty if none does."""
    for name, value in build.parameters.items():
        if REVISION_PARAMETER.search(name) and _is_named(candidate, value):
            return name
    return ""


def _is_named(candidate: Candidate, text: str) -> bool:
    """Whether a text means the revision: its branch, its tag (``1.4`` for ``v1.4``), its full or abbreviated commit."""
    text = text.strip()
    if not text:
        return False
    commit = (candidate.checkout.commit or "").lower()
    if _SHORT_COMMIT.fullmatch(text) and commit.startswith(text.lower()):
        return True
    name = branch_name(candidate.raw_branch, commit="")
    return name is not None and name in (branch_name(text, commit=""), f"v{text}")


def _shown(candidate: Candidate) -> str:
    commit = candidate.checkout.commit
    return branch_name(candidate.raw_branch, commit=commit) or (commit or "")[:12] or "detached"


def _urls(candidates: Iterable[Candidate]) -> str:
    return ", ".join(url for each in candidates for url in each.checkout.remote_urls)
