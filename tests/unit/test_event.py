"""The payload of Hivel's Deployment Events API v2: its fields, their types, and what is left out."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest

from agent.model.event import DeploymentEvent, InvalidEventError, completed, decode, encode, wire
from agent.model.ids import build_deployment_id, limited_id, part_deployment_id, reused_number_id
from agent.model.status import Status

# The example of Hivel's page, section 9, as it stands there.
PAGE_EXAMPLE = {
    "deployment_id": "deploy-20250922-1200",
    "event_type": "completed",
    "status": "success",
    "repo_url": "https://github.com/hivelai/webhook-logger",
    "commit_hash": "abc123def456789012345678901234567890abcd",
    "environment": "production",
    "start_time": "2025-09-22T12:00:00Z",
    "end_time": "2025-09-22T12:15:30Z",
    "branch": "main",
    "build_number": "12345",
    "pr_number": "71",
    "pr_numbers": [71, 35, 23],
    "image": "company/api-service:v1.2.3",
    "logs_url": "https://logs.example.com/deploy/20250922-1200",
}
START, END = 1758542400000, 1758543330000  # 2025-09-22T12:00:00Z and T12:15:30Z


def event(**changes: Any) -> DeploymentEvent:
    return completed(
        **{
            "deployment_id": "main:deploy/shop#12",
            "status": Status.SUCCESS,
            "started_at": START,
            "ended_at": END,
            "repo_url": "https://github.com/acme/shop.git",
            "environment": "production",
            "branch": "main",
            **changes,
        }
    )


def test_the_example_of_the_page_is_an_event_field_by_field_and_in_its_order() -> None:
    text = json.dumps(PAGE_EXAMPLE)
    assert list(json.loads(encode(decode(text))).items()) == list(PAGE_EXAMPLE.items())


def test_an_event_with_everything_known() -> None:
    made = event(
        commit_hash="abc123", build_number="12", image="acme/shop:2", logs_url="https://ci.example/job/shop/12/"
    )
    assert json.loads(encode(made)) == {
        "deployment_id": "main:deploy/shop#12",
        "event_type": "completed",
        "status": "success",
        "repo_url": "https://github.com/acme/shop.git",
        "commit_hash": "abc123",
        "environment": "production",
        "start_time": "2025-09-22T12:00:00.000Z",
        "end_time": "2025-09-22T12:15:30.000Z",
        "branch": "main",
        "build_number": "12",
        "image": "acme/shop:2",
        "logs_url": "https://ci.example/job/shop/12/",
    }


@pytest.mark.parametrize("nothing", [None, ""])
@pytest.mark.parametrize("field", ["commit_hash", "build_number", "image", "logs_url"])
def test_an_optional_field_that_is_not_known_is_left_out(field: str, nothing: str | None) -> None:
    payload = json.loads(encode(event(**{field: nothing})))
    assert set(payload) == {
        *("deployment_id", "event_type", "status", "repo_url", "environment", "start_time", "end_time", "branch")
    }


@pytest.mark.parametrize("nothing", [None, ""])
@pytest.mark.parametrize("field", ["repo_url", "environment", "branch"])
def test_a_required_field_that_is_missing_is_named(field: str, nothing: str | None) -> None:
    with pytest.raises(InvalidEventError, match=f"^no {field}$"):
        event(**{field: nothing})


def test_all_missing_fields_are_named_at_once() -> None:
    with pytest.raises(InvalidEventError, match=r"^no repo_url, no branch$"):
        event(repo_url=None, branch="")


def test_a_start_after_the_end_is_mended_because_hivel_refuses_it() -> None:
    made = event(started_at=START, ended_at=START - 1)
    assert (made.start_time, made.end_time) == ("2025-09-22T12:00:00.000Z", "2025-09-22T12:00:00.000Z")


@pytest.mark.parametrize(("started_at", "ended_at"), [(10**18, 10**18), (START, 10**18), (-(10**18), END)])
def test_absurd_times_are_an_invalid_event(started_at: int, ended_at: int) -> None:
    with pytest.raises(InvalidEventError, match="times outside the years 1 to 9999: "):
        event(started_at=started_at, ended_at=ended_at)


def test_an_event_reads_back_as_it_was_written() -> None:
    made = event(commit_hash="abc", image="größe:1")
    assert decode(encode(made)) == made


@pytest.mark.parametrize("change", [{"event_type": "started"}, {"status": "great"}, {"branch": None}, {"pr_number": 7}])
def test_a_payload_that_is_no_event_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(json.dumps(PAGE_EXAMPLE | change))


def test_the_stored_payload_is_sent_byte_for_byte() -> None:
    stored = encode(event(status=Status.CANCELED, branch="größe")).decode()
    assert wire(stored, "canceled") == stored.encode()


def test_the_other_spelling_of_canceled_is_applied_when_sending() -> None:
    stored = encode(event(status=Status.CANCELED)).decode()
    sent = json.loads(wire(stored, "cancelled"))
    assert sent == json.loads(stored) | {"status": "cancelled"}
    assert list(sent) == list(json.loads(stored))


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.FAILED, Status.UNKNOWN])
def test_the_spelling_touches_nothing_but_the_status(status: Status) -> None:
    stored = encode(event(status=status, environment="canceled", branch='"canceled"')).decode()
    assert wire(stored, "cancelled") == stored.encode()


def test_the_id_of_a_build_names_controller_job_and_number() -> None:
    assert build_deployment_id("main", "deploy/shop", 12) == "main:deploy/shop#12"


def test_the_id_of_a_number_used_again_differs_by_the_moment_of_the_build() -> None:
    first, second = (reused_number_id("main:deploy/shop#1", at) for at in (START, END))
    assert (first, second) == (f"main:deploy/shop#1@{START}", f"main:deploy/shop#1@{END}")


def test_the_id_of_a_part_names_the_environment_and_the_repository() -> None:
    assert part_deployment_id("main:shop#7", "qa", "acme/shop") == "main:shop#7:qa:acme/shop"


@pytest.mark.parametrize("length", [1, 254, 255])
def test_an_id_that_is_short_enough_stays(length: int) -> None:
    assert limited_id("x" * length) == "x" * length


def test_an_id_that_is_too_long_is_cut_and_keeps_apart_from_others() -> None:
    first, second = limited_id("x" * 256), limited_id("x" * 255 + "y")
    assert first == "x" * 238 + "~" + hashlib.sha256(b"x" * 256).hexdigest()[:16]
    assert len(first) == len(second) == 255
    assert first != second
    assert limited_id(first) == first
    assert build_deployment_id("main", "x" * 300, 1) != build_deployment_id("main", "x" * 300, 2)


def test_pull_requests_are_in_the_event_and_at_most_fifty() -> None:
    made = event(pr_number="71", pr_numbers=[71, 35])
    assert (made.pr_number, made.pr_numbers) == ("71", (71, 35))
    assert event(pr_numbers=range(1, 100)).pr_numbers == tuple(range(1, 51))
    assert event(pr_numbers=[]).pr_numbers is None


@pytest.mark.parametrize("field", ["repo_url", "environment", "branch"])
def test_a_required_field_that_is_too_long_is_named(field: str) -> None:
    assert getattr(event(**{field: "x" * 255}), field) == "x" * 255
    with pytest.raises(InvalidEventError, match=f"^{field} is 256 characters long, more than 255$"):
        event(**{field: "x" * 256})


@pytest.mark.parametrize("field", ["commit_hash", "image", "logs_url"])
def test_an_optional_field_that_is_too_long_is_left_out(field: str) -> None:
    assert getattr(event(**{field: "x" * 256}), field) is None
    assert getattr(event(**{field: "x" * 255}), field) == "x" * 255
