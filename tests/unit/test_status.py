from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.status import (
    WORDS,
    Provider,
    Status,
    known_words,
    normalise,
    normalise_any,
    normalise_argocd,
    parse_word,
)

# Hivel's page, section 6, as it is written there.
PAGE = {
    Provider.JENKINS: {
        "success": ["SUCCESS"],
        "failed": ["FAILURE", "UNSTABLE"],
        "canceled": ["ABORTED"],
        "unknown": ["NOT_BUILT"],
    },
    Provider.GITHUB_ACTIONS: {
        "success": ["success"],
        "failed": ["failure", "timed_out"],
        "canceled": ["canceled"],
        "unknown": ["neutral", "skipped", "stale", "action_required", "in_progress"],
    },
    Provider.GITLAB_CI: {
        "success": ["success"],
        "failed": ["failed"],
        "canceled": ["canceled"],
        "unknown": ["manual", "skipped", "pending", "running"],
    },
    Provider.CIRCLECI: {
        "success": ["success"],
        "failed": ["failed", "timedout", "infrastructure_fail"],
        "canceled": ["canceled"],
        "unknown": ["not_run", "on_hold", "queued", "running"],
    },
    Provider.ARGO_WORKFLOWS: {
        "success": ["Succeeded"],
        "failed": ["Failed", "Error"],
        "unknown": ["Skipped", "Omitted", "Pending", "Running"],
    },
    Provider.AZURE_DEVOPS: {
        "success": ["succeeded"],
        "failed": ["failed"],
        "canceled": ["canceled"],
        "unknown": ["partiallySucceeded", "succeededWithIssues"],
    },
    Provider.ARGOCD: {
        "failed": ["Failed", "Error", "Degraded"],
        "unknown": ["Running", "Progressing", "Missing", "Suspended"],
    },
}
ROWS = [
    (provider, word, Status(status))
    for provider, statuses in PAGE.items()
    for status, words in statuses.items()
    for word in words
]


@pytest.mark.parametrize(("provider", "word", "status"), ROWS)
def test_every_row_of_the_page(provider: Provider, word: str, status: Status) -> None:
    assert normalise(provider, word) is status


@pytest.mark.parametrize(("provider", "word", "status"), ROWS)
def test_case_does_not_matter(provider: Provider, word: str, status: Status) -> None:
    assert normalise(provider, word.upper()) is normalise(provider, word.lower()) is status


@pytest.mark.parametrize(("provider", "word", "status"), ROWS)
def test_every_providers_word_is_read_without_knowing_the_provider(
    provider: Provider, word: str, status: Status
) -> None:
    assert normalise_any(word) is status


@pytest.mark.parametrize("provider", Provider)
@pytest.mark.parametrize("word", [None, "", " ", "deployed", "SUCCESS!"])
def test_a_word_not_in_the_table_is_unknown(provider: Provider, word: str | None) -> None:
    assert normalise(provider, word) is Status.UNKNOWN


@pytest.mark.parametrize("word", ["success", "failed", "canceled", "Succeeded"])
def test_any_other_provider_is_always_unknown(word: str) -> None:
    assert normalise(Provider.OTHER, word) is Status.UNKNOWN


@pytest.mark.parametrize("provider", [p for p, table in PAGE.items() if "canceled" in table.get("canceled", [])])
def test_a_provider_that_has_canceled_may_spell_it_cancelled(provider: Provider) -> None:
    assert normalise(provider, "cancelled") is Status.CANCELED


def test_a_word_of_another_provider_means_nothing() -> None:
    assert normalise(Provider.JENKINS, "succeeded") is Status.UNKNOWN


