"""Repositories: which of a build's checkouts is the application's, and how a repository's URL is written."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

from agent.model.git import branch_name, without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.config.rules import Pattern
    from agent.model.build import Build, Checkout

# A build records the checkout of a shared library like any other; told by the repository's name.
_LIBRARY_NAME = re.compile(r"(?i)(^|[-_./:])(lib|libs|library|libraries)(\.git)?/?$")
_BRANCH_PARAMETERS = ("BRANCH_NAME", "GIT_BRANCH", "BRANCH")

_HOST = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]?#\\]+)"
_WITH_SCHEME = re.compile(
    rf"(?i:(?P<scheme>https|ssh|git\+ssh|ssh\+git|git))://(?:[^/]*@)?{_HOST}(?P<port>:[0-9]*)?/+(?P<path>.*)", re.DOTALL
)
# git@host:path; one letter before the colon is a drive of Windows.
_SCP_LIKE = re.compile(rf"(?:[^/:@\s]+@)?(?![A-Za-z]:){_HOST}:/*(?P<path>(?!//).*)", re.DOTALL)
_ENDINGS = re.compile(r"(?:/|\.git)+\Z")
_AZURE_HOSTS = ("ssh.dev.azure.com", "vs-ssh.visualstudio.com")
_AZURE_PATH = re.compile(r"v3/(?P<organisation>[^/]+)/(?P<project>[^/]+)/(?P<repository>[^/]+)\Z")


@dataclass(frozen=True)
class Source:
    """Where a deployment's code comes from; ``origins`` says in words how ``repo_url``, ``branch``, ``commit`` came."""

    repo_url: str | None = None
    branch: str | None = None
    commit: str | None = None
    origins: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Candidate:
    """One repository among a build's checkouts: the ``remote``-th URL of the ``number``-th checkout (from 1)."""

    checkout: Checkout
    number: int
    remote: int

    @property
    def url(self) -> str:
        return self.checkout.remote_urls[self.remote]


# ---- which repository


def holder_of(build: Build) -> Build:
    """The build whose checkouts count: itself, or the upstream build that had one."""
    holder = build
    while not holder.checkouts and holder.inherited is not None:
        holder = holder.inherited
    return holder


def sources(
    build: Build, *, repository: Pattern | None = None, libraries: Sequence[Pattern] = (), each: bool = False
) -> list[Source]:
    """The application's repository; with ``each`` all of them that are no libraries; never an empty list.

    A build without a checkout takes what the upstream build had that is kept in ``inherited``.
    """
    holder = holder_of(build)
    whose = "" if holder is build else f" of upstream build {holder.job}#{holder.number}"
    candidates, note = _candidates(holder, repository, libraries)
    if not candidates:
        branch, origin = _branch_elsewhere(holder, whose)
        origins = {"branch": origin} if branch else {}
        return [Source(branch=branch, origins=origins | ({"repo_url": note} if note else {}))]
    if each:
        said = note if len(candidates) == 1 else ""
        return [_source(build, holder, candidate, whose, said) for candidate in candidates]
    if len(candidates) > 1 and not note:
        urls = ", ".join(candidate.url for candidate in candidates)
        note = f"{len(candidates)} checkouts could be the application's: {urls}; "
        note += "the first was taken; set repository in the rule"
    return [_source(build, holder, candidates[0], whose, note)]


def _candidates(build: Build, repository: Pattern | None, libraries: Sequence[Pattern]) -> tuple[list[_Candidate], str]:
    """The repositories that may be the application's, likeliest first, each once, and what is to be said of them."""
    if not build.checkouts:
        return [], ""
    numbered = list(enumerate(build.checkouts, 1))
    if repository is not None:
        chosen = [
            _Candidate(checkout, number, remote)
            for number, checkout in numbered
            for remote in _remotes(checkout)
            if repository.match(plain(checkout.remote_urls[remote])) is not None
        ]
        if chosen:
            return _distinct(chosen), f"chosen by repository = {repository.text!r}"
        urls = ", ".join(url for checkout in build.checkouts for url in checkout.remote_urls)
        return [], f"no checkout matches repository = {repository.text!r}: {urls}"
    firsts = [_Candidate(checkout, number, _remotes(checkout)[0]) for number, checkout in numbered]
    applications = [candidate for candidate in firsts if not is_library(candidate.checkout, libraries)]
    if not applications:
        return firsts[:1], "nothing but a library was checked out; set repo_url in the rule if it is not the one"
    if build.branch_job:
        own = [c for c in applications if _own_branch(build) in map(branch_name, c.checkout.branches)]
        if own and len(own) < len(applications):
            rest = [candidate for candidate in applications if candidate not in own]
            note = "the one on the job's own branch" if len(_distinct(own)) == 1 else ""
            return _distinct([*own, *rest]), note
    return _distinct(applications), ""


def _distinct(candidates: Iterable[_Candidate]) -> list[_Candidate]:
    """Each repository once: a build may check out the same one several times."""
    distinct: dict[str, _Candidate] = {}
    for candidate in candidates:
        distinct.setdefault(plain(candidate.url), candidate)
    return list(distinct.values())


