"""The status that Hivel assigns to each CI provider's result.

The tables are from Hivel's page, section 6. Hivel translates such words itself. The agent translates them too, so that
what it sends and what Hivel shows cannot differ.
"""

from __future__ import annotations

import enum


class Status(enum.StrEnum):
    """The four statuses of Hivel (Hivel's page, section 6)."""

    SUCCESS = "success"
    FAILED = "failed"
    # Section 6 writes "canceled", section 4 "cancelled". Both are read, "canceled" is written.
    CANCELED = "canceled"
    UNKNOWN = "unknown"


class Provider(enum.StrEnum):
    """The providers with a table on Hivel's page, and OTHER."""

    JENKINS = "jenkins"
    GITHUB_ACTIONS = "github_actions"
    GITLAB_CI = "gitlab_ci"
    CIRCLECI = "circleci"
    ARGO_WORKFLOWS = "argo_workflows"
    AZURE_DEVOPS = "azure_devops"
    ARGOCD = "argocd"
    OTHER = "other"


_CANCELED = {"canceled": Status.CANCELED, "cancelled": Status.CANCELED}

# Keys are lower case. Words for "unknown" are listed too, so that the tables can be compared with the page.
WORDS: dict[Provider, dict[str, Status]] = {
    Provider.JENKINS: {
        "success": Status.SUCCESS,
        "failure": Status.FAILED,
        "unstable": Status.FAILED,
        "aborted": Status.CANCELED,
        "not_built": Status.UNKNOWN,
    },
    Provider.GITHUB_ACTIONS: {
        "success": Status.SUCCESS,
        "failure": Status.FAILED,
        "timed_out": Status.FAILED,
        **_CANCELED,
        "neutral": Status.UNKNOWN,
        "skipped": Status.UNKNOWN,
        "stale": Status.UNKNOWN,
        "action_required": Status.UNKNOWN,
        "in_progress": Status.UNKNOWN,
    },
    Provider.GITLAB_CI: {
        "success": Status.SUCCESS,
        "failed": Status.FAILED,
        **_CANCELED,
        "manual": Status.UNKNOWN,
        "skipped": Status.UNKNOWN,
        "pending": Status.UNKNOWN,
        "running": Status.UNKNOWN,
    },
    Provider.CIRCLECI: {
        "success": Status.SUCCESS,
        "failed": Status.FAILED,
        "timedout": Status.FAILED,
        "infrastructure_fail": Status.FAILED,
        **_CANCELED,
        "not_run": Status.UNKNOWN,
        "on_hold": Status.UNKNOWN,
        "queued": Status.UNKNOWN,
        "running": Status.UNKNOWN,
    },
    Provider.ARGO_WORKFLOWS: {
        "succeeded": Status.SUCCESS,
        "failed": Status.FAILED,
        "error": Status.FAILED,
        "skipped": Status.UNKNOWN,
        "omitted": Status.UNKNOWN,
        "pending": Status.UNKNOWN,
        "running": Status.UNKNOWN,
    },
    Provider.AZURE_DEVOPS: {
        "succeeded": Status.SUCCESS,
        "failed": Status.FAILED,
        **_CANCELED,
        "partiallysucceeded": Status.UNKNOWN,
        "succeededwithissues": Status.UNKNOWN,
    },
    # Words that decide on their own. "Succeeded" does not: see normalise_argocd.
    Provider.ARGOCD: {
        "failed": Status.FAILED,
        "error": Status.FAILED,
        "degraded": Status.FAILED,
        "running": Status.UNKNOWN,
        "progressing": Status.UNKNOWN,
        "missing": Status.UNKNOWN,
        "suspended": Status.UNKNOWN,
    },
    Provider.OTHER: {},
}