@pytest.mark.parametrize(
    ("phase", "health", "status"),
    [
        ("Succeeded", "Healthy", Status.SUCCESS),
        ("succeeded", "HEALTHY", Status.SUCCESS),
        ("Failed", "Healthy", Status.FAILED),
        ("Error", None, Status.FAILED),
        ("Succeeded", "Degraded", Status.FAILED),
        ("Running", "Degraded", Status.FAILED),
        (None, "Degraded", Status.FAILED),
        ("Running", "Healthy", Status.UNKNOWN),
        ("Succeeded", "Progressing", Status.UNKNOWN),
        ("Succeeded", "Missing", Status.UNKNOWN),
        ("Succeeded", "Suspended", Status.UNKNOWN),
        ("Succeeded", None, Status.UNKNOWN),
        (None, "Healthy", Status.UNKNOWN),
        (None, None, Status.UNKNOWN),
    ],
)
def test_argocd_needs_phase_and_health(phase: str | None, health: str | None, status: Status) -> None:
    assert normalise_argocd(phase, health) is status


@pytest.mark.parametrize("word", ["Succeeded", "Healthy"])
def test_one_word_of_argocd_alone_is_no_success(word: str) -> None:
    assert normalise(Provider.ARGOCD, word) is Status.UNKNOWN


@pytest.mark.parametrize("status", Status)
def test_the_standard_words_stay_what_they_are(status: Status) -> None:
    assert normalise_any(status.value) is status


@pytest.mark.parametrize("word", ["canceled", "cancelled", "CANCELLED"])
def test_both_spellings_of_canceled_are_read(word: str) -> None:
    assert normalise_any(word) is Status.CANCELED


def test_no_word_means_two_things() -> None:
    meanings: dict[str, set[Status]] = {}
    for table in WORDS.values():
        for word, status in table.items():
            meanings.setdefault(word, set()).add(status)
    assert [word for word, statuses in meanings.items() if len(statuses) > 1] == []


@given(st.text())
def test_normalise_any_has_an_answer_for_every_text(text: str) -> None:
    assert isinstance(normalise_any(text), Status)


@given(st.sampled_from(Provider), st.none() | st.text())
def test_normalise_has_an_answer_for_every_text(provider: Provider, text: str | None) -> None:
    assert isinstance(normalise(provider, text), Status)


# ---- the word of a report

NAMED = [provider for provider in Provider if provider is not Provider.OTHER]
# What these systems say themselves; Hivel's page lists only some of it.
VOCABULARIES = {
    # hudson.model.Result
    Provider.JENKINS: "SUCCESS UNSTABLE FAILURE NOT_BUILT ABORTED",
    # GitHub REST: conclusions and statuses of workflow runs
    Provider.GITHUB_ACTIONS: "success failure neutral cancelled skipped timed_out action_required stale "
    # and states of deployment statuses
    "startup_failure queued in_progress completed waiting requested pending error inactive",
    # GitLab documentation: statuses of jobs and deployments
    Provider.GITLAB_CI: "created waiting_for_resource preparing pending running success failed canceled canceling "
    "skipped manual scheduled blocked approved rejected",
    # CircleCI API v1.1 and v2: statuses of jobs and workflows
    Provider.CIRCLECI: "success failed error failing canceled unauthorized not_run on_hold blocked queued running "
    "not_running retried fixed timedout infrastructure_fail no_tests",
    # Argo Workflows: NodePhase
    Provider.ARGO_WORKFLOWS: "Pending Running Succeeded Skipped Failed Error Omitted",
    # Azure DevOps: Agent.JobStatus, BuildResult, TaskResult, EnvironmentStatus, buildStatus of build.complete
    Provider.AZURE_DEVOPS: "Succeeded SucceededWithIssues Failed Canceled partiallySucceeded none skipped abandoned "
    "rejected stopped",
    # Argo CD: OperationPhase and HealthStatusCode
    Provider.ARGOCD: "Running Terminating Failed Error Succeeded Unknown Progressing Healthy Suspended Degraded "
    "Missing",
    # Argo Rollouts: RolloutPhase
    Provider.ARGO_ROLLOUTS: "Healthy Degraded Progressing Paused",
}


