from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.status import WORDS, Provider, Status, normalise, normalise_any, normalise_argocd

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