def is_library(checkout: Checkout, libraries: Iterable[Pattern] = ()) -> bool:
    """Whether a checkout is that of a shared library, by its name or by the patterns of the configuration."""
    for url in checkout.remote_urls:
        name = plain(url)
        if _LIBRARY_NAME.search(url) or any(pattern.match(name) is not None for pattern in libraries):
            return True
    return False


def _remotes(checkout: Checkout) -> list[int]:
    """The places of the remotes' URLs, the one that is called origin first."""
    places = list(range(len(checkout.remote_urls)))
    first = _origin(checkout)
    if len(checkout.branches) == len(places) and first < len(places):
        places.insert(0, places.pop(first))
    return places


def _origin(checkout: Checkout) -> int:
    """With several remotes, the place of the branch of the one that is called origin; else the first."""
    for index, name in enumerate(checkout.branches):
        if name.removeprefix("refs/remotes/").startswith("origin/"):
            return index
    return 0


def _source(build: Build, holder: Build, candidate: _Candidate, whose: str, note: str) -> Source:
    checkout = candidate.checkout
    raw = _branch_of(candidate)
    where = f"checkout {candidate.number} of {len(holder.checkouts)}{whose}"
    remote = raw.removeprefix("refs/").removeprefix("remotes/").partition("/")[0] if "/" in raw else ""
    called = f" ({remote})" if remote in ("origin", "upstream") or raw.startswith("refs/remotes/") else ""
    if not note and len(checkout.remote_urls) > 1 and remote != "origin":
        note = f"{len(checkout.remote_urls)} remotes: {', '.join(checkout.remote_urls)}; the first was taken"
        note += "; set repository in the rule"
    origins = {"repo_url": f"{where}{called}" + (f"; {note}" if note else "")}
    branch = branch_name(raw)
    if branch:
        origins["branch"] = f"tag of {where}" if "refs/tags/" in raw else f"{where}{called}"
    else:
        branch, origin = _branch_elsewhere(holder, whose)
        if branch is None and holder is not build:
            branch, origin = _branch_elsewhere(build, "")
        if branch:
            origins["branch"] = origin
    if checkout.commit:
        origins["commit"] = f"{where}{called}"
    return Source(candidate.url, branch, checkout.commit, origins)


def _branch_of(candidate: _Candidate) -> str:
    """The branch that belongs to the remote, as git spells it; empty when the checkout tells none."""
    branches = candidate.checkout.branches
    aligned = len(branches) == len(candidate.checkout.remote_urls)
    index = candidate.remote if aligned else _origin(candidate.checkout)
    return (branches[index : index + 1] or branches[:1] or ("",))[0]


def _own_branch(build: Build) -> str:
    return unquote(build.job.rpartition("/")[2])


def _branch_elsewhere(build: Build, whose: str) -> tuple[str | None, str]:
    """A detached head or no checkout at all: the branch job's name or the build's parameters may know."""
    if build.branch_job:
        return _own_branch(build), f"job name{whose}"
    for name in _BRANCH_PARAMETERS:
        if branch := branch_name(build.parameters.get(name, "")):
            return branch, f"parameter {name}{whose}"
    return None, ""


# ---- how a URL is written


def plain(url: str) -> str:
    """The URL without scheme, user and ``.git``, the host in lower case: ``github.com/acme/shop``."""
    written = https_form(url)
    scheme, separator, rest = written.partition("://")
    if not separator or not scheme.isalnum():
        return _ENDINGS.sub("", written) or written
    host, slash, path = rest.partition("/")
    return f"{host.lower()}{slash}{_ENDINGS.sub('', path)}"


def path_of(url: str) -> str:
    """The repository within its host: ``acme/shop``; the whole of what has no host."""
    name = plain(url)
    has_host = name != url and not url.startswith(("/", "file:"))
    return (name.partition("/")[2] or name) if has_host else name


def https_form(url: str) -> str:
    """``https://host/path`` of an https, ssh, scp-like or git URL: no user, no ``.git``, no port but that of https.

    Anything else (a path, http, an unknown scheme) stays as it is but for its credentials. Azure DevOps' ssh URLs
    name the repository otherwise than its web pages and are translated.
    """
    clean = without_credentials(url.strip()).strip()
    found = _WITH_SCHEME.fullmatch(clean) or (None if "://" in clean else _SCP_LIKE.fullmatch(clean))
    if found is None:
        return clean
    host, path = found["host"], _ENDINGS.sub("", found["path"])
    if not path:
        return clean
    if host.lower() in _AZURE_HOSTS and (azure := _AZURE_PATH.match(path)):
        return f"https://dev.azure.com/{azure['organisation']}/{azure['project']}/_git/{azure['repository']}"
    parts = found.groupdict()
    port = (parts.get("port") or "") if (parts.get("scheme") or "").lower() == "https" else ""
    return f"https://{host}{port if port != ':' else ''}/{path}"