@pytest.mark.parametrize(("provider", "word"), [(p, w) for p, words in VOCABULARIES.items() for w in words.split()])
def test_every_word_that_a_system_says_itself_is_taken_and_means_what_hivel_reads(
    provider: Provider, word: str
) -> None:
    for written in (word, word.upper(), word.lower(), f" {word}\n"):
        assert parse_word(provider, written) is normalise(provider, word)


@pytest.mark.parametrize(
    ("provider", "word", "status"),
    [
        (Provider.GITHUB_ACTIONS, "error", Status.FAILED),
        (Provider.GITHUB_ACTIONS, "inactive", Status.UNKNOWN),
        (Provider.GITLAB_CI, "blocked", Status.UNKNOWN),
        (Provider.GITLAB_CI, "approved", Status.UNKNOWN),
        (Provider.GITLAB_CI, "rejected", Status.UNKNOWN),
        (Provider.CIRCLECI, "error", Status.FAILED),
        (Provider.CIRCLECI, "unauthorized", Status.UNKNOWN),
        (Provider.AZURE_DEVOPS, "rejected", Status.FAILED),
        (Provider.AZURE_DEVOPS, "stopped", Status.CANCELED),
        (Provider.ARGO_ROLLOUTS, "Healthy", Status.SUCCESS),
        (Provider.ARGO_ROLLOUTS, "Degraded", Status.FAILED),
        (Provider.ARGO_ROLLOUTS, "Paused", Status.UNKNOWN),
    ],
)
def test_words_of_deployments_that_the_page_does_not_list(provider: Provider, word: str, status: Status) -> None:
    assert normalise(provider, word) is parse_word(provider, word) is status


@pytest.mark.parametrize("provider", Provider)
@pytest.mark.parametrize(
    ("word", "status"),
    [("success", Status.SUCCESS), ("Failed", Status.FAILED), ("canceled", Status.CANCELED),
     ("CANCELLED", Status.CANCELED), ("unknown", Status.UNKNOWN)],
)  # fmt: skip
def test_hivels_own_words_are_taken_of_every_system(provider: Provider, word: str, status: Status) -> None:
    assert parse_word(provider, word) is status


@pytest.mark.parametrize("provider", NAMED)
@pytest.mark.parametrize("word", ["sucess", "SUCCES", "faild", "null", "0", "", " ", "success!", "deployed"])
def test_a_slip_is_refused_with_the_words_that_are_known(provider: Provider, word: str) -> None:
    with pytest.raises(ValueError, match="use one of") as raised:
        parse_word(provider, word)
    assert repr(word) in str(raised.value)
    assert provider in str(raised.value)
    assert ", ".join(known_words(provider)) in str(raised.value)


def test_a_word_of_another_system_is_a_slip_too() -> None:
    with pytest.raises(
        ValueError, match=r"'succeeded' is not a status of jenkins; use one of success, failure, unstable, "
    ):
        parse_word(Provider.JENKINS, "succeeded")


def test_a_word_without_end_does_not_fill_the_answer() -> None:
    with pytest.raises(ValueError, match="use one of") as raised:
        parse_word(Provider.JENKINS, "x" * 100_000)
    assert len(str(raised.value)) < 300


@given(st.text())
def test_of_any_other_system_every_word_is_taken_and_what_nobody_says_is_unknown(word: str) -> None:
    assert parse_word(Provider.OTHER, word) is normalise_any(word.strip())
    assert parse_word(Provider.OTHER, f"{word}…") is Status.UNKNOWN


def test_of_any_other_system_the_words_of_all_are_read() -> None:
    assert known_words(Provider.OTHER) == ()
    assert parse_word(Provider.OTHER, "Succeeded") is Status.SUCCESS
    assert parse_word(Provider.OTHER, "sucess") is Status.UNKNOWN


@given(st.sampled_from(NAMED), st.text() | st.sampled_from(sorted(known_words(Provider.JENKINS))))
def test_a_word_is_taken_if_and_only_if_it_is_known(provider: Provider, word: str) -> None:
    known = word.strip().lower() in known_words(provider)
    try:
        parse_word(provider, word)
    except ValueError:
        assert not known
    else:
        assert known
