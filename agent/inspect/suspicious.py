"""Settings that are allowed, but are probably mistakes. Only the configuration is read."""

from __future__ import annotations

import re
from itertools import combinations
from typing import TYPE_CHECKING

from agent.config.settings import Address
from agent.inspect.addresses import base_of_hivel, base_of_jenkins, named_by_address, placeholder_in
from agent.inspect.findings import CONFIGURATION, HIVEL, Finding, Level, subject_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config.proxies import Proxies
    from agent.config.rules import Pattern
    from agent.config.settings import Settings

# Special characters of shell, Ant or Git globs and of regular expressions, which are literal in these patterns.
_OTHER_DIALECTS = re.compile(r"\{[^{}]*,[^{}]*\}|\[[^\]]+\]|[!@+?*]\([^)]*\)|^\^|\$$|\\|\|")
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - only compared, not listened on


def suspicious(settings: Settings) -> Iterator[Finding]:
    """The warnings, each with what to write instead."""
    yield from _addresses(settings)
    yield from _placeholders(settings)
    for place, pattern in patterns(settings):
        if (problem := other_dialect(pattern)) is not None:
            yield Finding(Level.WARNING, "rules", f"{place}: {problem}")
    yield from _ports(settings)


def patterns(settings: Settings) -> Iterator[tuple[str, Pattern]]:
    """All patterns of the configuration, each with its place, for people."""
    for number, rule in enumerate(settings.rules, 1):
        for key, pattern in (("job", rule.job), ("repository", rule.repository), ("stage", rule.stage)):
            if pattern is not None:
                yield f"[[deployment]] number {number}, {key}", pattern
    for pattern in settings.options.libraries:
        yield "[repositories] libraries", pattern
    for team, allowed in (settings.intake.teams if settings.intake is not None else {}).items():
        for key, several in (("jobs", allowed.jobs), ("environments", allowed.environments)):
            for pattern in several or ():
                yield f"[intake.teams] {team}, {key}", pattern


def other_dialect(pattern: Pattern) -> str | None:
    """The problem of a glob with special characters of another pattern language, or None."""
    if pattern.text.startswith("re:"):
        return None
    found = _OTHER_DIALECTS.search(pattern.text)
    if found is None:
        return None
    return (
        f'"{pattern.text}": {found[0]} has no special meaning in a pattern, only *, ** and ? have; use a regular '
        f'expression, for example "{_as_expression(pattern.text)}"'
    )


def _as_expression(text: str) -> str:
    """The regular expression that a glob of another dialect probably means."""
    if text.startswith("^") or text.endswith("$"):
        return f"re:{text}"
    words = {"**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(?:", ",": "|", "}": ")", ".": r"\."}
    parts = re.split(r"(\[[^\]]*\]|\*\*|[*?{},.])", text)
    return "re:^" + "".join(words.get(part, part) for part in parts) + "$"


def _addresses(settings: Settings) -> Iterator[Finding]:
    if (base := base_of_hivel(settings.hivel.url)) is not None:
        words = f'[hivel] url is an endpoint, {settings.hivel.url}; write the base address: url = "{base}"'
        yield Finding(Level.WARNING, HIVEL, words)
    for controller in settings.controllers:
        subject = subject_of(controller)
        if (base := base_of_jenkins(controller.url)) is not None:
            words = f'[[jenkins]] url is a page of Jenkins, {controller.url}; write the base address: url = "{base}"'
            yield Finding(Level.WARNING, subject, words)
        if named_by_address(controller):
            words = (
                f"its name is {controller.name}, taken from the address. The name is part of every deployment_id, and "
                f'changes with the address; set [[jenkins]] name (if events were already sent, name = "'
                f'{controller.name}" keeps their ids)'
            )
            yield Finding(Level.WARNING, subject, words)


def _placeholders(settings: Settings) -> Iterator[Finding]:
    """Placeholders of the documentation that are still in the configuration."""
    texts = [("[hivel] url", settings.hivel.url), ("[http] contact", settings.hivel.user_agent)]
    texts += [(f"[[jenkins]] url of {controller.name}", controller.url) for controller in settings.controllers]
    texts += [
        (f"[[deployment]] number {number}, {key}", template.text)
        for number, rule in enumerate(settings.rules, 1)
        for key, template in (("repo_url", rule.repo_url), ("image", rule.image), ("repository", rule.repository))
        if template is not None
    ]
    for place, text in texts:
        if (name := placeholder_in(text)) is not None:
            words = f"{place} contains {name}, a placeholder of the documentation; replace it"
            yield Finding(Level.WARNING, CONFIGURATION, words)


def _ports(settings: Settings) -> Iterator[Finding]:
    listeners = {
        "monitoring": settings.monitoring,
        "intake": None if settings.intake is None else settings.intake.address,
        "web": None if settings.web is None else settings.web.address,
        "webhooks": None if settings.webhooks is None else settings.webhooks.address,
    }
    given = [(name, address) for name, address in listeners.items() if isinstance(address, Address)]
    for (first, one), (second, other) in combinations(given, 2):
        if _same_port(one, other):
            words = (
                f"[{first}] listen and [{second}] listen are the same address, {other}: only one of them can use it; "
                "change the port of one of them"
            )
            yield Finding(Level.WARNING, second, words)


def _same_port(one: Address, other: Address) -> bool:
    if one.port != other.port or one.port == 0:
        return False
    same_host = one.host == other.host or (one.is_loopback and other.is_loopback)
    return same_host or one.host in _EVERYWHERE or other.host in _EVERYWHERE


def unusable_proxies(proxies: Proxies) -> Iterator[Finding]:
    """Warnings about entries of ``NO_PROXY`` that have no meaning."""
    for text in proxies.unusable:
        words = f"{text}; write names and networks like example.com, 10.0.0.0/8 or fd00::/8"
        yield Finding(Level.WARNING, "proxy", words)
