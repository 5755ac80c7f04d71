"""Rules that match no job. Such a rule is probably misspelt."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agent.config.rules import Pattern, RuleError, first_match
from agent.inspect.findings import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.config.rules import Rule

_SHOWN = 3


def unmatched(rules: Sequence[Rule], jobs: Sequence[str]) -> Iterator[Finding]:
    """Warnings about rules that match no job. ``jobs``: the full names of the jobs of all controllers."""
    taken = {id(match.rule) for job in jobs if (match := first_match(rules, job)) is not None}
    for number, rule in enumerate(rules, 1):
        if id(rule) in taken:
            continue
        where = f'[[deployment]] number {number}, job = "{rule.job.text}"'
        covered = [job for job in jobs if rule.job.match(job) is not None]
        if covered:
            words = (
                f"{where}: rules before it match all of its {len(covered)} job(s), such as {covered[0]}; only the "
                "first rule that matches is used, so move this rule up or remove it"
            )
        else:
            words = f"{where}: no job matches; {_hint(rule.job, jobs)}"
        yield Finding(Level.WARNING, "rules", words)


def _hint(pattern: Pattern, jobs: Sequence[str]) -> str:
    for text, advice in _variants(pattern.text):
        try:
            variant = Pattern.parse(text)
        except RuleError:
            continue
        if found := [job for job in jobs if variant.match(job) is not None]:
            return f'{advice}: "{text}" matches {len(found)} job(s), such as {found[0]}'
    return f"job names here look like {', '.join(jobs[:_SHOWN])}" if jobs else "no job is visible"


def _variants(text: str) -> Iterator[tuple[str, str]]:
    """Patterns that the user may have meant, each with a hint."""
    case = "job names are case-sensitive"
    if text.startswith("re:"):
        yield f"re:(?i){text.removeprefix('re:')}", case
        return
    yield f"**/{text}", "a pattern matches the full name with all folders"
    yield f"{text.rstrip('/')}/**", "a pattern matches the full name with all folders"
    yield text.replace("/job/", "/").removeprefix("job/"), "a full name has no /job/"
    yield f"re:{text}", "it looks like a regular expression"
    expression = re.escape(text).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
    yield f"re:(?i)^{expression}$", case
