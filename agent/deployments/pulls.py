"""Which pull requests a build brought: from the job of a pull request and from the messages of merges."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.model.event import MOST_PULL_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agent.model.build import Build

_NUMBER = r"(?P<number>[1-9][0-9]{0,8})(?![0-9])"
# A branch source names the job of a pull request PR-7 or MR-7, with both strategies PR-7-head and PR-7-merge.
_JOB = re.compile(rf"(?:PR|MR)-{_NUMBER}(?:-head|-merge)?\Z")
_PAGE = re.compile(rf"/(?:pulls?|merge_requests|pull-requests|pullrequest)/{_NUMBER}(?:[/?#]|\Z)")
# What the first line of a merge looks like.
_FIRST_LINES = (
    re.compile(rf"\AMerge pull request #{_NUMBER} (?:from|in) "),  # GitHub, Bitbucket Server before 7
    re.compile(rf"\AMerged in .+ \(pull request #{_NUMBER}\)"),  # Bitbucket Cloud
    re.compile(rf"\APull request #{_NUMBER}:"),  # Bitbucket Server
    re.compile(rf"\AMerged PR {_NUMBER}:"),  # Azure DevOps
    re.compile(rf"\(#{_NUMBER}\)\Z"),  # GitHub, squashed
)
# GitLab says it in a line of its own behind the description: group/app!7, !7, or the whole address with an !.
_GITLAB_LINE = re.compile(rf"^See merge request [^\s!]*!{_NUMBER}[ \t\r]*$", re.MULTILINE)


@dataclass(frozen=True)
class Pulls:
    """``number`` is the job's own pull request, else that of the newest merge; ``origin`` says in words which."""

    number: str | None = None
    numbers: tuple[int, ...] = ()
    origin: str = ""


def of_build(build: Build) -> Pulls:
    """Its own pull request first, then merges from the newest to the oldest; at most 50, each once."""
    own = _own(build)
    merged = list(of_messages(build.change_messages))
    numbers = tuple(dict.fromkeys([*(number for number, _ in own), *merged]))[:MOST_PULL_REQUESTS]
    if not numbers:
        return Pulls()
    origins = [origin for _, origin in own] + (["merges in the change sets"] if merged else [])
    return Pulls(str(numbers[0]), numbers, ", ".join(origins))


def of_messages(messages: Iterable[str]) -> Iterator[int]:
    """The numbers in those messages that are of merges."""
    for message in messages:
        if (number := of_message(message)) is not None:
            yield number


def of_message(message: str) -> int | None:
    """The pull request whose merge a commit's message tells; None for all others, ``fixes #12`` included."""
    first_line = message.strip().partition("\n")[0].rstrip()
    for pattern in _FIRST_LINES:
        if found := pattern.search(first_line):
            return int(found["number"])
    found = _GITLAB_LINE.search(message)
    return None if found is None else int(found["number"])


def of_page(url: str) -> int | None:
    """The number in the address of a pull request: ``…/pull/71``, ``…/merge_requests/71``, ``…/pull-requests/71``."""
    found = _PAGE.search(url)
    return None if found is None else int(found["number"])


def _own(build: Build) -> list[tuple[int, str]]:
    own = []
    name = build.job.rpartition("/")[2]
    if build.branch_job and (found := _JOB.match(name)):
        own.append((int(found["number"]), f"the pull request's own job {name}"))
    if build.pull_request_url and (number := of_page(build.pull_request_url)) is not None:
        own.append((number, f"the pull request's page {build.pull_request_url}"))
    return own
