"""What an answer of Hivel means."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.answers import Answer, Outcome, Verdict, classify
from agent.model.times import parse_retry_after

ID = "main:deploy/shop#12"
NOW = 1769817600000  # Sat, 31 Jan 2026 00:00:00 GMT
WEEK_S = 7 * 86_400
JSON = "application/json"
# Hivel's page, section 10.
STORED = {"message": "Deployment event stored successfully", "deployment_id": ID, "success": True}
INVALID = {"message": "Validation failed", "error": "Start time cannot be after end time"}
LOGIN_PAGE = "<!DOCTYPE html><html><head><title>Sign in</title></head></html>"


def classified(status: int | None, body: object = "", **more: object) -> Outcome:
    text = body if isinstance(body, str) else json.dumps(body)
    return classify(Answer(status, text, **more), ID, NOW)  # type: ignore[arg-type]


def said(outcome: Outcome) -> tuple[Verdict, str | None, int | None, bool]:
    """What was decided, without what it was made of."""
    return outcome.verdict, outcome.reason, outcome.retry_after_ms, outcome.already_there


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize("body", [STORED, {"success": True}, {"deployment_id": ID}], ids=["page", "success", "id"])
def test_a_2xx_with_hivels_json_is_delivered(status: int, body: dict[str, object]) -> None:
    assert said(classified(status, body, content_type=JSON)) == (Verdict.DELIVERED, None, None, False)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (409, ""),
        (409, INVALID),
        (409, LOGIN_PAGE),
        (400, {"message": "Deployment already exists"}),
        (400, {"message": "Validation failed", "error": "deployment_id already exists"}),
        (400, {"error": f"Deployment {ID} already exists.", "statusCode": 400}),
        (422, {"error": "deployment_id ALREADY EXISTS"}),
        (422, {"error": "Duplicate deployment_id"}),
        (422, {"message": "Unprocessable Entity", "error": f"Duplicate deployment_id: '{ID}'", "deployment_id": ID}),
    ],
)
def test_what_is_already_there_is_delivered(status: int, body: object) -> None:
    outcome = classified(status, body)
    assert outcome.verdict is Verdict.DELIVERED
    assert outcome.reason is not None
    assert outcome.reason.startswith(f"Hivel already had this deployment_id (HTTP {status}")
    assert outcome.already_there


@pytest.mark.parametrize(
    "body",
    [
        {"message": "Validation failed", "error": "must not already exist in another organization"},
        {"message": "deployment_id already exists", "error": "repo_url is not known in this organization"},
        {"error": "deployment_id already exists", "detail": "it belongs to another organization"},
        {"error": "deployment_id already exists in another organization"},
        {"error": "the environment already exists"},
        {"error": "deployment_id already exists", "deployment_id": "main:deploy/shop#13"},
        {"error": "Deployment main:deploy/shop#13 already exists"},
        {"error": f"Deployment {ID}1 already exists"},
        {"error": "duplicate entries in pr_numbers for this deployment_id"},
        {"error": ["deployment_id already exists"]},
        ["deployment_id already exists"],
        "Duplicate deployment_id",
        "deployment_id already exists",
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_what_only_looks_like_already_there_is_failed_with_hivels_words(status: int, body: object) -> None:
    """Else the event is at Hivel nowhere, and nobody hears of it."""
    outcome = classified(status, body)
    assert (outcome.verdict, outcome.already_there) == (Verdict.FAILED, False)
    assert (outcome.reason or "").startswith(f"HTTP {status}: ")


@given(st.text(), st.text(), st.sampled_from(["message", "error", "detail"]))
def test_words_around_already_exists_make_it_something_else(before: str, after: str, key: str) -> None:
    outcome = classified(400, {key: f"{before}deployment_id already exists{after}"})
    nothing_around = not re.sub(r"[\s.:'\"`]", "", before + after)
    assert outcome.already_there <= (nothing_around and key != "detail")


@pytest.mark.parametrize("status", [500, 403, 429, 413])
def test_already_exists_counts_with_400_and_422_only(status: int) -> None:
    assert classified(status, {"message": "already exists"}).verdict is not Verdict.DELIVERED


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 529, 599])
@pytest.mark.parametrize("body", ["", LOGIN_PAGE, json.dumps(INVALID)], ids=["empty", "page", "json"])
def test_an_outage_is_tried_again(status: int, body: str) -> None:
    outcome = classified(status, body, retry_after="120")
    assert (outcome.verdict, outcome.retry_after_ms) == (Verdict.RETRY, 120_000)


def test_no_answer_is_tried_again_with_what_happened_as_the_reason() -> None:
    assert said(classified(None, "connection refused")) == (Verdict.RETRY, "connection refused", None, False)


def test_an_untrusted_certificate_pauses() -> None:
    outcome = classified(None, "self-signed certificate", untrusted_certificate=True)
    assert outcome.verdict is Verdict.PAUSED
    assert outcome.reason is not None
    assert "self-signed certificate" in outcome.reason


@pytest.mark.parametrize("body", ["", "OK", "{}", "[]", "null", "true", '"ok"', '{"success":', '{"success": "true"}'])
@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_2xx_that_is_not_hivels_is_tried_again(status: int, body: str) -> None:
    assert classified(status, body).verdict is Verdict.RETRY


def test_a_2xx_for_another_event_is_tried_again() -> None:
    assert classified(200, {"deployment_id": "main:deploy/shop#11"}).verdict is Verdict.RETRY


def test_a_2xx_that_says_it_did_not_succeed_is_failed() -> None:
    outcome = classified(200, INVALID | {"success": False, "deployment_id": ID})
    reason = "HTTP 200: Validation failed: Start time cannot be after end time"
    assert said(outcome) == (Verdict.FAILED, reason, None, False)


@pytest.mark.parametrize("status", [400, 413, 414, 422, 431])
def test_a_wrong_event_is_failed_with_hivels_words(status: int) -> None:
    reason = f"HTTP {status}: Validation failed: Start time cannot be after end time"
    assert said(classified(status, INVALID)) == (Verdict.FAILED, reason, None, False)


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (301, "set [hivel] url"),
        (302, "set [hivel] url"),
        (307, "set [hivel] url"),
        (308, "set [hivel] url"),
        (401, "check [hivel] token_file"),
        (403, "check [hivel] token_file"),
        (404, "check [hivel] url"),
        (405, "check [hivel] url"),
        (407, "check HTTPS_PROXY"),
        (410, "check [hivel] url"),
        (418, "check [hivel] url and the token"),
    ],
)
def test_a_wrong_configuration_pauses_and_says_what_to_check(status: int, advice: str) -> None:
    outcome = classified(status, INVALID, location="https://login.example/")
    assert outcome.verdict is Verdict.PAUSED
    assert outcome.reason is not None
    assert outcome.reason.startswith(f"HTTP {status}: Validation failed")
    assert advice in outcome.reason


def test_a_redirect_says_where_to() -> None:
    assert "https://login.example/" in (classified(302, location="https://login.example/").reason or "")


@pytest.mark.parametrize(
    ("body", "content_type"), [(LOGIN_PAGE, ""), (f"\n {LOGIN_PAGE}", JSON), ("", "text/html; charset=utf-8")]
)
def test_a_web_page_with_200_pauses(body: str, content_type: str) -> None:
    outcome = classified(200, body, content_type=content_type)
    assert outcome.verdict is Verdict.PAUSED
    assert "web page" in (outcome.reason or "")


def test_a_reason_is_one_line_of_bearable_length() -> None:
    for body in ("word\n" * 5000, json.dumps({"message": "m" * 5000})):
        reason = classified(400, body).reason
        assert reason is not None
        assert len(reason) < 400
        assert "\n" not in reason


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("body", ["[" * 60_000, '{"message":' * 6_000], ids=["lists", "objects"])
def test_json_nested_beyond_all_depths_is_classified_all_the_same(status: int, body: str) -> None:
    expected = {200: Verdict.RETRY, 400: Verdict.FAILED, 500: Verdict.RETRY}
    assert classified(status, body).verdict is expected[status]


_BODIES = (
    st.text()
    | st.text(st.characters())  # lone surrogates too
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["success", "message", "error"]), inner),
    ).map(json.dumps)
)
_ANSWERS = st.builds(
    Answer,
    status=st.none() | st.integers(100, 599) | st.integers(),
    body=_BODIES,
    content_type=st.text(),
    retry_after=st.none() | st.text() | st.integers().map(str),
    location=st.none() | st.text(),
    untrusted_certificate=st.booleans(),
)


@given(_ANSWERS)
def test_every_answer_gets_a_verdict(answer: Answer) -> None:
    outcome = classify(answer, ID, NOW)
    assert isinstance(outcome.verdict, Verdict)
    assert outcome.retry_after_ms is None or outcome.retry_after_ms >= 0
    if answer.status is None or answer.status in (401, 403, 404, 429, 503):
        assert outcome.verdict in (Verdict.RETRY, Verdict.PAUSED)


def test_an_empty_answer_is_called_empty() -> None:
    assert classified(503, " \n").reason == "HTTP 503: (empty)"


# ---- Retry-After


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (None, None),
        ("0", 0),
        ("120", 120_000),
        (" 7 ", 7_000),
        (str(WEEK_S), WEEK_S * 1000),
        ("Sat, 31 Jan 2026 00:01:00 GMT", 60_000),
        ("Sat, 31 Jan 2026 00:01:00 -0000", 60_000),
        ("Sat, 31 Jan 2026 02:01:00 +0200", 60_000),
        ("Fri, 30 Jan 2026 23:00:00 GMT", 0),  # already over
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, ms: int | None) -> None:
    assert parse_retry_after(value, NOW) == ms


def test_a_date_without_a_zone_is_utc_wherever_the_agent_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        assert parse_retry_after("Sat, 31 Jan 2026 00:01:00", NOW) == 60_000
    time.tzset()


@pytest.mark.parametrize(
    "value", ["", "soon", "-5", "1.5", "1e3", "٣", "²", "Sat, 99 Jan 2026 00:00:00 GMT", "Sat, 31 Jan 99999 00:00:00"]
)
def test_nonsense_in_retry_after_is_ignored(value: str) -> None:
    assert parse_retry_after(value, NOW) is None


_DATE_WORDS = st.lists(
    st.sampled_from(
        ["Sat,", "31", "99", "Jan", "2026", "0", "00:01:00", "10:20", "GMT", "-9999", "+99999", ",", ":", "-"]
    )
).map(" ".join)


@given(st.text() | _DATE_WORDS | st.text("0123456789", min_size=10), st.integers(0, 2**62))
def test_retry_after_is_read_or_ignored_and_never_an_error(value: str, now_ms: int) -> None:
    ms = parse_retry_after(value, now_ms)
    assert ms is None or ms >= 0


def test_a_web_page_with_400_is_a_proxy_and_fails_no_event() -> None:
    page = Answer(400, "<html>The plain HTTP request was sent to HTTPS port</html>", "text/html")
    assert classify(page, "x", 0).verdict is Verdict.PAUSED


def test_a_duplicate_of_something_else_is_not_taken_for_a_delivery() -> None:
    assert classify(Answer(400, '{"error": "duplicate entries in pr_numbers"}'), "x", 0).verdict is Verdict.FAILED


def test_a_success_that_says_it_is_already_there_is_a_delivery() -> None:
    answer = Answer(200, '{"success": false, "message": "deployment_id already exists"}')
    outcome = classify(answer, "x", 0)
    assert (outcome.verdict, outcome.already_there) == (Verdict.DELIVERED, True)
    elsewhere = Answer(200, '{"success": false, "message": "must not already exist in another organization"}')
    assert classify(elsewhere, "x", 0).verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(Answer(503, "try later"), "http_503"), (Answer(None, timed_out=True), "timeout"), (Answer(None), "network")],
)
def test_an_outcome_knows_what_was_answered(answer: Answer, kind: str) -> None:
    outcome = classify(answer, "x", 0)
    assert (outcome.http_status, outcome.answer, outcome.kind) == (answer.status, answer.body, kind)
