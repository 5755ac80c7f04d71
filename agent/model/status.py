"""The status that Hivel assigns to each CI provider's result.

The tables are from Hivel's page, section 6. Hivel translates such words itself. The agent translates them too, so that
what it sends and what Hivel shows cannot differ. Words that the page does not list have a table of their own.
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
    """The providers with a table on Hivel's page, Argo Rollouts, and OTHER."""

    JENKINS = "jenkins"
    GITHUB_ACTIONS = "github_actions"
    GITLAB_CI = "gitlab_ci"
    CIRCLECI = "circleci"
    ARGO_WORKFLOWS = "argo_workflows"
    AZURE_DEVOPS = "azure_devops"
    ARGOCD = "argocd"
    ARGO_ROLLOUTS = "argo_rollouts"
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
    Provider.ARGO_ROLLOUTS: {},
    Provider.OTHER: {},
}

# Words of these systems that Hivel's page does not list, mostly of deployments and stages, which webhooks report.
_UNLISTED: dict[Provider, dict[str, Status]] = {
    Provider.GITHUB_ACTIONS: {
        # https://docs.github.com/en/rest/deployments/statuses: `state` of a deployment status. `error`: the deployment
        # could not be made, or the tool that makes it failed. `inactive`: a later deployment replaced this one.
        "error": Status.FAILED,
        **dict.fromkeys(("inactive", "queued", "pending", "waiting"), Status.UNKNOWN),
        # https://docs.github.com/en/rest/actions/workflow-runs: `status` and `conclusion` of a workflow run
        **dict.fromkeys(("startup_failure", "requested", "completed"), Status.UNKNOWN),
    },
    Provider.GITLAB_CI: {
        # https://docs.gitlab.com/api/jobs/
        **dict.fromkeys(("waiting_for_resource", "waiting_for_callback", "preparing", "scheduled", "canceling"),
                        Status.UNKNOWN),
        # https://docs.gitlab.com/user/project/integrations/webhook_events/, deployment events: none of them is an end.
        **dict.fromkeys(("created", "blocked", "approved", "rejected"), Status.UNKNOWN),
    },
    Provider.CIRCLECI: {
        # https://circleci.com/docs/webhooks/, workflow-completed. `error`: the workflow broke, such as by an error in
        # its configuration. `unauthorized`: the person may not run it, so it did not run.
        "error": Status.FAILED,
        "unauthorized": Status.UNKNOWN,
        # https://circleci.com/docs/api/v2/: `status` of workflows and jobs
        **dict.fromkeys(("failing", "blocked", "not_running", "no_tests", "retried", "fixed"), Status.UNKNOWN),
    },
    Provider.AZURE_DEVOPS: {
        # https://learn.microsoft.com/en-us/rest/api/azure/devops/release/releases/get-release: EnvironmentStatus.
        # A stage of a classic release that failed is `rejected`, as is one that an approver refused.
        "rejected": Status.FAILED,
        # https://learn.microsoft.com/en-us/azure/devops/service-hooks/events, build.complete 1.0
        "stopped": Status.CANCELED,
        # Results of builds, stages and tasks
        **dict.fromkeys(("skipped", "abandoned", "none"), Status.UNKNOWN),
    },
    Provider.ARGOCD: dict.fromkeys(("succeeded", "terminating", "healthy", "unknown"), Status.UNKNOWN),
    Provider.ARGO_ROLLOUTS: {
        # https://argo-rollouts.readthedocs.io/en/stable/features/specification/: `status.phase` of a Rollout. One that
        # was aborted is `Degraded`.
        "healthy": Status.SUCCESS,
        "degraded": Status.FAILED,
        **dict.fromkeys(("progressing", "paused"), Status.UNKNOWN),
    },
}  # fmt: skip

# No word has two meanings in these tables (a test checks that), so the order of merging does not matter.
_STANDARD: dict[str, Status] = {**{status.value: status for status in Status}, **_CANCELED}
_ANY: dict[str, Status] = {
    **{word: status for table in WORDS.values() for word, status in table.items()},
    **_STANDARD,
}


def normalise(provider: Provider, raw: str | None) -> Status:
    """Return the status of ``provider``'s word ``raw``; UNKNOWN for ``None`` and for words in no table.

    Ignores case (Jenkins writes ``SUCCESS``, Argo ``Succeeded``). Where a provider has "canceled", "cancelled" is
    accepted too. :attr:`Provider.OTHER` has no words: everything is UNKNOWN.

    Argo CD has two words, a phase and a health. A single one is accepted here: ``Failed``, ``Error`` and ``Degraded``
    are FAILED, but ``Succeeded`` without a health and ``Healthy`` without a phase are UNKNOWN, because only both
    together mean success.
    """
    word = (raw or "").lower()
    return WORDS[provider].get(word) or _UNLISTED.get(provider, {}).get(word, Status.UNKNOWN)


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
    return tuple(dict.fromkeys((*WORDS[provider], *_UNLISTED.get(provider, {}), *_STANDARD)))


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
