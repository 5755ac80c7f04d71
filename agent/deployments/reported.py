"""Decides which repository, branch and commit of a report count, in comparison with Jenkins' data.

Values that a person wrote override everything, except for libraries. Values found in the build's environment may be
those of a shared library's checkout: they count only if the build itself did not check out an application.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.deployments.urls import is_same

if TYPE_CHECKING:
    from agent.deployments.checkouts import Wanted
    from agent.deployments.repository import Source
    from agent.model.fact import Report

# The origin of a field that the build reported, for people.
SAID = "the build's own report"
_PLACES = ("repo_url", "branch", "commit_hash")


def tells_place(said: Report) -> bool:
    """Whether a report says where the code comes from."""
    return any(getattr(said, name) for name in _PLACES)


def is_given(said: Report) -> bool:
    """Whether a person wrote all it says about that: the poller will have nothing better."""
    return all(name in said.given for name in _PLACES if getattr(said, name))


def counted(said: Report, source: Source, wanted: Wanted) -> tuple[Report, dict[str, str]]:
    """The report without values that do not count, and the reason for each field that differs.

    ``source``: what Jenkins says about the build, with the libraries that it checked out.
    """
    left_out, why = not_counted(said, source, wanted)
    known = {"repo_url": source.repo_url, "branch": source.branch, "commit_hash": source.commit}
    other = [name for name in left_out if getattr(said, name) != known[name]]
    words = {name: f"{SAID} says {getattr(said, name)}: {why}" for name in other}
    return (replace(said, **dict.fromkeys(left_out)) if left_out else said), words


def not_counted(said: Report, source: Source, wanted: Wanted) -> tuple[list[str], str]:
    """The fields of a report that do not count, and why, for people."""
    places = [name for name in _PLACES if getattr(said, name)]
    found = [name for name in places if name not in said.given]
    if said.repo_url and wanted.is_library(said.repo_url):
        return places, "the repository is listed in [repositories] libraries"
    if _has_own(said, source):
        return found, "values from the environment do not override what the build itself checked out"
    if _is_library(said, source):
        return found, "values from the environment are those of a shared library"
    return [], ""


def origin(said: Report, name: str) -> str:
    """Where a field of the report came from, for people."""
    return SAID if name in said.given or name not in _PLACES else f"{SAID}, from its environment"


def _has_own(said: Report, source: Source) -> bool:
    """Whether Jenkins knows this build's own checkout of the application; not if another repository was given."""
    if not source.own or not source.repo_url:
        return False
    given = said.repo_url if "repo_url" in said.given else None
    return given is None or is_same(given, source.repo_url)


def _is_library(said: Report, source: Source) -> bool:
    """Whether the repository or commit from the environment belongs to a library that the build checked out."""
    repo_url, commit = (None if name in said.given else getattr(said, name) for name in ("repo_url", "commit_hash"))
    return any(
        (commit and commit == each.commit) or any(is_same(repo_url or "", url) for url in each.remote_urls)
        for each in source.libraries
    )
