"""Finds the pull requests of a build: from its job, refs and parameters, and from merge commit messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.model.event import MOST_PULL_REQUESTS
from agent.model.git import BRANCH_PARAMETERS, pull_request_of, remotes_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agent.model.build import Build, Checkout

_NUMBER = r"(?P<number>[1-9][0-9]{0,8})(?![0-9])"
# Branch sources name the job of a pull request PR-7 or MR-7; with both strategies PR-7-head and PR-7-merge.
_JOB = re.compile(rf"(?:PR|MR)-{_NUMBER}(?:-head|-merge)?\Z")
_PAGE = re.compile(rf"/(?:pulls?|merge_requests|pull-requests|pullrequest)/{_NUMBER}(?:[/?#]|\Z)")

# Parameters with the number of the build's own pull request: plugins ghprb, gitlab, github-pullrequest.
_NUMBER_PARAMETERS = ("ghprbPullId", "gitlabMergeRequestIid", "GITHUB_PR_NUMBER")
# Parameters that may contain its ref: ghprb sets sha1 to origin/pr/71/merge.
_REF_PARAMETERS = ("sha1", *BRANCH_PARAMETERS)

# First lines of merge commits. bors merges several pull requests at once.
_FIRST_LINES = (
    re.compile(rf"Merge pull request [#!]{_NUMBER}(?: (?:from|in) |\Z)"),  # GitHub, Bitbucket Server before 7, Gitee
    re.compile(rf"Merge pull request '.*' \([#!]{_NUMBER}\) from "),  # Gitea, Forgejo
    re.compile(rf"Merge pull request {_NUMBER} from .+ into "),  # Azure Repos, not squashed
    re.compile(rf"Merged PR {_NUMBER}(?::|\Z)"),  # Azure Repos
    re.compile(rf"Merged in .+ \(pull request #{_NUMBER}\)"),  # Bitbucket Cloud
    re.compile(rf"Pull request #{_NUMBER}(?::|\Z)"),  # Bitbucket Server, Data Center
    re.compile(rf"Merge #{_NUMBER}(?P<more>(?: #[1-9][0-9]{{0,8}})*)(?::|\Z)"),  # bors-ng
    re.compile(rf"(?:Auto|Rollup) merge of #{_NUMBER} - "),  # bors and homu of the Rust project
    re.compile(rf"!{_NUMBER} \S"),  # Gitee
)
# Squash merges have the number after the title: GitHub, Gitea, bors-ng, GitLab's variable local_reference.
_SQUASHED = re.compile(rf"\([#!]{_NUMBER}\)")
# What may follow that number at the end of a title. Anything else means a mention within a sentence.
_BEHIND = re.compile(
    r"""(?:
      \s*+ [-–—|,;·]*+ \s*+
      (?:
          \[[^\[\]]*+\]                          # [skip ci], [backport 2.x]
        | \((?![#!][0-9])[^()]*+\)               # (cherry picked from commit …), (closes #12)
        | \*\*\*\w++\*\*\*                       # ***NO_CI***
        | \#[A-Za-z][\w-]*+                      # #minor
        | \+semver:\s?+\w++                      # +semver: minor
        | (?:(?i:close[sd]?|fix(?:es|ed)?|resolve[sd]?)\s++ (?:\#[0-9]++ | [A-Z][A-Z0-9]++-[0-9]++))  # closes #12
        | [A-Z][A-Z0-9]++-[0-9]++                # SHOP-12
        | :[a-z0-9_+-]++: | [^\w\s\x00-\x7f…‘’‚“”„«»‹›]++  # emoji
      )
    )*+
    \s*+ [.!]?+ \Z""",
    re.VERBOSE,
)
# GitLab adds a line after the description: group/app!7, !7, or the URL with an !. Gitea adds a line with the pull
# request's URL.
_LINES = re.compile(
    rf"^See merge request (?:[^\s!]*!{_NUMBER}|(?P<merge_request>https?://\S+))[ \t\r]*$"
    r"|^Reviewed-on: (?P<pull_request>https?://\S+)[ \t\r]*$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Pulls:
    """``number``: the build's own pull request, else that of the newest merge. ``origin``: its source, for people."""

    number: str | None = None
    numbers: tuple[int, ...] = ()
    origin: str = ""


def of_build(
    build: Build, *, checkouts: Iterable[Checkout] | None = None, messages: Iterable[str] | None = None
) -> Pulls:
    """The build's own pull request, then merges from newest to oldest; at most 50, each once.

    ``checkouts`` and ``messages``: those of the application, if known; otherwise all of the build.
    """
    own = _own(build, build.checkouts if checkouts is None else checkouts)
    merged = list(of_messages(build.messages if messages is None else messages))
    numbers = tuple(dict.fromkeys([*(number for number, _ in own), *merged]))[:MOST_PULL_REQUESTS]
    if not numbers:
        return Pulls()
    origins = [*dict.fromkeys(origin for _, origin in own), *(["merges in the change sets"] if merged else [])]
    return Pulls(str(numbers[0]), numbers, ", ".join(origins))


def of_messages(messages: Iterable[str]) -> Iterator[int]:
    """The pull requests merged by these commits."""
    for message in messages:
        yield from numbers_of(message)


def of_message(message: str) -> int | None:
    """The pull request that a commit merges, from its message; None for other messages, such as ``fixes #12``."""
    return next(iter(numbers_of(message)), None)


def numbers_of(message: str) -> tuple[int, ...]:
    """The pull requests that a commit merges, from its message: none, one, or a batch in bors' order."""
    first_line = message.strip().partition("\n")[0].rstrip()
    for pattern in _FIRST_LINES:
        if found := pattern.match(first_line):
            more = found.groupdict().get("more") or ""
            return (int(found["number"]), *(int(each) for each in more.replace("#", "").split()))
    number = _squashed(first_line) or _in_lines(message)
    return () if number is None else (number,)


def of_job(name: str) -> int | None:
    """The number in the name of a pull request's job, ``PR-71``. Only branch jobs have such names."""
    found = _JOB.match(name)
    return None if found is None else int(found["number"])


def of_page(url: str) -> int | None:
    """The number in the URL of a pull request: ``…/pull/71``, ``…/merge_requests/71``, ``…/pull-requests/71``."""
    found = _PAGE.search(url)
    return None if found is None else int(found["number"])


def _squashed(title: str) -> int | None:
    """The last number in parentheses at the end of the title: ``Fix it (#71) (#80)`` is 80, a cherry-pick of 71."""
    last = None
    for last in _SQUASHED.finditer(title):  # noqa: B007 - the last one is wanted
        pass
    if last is None or _BEHIND.match(title, last.end()) is None:
        return None
    return int(last["number"])


def _in_lines(message: str) -> int | None:
    for found in _LINES.finditer(message):
        if found["number"]:
            return int(found["number"])
        if number := of_page(found["merge_request"] or found["pull_request"]):
            return number
    return None


def _own(build: Build, checkouts: Iterable[Checkout]) -> list[tuple[int, str]]:
    """The build's own pull requests, and where they came from."""
    own = []
    name = build.job.rpartition("/")[2]
    if build.branch_job and (number := of_job(name)):
        own.append((number, f"the pull request's own job {name}"))
    if build.pull_request_url and (number := of_page(build.pull_request_url)):
        own.append((number, f"the pull request's page {build.pull_request_url}"))
    return [*own, *_of_parameters(build.parameters), *_of_refs(checkouts, branch_job=build.branch_job)]


def _of_parameters(parameters: dict[str, str]) -> Iterator[tuple[int, str]]:
    for name in _NUMBER_PARAMETERS:
        if (value := parameters.get(name)) and (number := pull_request_of(f"refs/pull/{value.strip()}")):
            yield number, f"parameter {name}"
    for name in _REF_PARAMETERS:
        if (value := parameters.get(name)) and (number := pull_request_of(value)):
            yield number, f"parameter {name}"


def _of_refs(checkouts: Iterable[Checkout], *, branch_job: bool) -> Iterator[tuple[int, str]]:
    for checkout in checkouts:
        remotes = remotes_of(checkout.branches, len(checkout.remote_urls))
        for ref in checkout.branches:
            # In a branch job a bare name is always a branch.
            is_ref = (ref or "").startswith("refs/") or not branch_job
            if is_ref and (number := pull_request_of(ref, remotes)):
                yield number, f"the ref {ref}"