# Words of these systems that Hivel's page does not list: accepted, with the status UNKNOWN.
_UNLISTED: dict[Provider, tuple[str, ...]] = {
    Provider.GITHUB_ACTIONS: ("startup_failure", "queued", "requested", "waiting", "pending", "completed"),
    Provider.GITLAB_CI: (
        "created", "waiting_for_resource", "waiting_for_callback", "preparing", "scheduled", "canceling",
    ),
    Provider.CIRCLECI: ("error", "failing", "unauthorized", "blocked", "not_running", "no_tests", "retried", "fixed"),
    Provider.AZURE_DEVOPS: ("skipped", "abandoned", "none"),
    Provider.ARGOCD: ("succeeded", "terminating", "healthy", "unknown"),
}  # fmt: skip

# No word has two meanings in these tables (a test checks that), so the order of merging does not matter.
_STANDARD: dict[str, Status] = {**{status.value: status for status in Status}, **_CANCELED}
_ANY: dict[str, Status] = {
    **{word: status for table in WORDS.values() for word, status in table.items()},
    **_STANDARD,
}


def normalise(provider: Provider, raw: str | None) -> Status:
    """Return the status of ``provider``'s word ``raw``; UNKNOWN for ``None`` and for unlisted words.

    Ignores case (Jenkins writes ``SUCCESS``, Argo ``Succeeded``). Where a provider has "canceled", "cancelled" is
    accepted too. :attr:`Provider.OTHER` has no words: everything is UNKNOWN.

    Argo CD has two words, a phase and a health. A single one is accepted here: ``Failed``, ``Error`` and ``Degraded``
    are FAILED, but ``Succeeded`` without a health and ``Healthy`` without a phase are UNKNOWN, because only both
    together mean success.
    """
    return WORDS[provider].get((raw or "").lower(), Status.UNKNOWN)


def normalise_argocd(phase: str | None, health: str | None) -> Status:
    """Return the status of Argo CD's ``operationState.phase`` and ``health.status`` together.

    A failed phase or a degraded health is FAILED, whatever the other one is. ``Succeeded`` with ``Healthy`` is SUCCESS.
    Anything else, also if one is missing, is UNKNOWN.
    """
    if Status.FAILED in (normalise(Provider.ARGOCD, phase), normalise(Provider.ARGOCD, health)):
        return Status.FAILED
    both = ((phase or "").lower(), (health or "").lower())
    return Status.SUCCESS if both == ("succeeded", "healthy") else Status.UNKNOWN


def normalise_any(raw: str) -> Status:
    """Return the status that Hivel assigns if it does not know the provider. Never raises.

    Accepts the four standard words, both spellings of canceled, and every provider's words, ignoring case; anything
    else is UNKNOWN. ``Succeeded`` is SUCCESS, because Argo Workflows and Azure DevOps use it alone. For Argo CD use
    :func:`normalise_argocd`.
    """
    return _ANY.get(raw.lower(), Status.UNKNOWN)


def provider_called(word: str) -> Provider:
    """The provider with this name, ignoring case. Raises :class:`ValueError` with the list of providers."""
    try:
        return Provider(word.lower())
    except ValueError:
        raise ValueError(f"{word!r:.60} is not a known provider; use one of {', '.join(Provider)}") from None


def known_words(provider: Provider) -> tuple[str, ...]:
    """The words that a report may use for ``provider``, in lower case: its own, then Hivel's four.

    Empty for :attr:`Provider.OTHER`, which accepts any word.
    """
    if provider is Provider.OTHER:
        return ()
    return tuple(dict.fromkeys((*WORDS[provider], *_UNLISTED.get(provider, ()), *_STANDARD)))


def parse_word(provider: Provider, word: str) -> Status:
    """Return the status of a report's word: one of ``provider``'s or of Hivel's four, ignoring case.

    Raises :class:`ValueError`, with the list of words, for any other word, because it is more likely a typo than a
    result. For :attr:`Provider.OTHER` every provider's words are accepted, and anything else is UNKNOWN.
    """
    plain = word.strip().lower()
    if provider is Provider.OTHER:
        return normalise_any(plain)
    if plain not in known_words(provider):
        known = ", ".join(known_words(provider))
        raise ValueError(f"{word!r:.60} is not a status of {provider}; use one of {known}")
    return _STANDARD.get(plain) or normalise(provider, plain)
