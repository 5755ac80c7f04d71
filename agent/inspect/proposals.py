"""Proposed rules for `init`: patterns for jobs whose names look like deployments. No I/O."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.config.rules import Pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agent.sources.jenkins.client import Job

# Words in the order of the search: `deploy-prod` matches the first.
_ACTIONS = ("deploy", "release", "rollout", "promote")
_ENVIRONMENTS = ("production", "prod", "live", "preprod", "staging", "stage", "stg", "uat")
_WORDS = re.compile(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])")
_SEPARATORS = set("-_.")
_MAIN_BRANCHES = ("main", "master", "trunk")
# The maximum number of proposals: a longer list would not be read.
MOST = 9


@dataclass(frozen=True)
class Proposal:
    """``pattern``: the value for ``job`` in a rule. ``jobs``: full names of the visible jobs that it matches.

    ``likely``: the names of the jobs look like deployments.
    """

    pattern: str
    jobs: tuple[str, ...]
    likely: bool


def propose(jobs: Sequence[Job]) -> list[Proposal]:
    """Patterns for jobs whose names look like deployments: likely ones first, at most :data:`MOST`.

    No two proposals match the same jobs. Names with control characters are ignored.
    """
    usable = [job for job in jobs if job.full_name.isprintable()]
    names = [job.full_name for job in usable]
    plain = [job.full_name for job in usable if not job.branch_job]
    branches = [job.full_name for job in usable if job.branch_job]
    found: list[Proposal] = []
    covered: set[str] = set()
    for pattern, likely in (*((each, True) for each in _of_plain(plain)), *_of_branches(branches)):
        matched = tuple(matching(pattern, names))
        if set(matched) <= covered:
            continue
        covered.update(matched)
        found.append(Proposal(pattern, matched, likely))
    return sorted(found, key=lambda each: not each.likely)[:MOST]


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern matches. Raises :class:`agent.config.rules.RuleError`."""
    parsed = Pattern.parse(pattern)
    return [name for name in names if parsed.match(name) is not None]


def _of_plain(names: Iterable[str]) -> Iterator[str]:
    """First folders with such a name, including everything in them; then jobs that share a word."""
    folders: dict[str, None] = {}
    by_word: dict[str, list[str]] = defaultdict(list)
    for name in names:
        *parents, last = name.split("/")
        depth = next((depth for depth, parent in enumerate(parents, 1) if word_in(parent)), None)
        if depth is not None:
            folders["/".join(parents[:depth]) + "/**"] = None
        elif word := word_in(last):
            by_word[word].append(name)
    yield from folders
    for word in sorted(by_word, key=lambda word: (-len(by_word[word]), word)):
        yield _common(by_word[word], word)


def word_in(segment: str) -> str | None:
    """The word that makes one segment of a job name look like a deployment, or None."""
    lower = segment.lower()
    if action := next((action for action in _ACTIONS if action in lower), None):
        return action
    words = {word.lower() for word in _WORDS.split(segment)}
    return next((environment for environment in _ENVIRONMENTS if environment in words), None)


def _common(names: list[str], word: str) -> str:
    """The narrowest simple pattern that matches all of these jobs."""
    if len(names) == 1:
        return names[0]
    parents = {name.rpartition("/")[0] for name in names}
    lasts = [name.rpartition("/")[2] for name in names]
    if all(last.startswith(word) for last in lasts):
        tail = word + _shared(last[len(word) : len(word) + 1] for last in lasts) + "*"
    elif all(last.endswith(word) for last in lasts):
        tail = "*" + _shared(last[: -len(word)][-1:] for last in lasts) + word
    elif all(word in last for last in lasts):
        tail = f"*{word}*"
    else:
        return f"re:(?i){word}[^/]*$"
    if len(parents) > 1:
        return f"**/{tail}"
    parent = parents.pop()
    return f"{parent}/{tail}" if parent else tail


def _shared(letters: Iterable[str]) -> str:
    """The separator between the word and the rest, if all names have the same."""
    different = set(letters)
    return different.pop() if len(different) == 1 and different <= _SEPARATORS else ""


def _of_branches(names: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """The main branches of multibranch projects, likely ones if the project's name looks like a deployment."""
    projects: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        project, _, branch = name.rpartition("/")
        if branch in _MAIN_BRANCHES:
            projects[project.rpartition("/")[0], branch].append(project)
    for (folder, branch), several in projects.items():
        likely = [project for project in several if word_in(project.rpartition("/")[2]) or word_in(folder)]
        yield from ((f"{project}/{branch}", True) for project in likely)
        others = [project for project in several if project not in likely]
        if len(others) == 1:
            yield f"{others[0]}/{branch}", False
        elif others:
            yield f"{folder}/*/{branch}".removeprefix("/"), False
