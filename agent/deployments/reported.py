"""What counts of a report about repository, branch and commit, beside what Jenkins says.

What somebody gave goes before everything but a library. What was only found in the environment of a build may be of the
shared library that was checked out there: it counts where the build itself checked out nothing of an application.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.deployments.urls import is_same

if TYPE_CHECKING:
    from agent.deployments.checkouts import Wanted
    from agent.deployments.repository import Source
    from agent.model.fact import Report

# Where a field came from that the build itself reported.
SAID = "the build's own report"
_PLACES = ("repo_url", "branch", "commit_hash")


def tells_place(said: Report) -> bool:
    """Whether a report says anything of where the code comes from."""
    return any(getattr(said, name) for name in _PLACES)


def is_given(said: Report) -> bool:
    """Whether nothing that it says of the place was only found: the poller will know nothing better."""
    return all(name in said.given for name in _PLACES if getattr(said, name))


def counted(said: Report, source: Source, wanted: Wanted) -> tuple[Report, dict[str, str]]:
    """The report without what does not count, and why, in words, for each field that says something else.

    ``source``: what Jenkins says of the build, with the libraries that it checked out.
    """
    left_out, why = not_counted(said, source, wanted)
    known = {"repo_url": source.repo_url, "branch": source.branch, "commit_hash": source.commit}
    other = [name for name in left_out if getattr(said, name) != known[name]]
    words = {name: f"{SAID} says {getattr(said, name)}: {why}" for name in other}
    return (replace(said, **dict.fromkeys(left_out)) if left_out else said), words


def not_counted(said: Report, source: Source, wanted: Wanted) -> tuple[list[str], str]:
    """The fields of a report that do not count, and why, in words."""
    places = [name for name in _PLACES if getattr(said, name)]
    found = [name for name in places if name not in said.given]
    if said.repo_url and wanted.is_library(said.repo_url):
        return places, "a repository that [repositories] libraries declares a library"
    if _has_own(said, source):
        return found, "found in its environment; what the build checked out goes before that"
    if _is_library(said, source):
        return found, "found in its environment, of a shared library"
    return [], ""


def origin(said: Report, name: str) -> str:
    """Where a field of the report came from, in words."""
    return SAID if name in said.given or name not in _PLACES else f"{SAID}, from its environment"


def _has_own(said: Report, source: Source) -> bool:
    """Whether Jenkins knows the application's checkout of this very build; not if another repository was given."""
    if not source.own or not source.repo_url:
        return False
    given = said.repo_url if "repo_url" in said.given else None
    return given is None or is_same(given, source.repo_url)


def _is_library(said: Report, source: Source) -> bool:
    """Whether the repository or the commit that was found is that of a library which the build checked out."""
    repo_url, commit = (None if name in said.given else getattr(said, name) for name in ("repo_url", "commit_hash"))
    return any(
        (commit and commit == each.commit) or any(is_same(repo_url or "", url) for url in each.remote_urls)
        for each in source.libraries
    )
