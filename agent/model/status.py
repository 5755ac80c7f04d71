"""What a CI provider's word for a result means to Hivel.

The tables are those of Hivel's page, section 6. Hivel does this translation itself for whoever sends its
provider's words; the agent does it too, so that what it sent and what Hivel shows cannot differ.
"""

from __future__ import annotations

import enum


class Status(enum.StrEnum):
    """The four values every status ends up as (Hivel's page, section 6)."""

    SUCCESS = "success"
    FAILED = "failed"
    # Section 6 writes "canceled", section 4 "cancelled": both are read, the one of section 6 is written.
    CANCELED = "canceled"
    UNKNOWN = "unknown"


class Provider(enum.StrEnum):
    """The providers Hivel's page has a table for, and everybody else."""

    JENKINS = "jenkins"
    GITHUB_ACTIONS = "github_actions"
    GITLAB_CI = "gitlab_ci"
    CIRCLECI = "circleci"
    ARGO_WORKFLOWS = "argo_workflows"
    AZURE_DEVOPS = "azure_devops"
    ARGOCD = "argocd"
    OTHER = "other"


_CANCELED = {"canceled": Status.CANCELED, "cancelled": Status.CANCELED}

# Keys are lower case. Words that mean "unknown" are listed although they would be unknown anyway, so that the
# tables can be held against the page line by line.
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
    # The words that decide on their own. "Succeeded" is not one of them: see normalise_argocd.
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

# Words that these systems use as well and that Hivel's page does not list: known, and unknown in what they mean to it.
_UNLISTED: dict[Provider, tuple[str, ...]] = {
    Provider.GITHUB_ACTIONS: ("startup_failure", "queued", "requested", "waiting", "pending", "completed"),
    Provider.GITLAB_CI: (
        "created", "waiting_for_resource", "waiting_for_callback", "preparing", "scheduled", "canceling",
    ),
    Provider.CIRCLECI: ("error", "failing", "unauthorized", "blocked", "not_running", "no_tests", "retried", "fixed"),
    Provider.AZURE_DEVOPS: ("skipped", "abandoned", "none"),
    Provider.ARGOCD: ("succeeded", "terminating", "healthy", "unknown"),
}  # fmt: skip

# No word means two things in these tables (a test holds that), so their union needs no order.
_STANDARD: dict[str, Status] = {**{status.value: status for status in Status}, **_CANCELED}
_ANY: dict[str, Status] = {
    **{word: status for table in WORDS.values() for word, status in table.items()},
    **_STANDARD,
}


def normalise(provider: Provider, raw: str | None) -> Status:
    """Return what ``provider``'s word ``raw`` means; UNKNOWN for ``None`` and for a word not in its table.

    Case does not matter (Jenkins writes ``SUCCESS``, Argo ``Succeeded``), and where a provider has "canceled"
    the spelling "cancelled" is read too. :attr:`Provider.OTHER` has no words: everything is UNKNOWN.

    ArgoCD has two words, a phase and a health. One of them alone is accepted here and decides if it can:
    ``Failed``, ``Error`` and ``Degraded`` are FAILED, but ``Succeeded`` without a health and ``Healthy``
    without a phase are UNKNOWN, because only together do they mean success.
    """
    return WORDS[provider].get((raw or "").lower(), Status.UNKNOWN)


def normalise_argocd(phase: str | None, health: str | None) -> Status:
    """Return what ArgoCD's ``operationState.phase`` and ``health.status`` mean together.

    A failed phase or a degraded health is FAILED whatever the other one says; ``Succeeded`` together with
    ``Healthy`` is SUCCESS; all else, one of the two missing included, is UNKNOWN.
    """
    if Status.FAILED in (normalise(Provider.ARGOCD, phase), normalise(Provider.ARGOCD, health)):
        return Status.FAILED
    both = ((phase or "").lower(), (health or "").lower())
    return Status.SUCCESS if both == ("succeeded", "healthy") else Status.UNKNOWN


def normalise_any(raw: str) -> Status:
    """Return what Hivel makes of a status when it does not know the provider: total, never raises.

    Read are the four standard words, both spellings of canceled, and every provider's words, in any case; all
    else is UNKNOWN. ``Succeeded`` is SUCCESS: Argo Workflows and Azure DevOps say it alone, and ArgoCD, which
    does not, is asked with :func:`normalise_argocd`.
    """
    return _ANY.get(raw.lower(), Status.UNKNOWN)


def provider_called(word: str) -> Provider:
    """The provider of this name, in any case. Raises :class:`ValueError` with those that there are."""
    try:
        return Provider(word.lower())
    except ValueError:
        raise ValueError(f"{word!r:.60} is not known; there are {', '.join(Provider)}") from None


def known_words(provider: Provider) -> tuple[str, ...]:
    """The words that a report may use for ``provider``, in lower case: its own, then Hivel's own four.

    Empty for :attr:`Provider.OTHER`, of which any word may come.
    """
    if provider is Provider.OTHER:
        return ()
    return tuple(dict.fromkeys((*WORDS[provider], *_UNLISTED.get(provider, ()), *_STANDARD)))


def parse_word(provider: Provider, word: str) -> Status:
    """Return what the word of a report means: one of ``provider``'s, or one of Hivel's own four; in any case.

    Raises :class:`ValueError`, with the words that are known, for a word that neither knows: it is a slip rather
    than a result. For :attr:`Provider.OTHER` every provider's words are read and all else is UNKNOWN.
    """
    plain = word.strip().lower()
    if provider is Provider.OTHER:
        return normalise_any(plain)
    if plain not in known_words(provider):
        known = ", ".join(known_words(provider))
        raise ValueError(f"{word!r:.60} is no status of {provider}; known are {known}")
    return _STANDARD.get(plain) or normalise(provider, plain)
