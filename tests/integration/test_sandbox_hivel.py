"""The local Hivel, through a real socket."""

from __future__ import annotations

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from agent.model.status import Status
from agent.sandbox.hivel import ENDPOINT, MAX_BODY, Fault, LocalHivel
from agent.sandbox.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

TOKEN = "sandbox-token"
# Hivel's page, section 9.
EXAMPLE = """{
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
    "pr_numbers": [71,35,23],
    "image": "company/api-service:v1.2.3",
    "logs_url": "https://logs.example.com/deploy/20250922-1200"
  }"""
EVENT: dict[str, Any] = msgspec.json.decode(EXAMPLE)
REQUIRED = (
    "deployment_id", "event_type", "status", "start_time", "end_time", "repo_url", "environment", "branch",
)  # fmt: skip
OPTIONAL = ("commit_hash", "pr_number", "pr_numbers", "build_number", "image", "logs_url")


class Door:
    """One address for all tests, since a server takes longer to stop than a test: each puts its Hivel behind."""

    def __init__(self) -> None:
        self.server = LocalServer(self)
        self.hivel: LocalHivel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.hivel.app(scope, receive, send)


class Sandbox:
    """A served local Hivel with a client and a clock that only moves when told to."""

    def __init__(self, door: Door, *, db: Path | None = None, strict: bool = False) -> None:
        self.now = 1000.0
        self.hivel = LocalHivel(TOKEN, db=db, strict=strict, monotonic=lambda: self.now)
        door.hivel = self.hivel
        self.client = httpx.Client(base_url=door.server.url)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.hivel.close()

    def post(self, *, timeout: Any = 5, **fields: Any) -> httpx.Response:
        headers = {"X-API-Token": TOKEN}
        return self.client.post(ENDPOINT, json=EVENT | fields, headers=headers, timeout=timeout)

    def post_raw(self, body: str | bytes) -> httpx.Response:
        headers = {"X-API-Token": TOKEN, "Content-Type": "application/json"}
        return self.client.post(ENDPOINT, content=body, headers=headers)

    def post_without(self, field: str) -> httpx.Response:
        return self.post_raw(msgspec.json.encode({k: v for k, v in EVENT.items() if k != field}))

    def fault(self, **fields: Any) -> httpx.Response:
        return self.client.post("/_faults", json=fields)

    def stored(self) -> list[str]:
        return [deployment.event.deployment_id for deployment in self.hivel.deployments()]

    def answered(self) -> list[int | None]:
        return [request.status for request in self.hivel.requests()]


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    door = Door()
    with door.server:
        yield door


@pytest.fixture
def sandbox(door: Door) -> Iterator[Sandbox]:
    with Sandbox(door) as sandbox:
        yield sandbox


# --- The endpoint ---


def test_the_pages_example_gets_the_pages_answer(sandbox: Sandbox) -> None:
    response = sandbox.post_raw(EXAMPLE)
    assert response.status_code == 200
    assert response.json() == {
        "message": "Deployment event stored successfully",
        "deployment_id": "deploy-20250922-1200",
        "success": True,
    }


def test_the_pages_example_is_stored_field_by_field(sandbox: Sandbox) -> None:
    before = time.time_ns() // 1_000_000
    sandbox.post_raw(EXAMPLE)
    [stored] = sandbox.hivel.deployments()
    times = {"start_time": "2025-09-22T12:00:00.000Z", "end_time": "2025-09-22T12:15:30.000Z"}
    assert msgspec.to_builtins(stored.event) == EVENT | times | {"pr_numbers": (71, 35, 23)}
    assert stored.times_posted == 1
    assert before <= stored.received_at_ms <= time.time_ns() // 1_000_000


def test_optional_fields_may_be_left_out(sandbox: Sandbox) -> None:
    response = sandbox.post_raw(msgspec.json.encode({name: EVENT[name] for name in REQUIRED}))
    assert response.status_code == 200


def test_a_field_the_page_does_not_know_is_kept_in_the_raw_json_only(sandbox: Sandbox) -> None:
    assert sandbox.post(team="blue").status_code == 200
    [stored] = sandbox.hivel.deployments()
    assert msgspec.json.decode(stored.raw)["team"] == "blue"
    assert "team" not in msgspec.to_builtins(stored.event)


@pytest.mark.parametrize("headers", [{}, {"X-API-Token": ""}, {"X-API-Token": "wrong"}, {"X-API-Token": "é"}])
def test_a_missing_or_wrong_token_is_unauthorized(sandbox: Sandbox, headers: dict[str, str]) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    response = sandbox.client.post(ENDPOINT, json=EVENT, headers=encoded)
    assert response.status_code == 401
    assert response.json()["message"] == "Unauthorized"
    assert "X-API-Token" in response.json()["error"]
    assert sandbox.stored() == []


def test_an_empty_token_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="empty"):
        LocalHivel("")


@pytest.mark.parametrize("body", ["", "{", "not json", "[1]", '"text"', "null", b"\xff", "[" * 50_000])
def test_a_body_that_is_no_json_object_is_refused(sandbox: Sandbox, body: str | bytes) -> None:
    response = sandbox.post_raw(body)
    assert response.status_code == 400
    assert response.json()["message"] == "Validation failed"
    assert "JSON" in response.json()["error"]


def test_a_body_beyond_the_limit_is_refused(sandbox: Sandbox) -> None:
    filler = MAX_BODY - len(EXAMPLE)
    assert sandbox.post_raw(EXAMPLE + " " * filler).status_code == 200
    assert sandbox.post_raw(EXAMPLE + " " * (filler + 1)).status_code == 413
    assert sandbox.post_raw(EXAMPLE + " " * 5_000_000).status_code == 413


@pytest.mark.parametrize("field", REQUIRED)
def test_a_required_field_that_is_missing_is_named(sandbox: Sandbox, field: str) -> None:
    response = sandbox.post_without(field)
    assert response.status_code == 400
    assert response.json() == {"message": "Validation failed", "error": f"{field} is required"}


@pytest.mark.parametrize("value", [None, "", " ", True, [], {}])
@pytest.mark.parametrize("field", [*REQUIRED, *OPTIONAL])
def test_a_field_without_a_sensible_value_is_named(sandbox: Sandbox, field: str, value: object) -> None:
    response = sandbox.post(**{field: value})
    assert response.status_code == 400
    assert response.json()["error"].startswith(f"{field} must be ")
    assert sandbox.stored() == []


@pytest.mark.parametrize("field", ["deployment_id", "status", "branch", "commit_hash", "image", "logs_url"])
def test_a_number_is_no_text(sandbox: Sandbox, field: str) -> None:
    assert sandbox.post(**{field: 5}).status_code == 400


def test_only_completed_events_are_taken(sandbox: Sandbox) -> None:
    response = sandbox.post(event_type="started")
    assert response.status_code == 400
    assert response.json()["error"] == 'event_type must be "completed"'


@pytest.mark.parametrize("value", [["71"], [71, None], [True], [1.5], "71", 71])
def test_pr_numbers_must_be_integers(sandbox: Sandbox, value: object) -> None:
    response = sandbox.post(pr_numbers=value)
    assert response.status_code == 400
    assert response.json()["error"].startswith("pr_numbers ")


def test_integers_for_numbers_are_stored_as_the_strings_of_the_example(sandbox: Sandbox) -> None:
    assert sandbox.post(pr_number=71, build_number=12345).status_code == 200
    [stored] = sandbox.hivel.deployments()
    assert (stored.event.pr_number, stored.event.build_number) == ("71", "12345")


@pytest.mark.parametrize(
    ("sent", "status"),
    [("cancelled", Status.CANCELED), ("UNSTABLE", Status.FAILED), ("nonsense", Status.UNKNOWN)],
)
def test_a_status_is_normalised_and_never_refused(sandbox: Sandbox, sent: str, status: Status) -> None:
    assert sandbox.post(status=sent).status_code == 200
    assert sandbox.hivel.deployments()[0].event.status is status


# --- Times ---


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("2025-11-19T10:20:32Z", "2025-11-19T10:20:32.000Z"),
        ("2025-11-19T10:20:32.846Z", "2025-11-19T10:20:32.846Z"),
        ("2025-11-19T10:20:32.846999999Z", "2025-11-19T10:20:32.846Z"),
        ("2025-11-19t10:20:32z", "2025-11-19T10:20:32.000Z"),
        ("2025-11-19T15:50:32+05:30", "2025-11-19T10:20:32.000Z"),
        ("2025-11-19T02:20:32.5-08:00", "2025-11-19T10:20:32.500Z"),
        (1700385632, "2023-11-19T09:20:32.000Z"),
        ("1700385632", "2023-11-19T09:20:32.000Z"),
        (1700385632.846, "2023-11-19T09:20:32.846Z"),
        (1700385632846, "2023-11-19T09:20:32.846Z"),
        ("1700385632846", "2023-11-19T09:20:32.846Z"),
        (0, "1970-01-01T00:00:00.000Z"),
    ],
)
def test_every_time_format_of_the_page_is_read(sandbox: Sandbox, sent: object, stored: str) -> None:
    assert sandbox.post(start_time=sent, end_time=sent).status_code == 200
    event = sandbox.hivel.deployments()[0].event
    assert (event.start_time, event.end_time) == (stored, stored)


@pytest.mark.parametrize("field", ["start_time", "end_time"])
@pytest.mark.parametrize(
    "value",
    [
        "yesterday", "2025-11-19", "2025-11-19T10:20:32", "2025-13-19T10:20:32Z", "2025-11-19T10:20:61Z",
        "0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00", "20251119T102032Z", "1700385632.8", "-5",
        "12345678901234567", "１７００３８５６３２", -5, 10**30, 1e300,
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused_by_name(sandbox: Sandbox, field: str, value: object) -> None:
    response = sandbox.post(**{field: value})
    assert response.status_code == 400
    assert response.json()["error"].startswith(f"{field} must be ")


def test_a_start_after_the_end_gets_the_pages_error(sandbox: Sandbox) -> None:
    response = sandbox.post(start_time="2025-09-22T12:15:30.001Z")
    assert response.status_code == 400
    assert response.json() == {"message": "Validation failed", "error": "Start time cannot be after end time"}


def test_times_are_compared_across_formats_and_zones(sandbox: Sandbox) -> None:
    assert sandbox.post(start_time="2025-09-22T14:00:00+02:00", end_time=1758542400).status_code == 200
    assert sandbox.post(start_time="2025-09-22T14:00:00Z", end_time=1758542400).status_code == 400


# --- Uniqueness ---


def test_an_identical_event_is_a_success_and_stored_once(sandbox: Sandbox) -> None:
    first, second = sandbox.post(), sandbox.post()
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    [stored] = sandbox.hivel.deployments()
    assert stored.times_posted == 2


def test_an_event_is_identical_whatever_way_its_time_and_status_are_written(sandbox: Sandbox) -> None:
    sandbox.post()
    assert sandbox.post(status="SUCCESS", start_time=1758542400000).status_code == 200


def test_another_event_with_the_same_id_is_a_conflict_and_changes_nothing(sandbox: Sandbox) -> None:
    sandbox.post()
    response = sandbox.post(branch="other")
    assert response.status_code == 409
    assert response.json() == {
        "message": "Conflict",
        "error": "deployment_id already exists",
        "deployment_id": "deploy-20250922-1200",
    }
    [stored] = sandbox.hivel.deployments()
    assert (stored.event.branch, stored.times_posted) == ("main", 2)


def test_strict_refuses_an_identical_event_too(door: Door) -> None:
    with Sandbox(door, strict=True) as sandbox:
        assert [sandbox.post().status_code, sandbox.post().status_code] == [200, 409]


def test_events_at_a_path_survive_a_restart(door: Door, tmp_path: Path) -> None:
    db = tmp_path / "hivel.db"
    with Sandbox(door, db=db) as sandbox:
        sandbox.post(deployment_id="b", extra=1)
        sandbox.post(deployment_id="a")
        before = sandbox.hivel.deployments()
    with Sandbox(door, db=db) as sandbox:
        assert sandbox.stored() == ["b", "a"]
        assert sandbox.hivel.deployments() == before
        assert sandbox.post(deployment_id="a", branch="other").status_code == 409


def test_every_post_is_listed_in_order_of_arrival_also_a_refused_one(sandbox: Sandbox) -> None:
    sandbox.post(deployment_id="a")
    sandbox.post_raw("not json")
    sandbox.client.post(ENDPOINT, json=EVENT)
    sandbox.client.get(ENDPOINT)
    requests = sandbox.hivel.requests()
    seen = [(request.deployment_id, request.status) for request in requests]
    assert seen == [("a", 200), (None, 400), ("deploy-20250922-1200", 401)]
    assert requests[0].received_at_ms <= requests[2].received_at_ms


def test_a_post_that_breaks_off_is_listed_without_an_answer(door: Door, sandbox: Sandbox) -> None:
    head = f"POST {ENDPOINT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection((door.server.host, door.server.port)) as connection:
        connection.sendall(head.encode() + b'{"deployment_id": "half')
    until(lambda: sandbox.answered() == [None])
    assert sandbox.post().status_code == 200
    assert sandbox.answered() == [None, 200]


def test_posts_at_the_same_time_store_an_event_once(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: sandbox.post().status_code, range(24)))
    assert answers == [200] * 24
    [stored] = sandbox.hivel.deployments()
    assert stored.times_posted == 24


# --- The other paths ---


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_another_method_on_the_endpoint_is_not_allowed(sandbox: Sandbox, method: str) -> None:
    response = sandbox.client.request(method, ENDPOINT)
    assert response.status_code == 405
    assert response.headers["Allow"] == "POST"
    assert response.json()["message"] == "Method Not Allowed"


@pytest.mark.parametrize("path", ["/nothing", "/api/hooks/v1/deployment", ENDPOINT + "/"])
def test_another_path_is_not_found(sandbox: Sandbox, path: str) -> None:
    response = sandbox.client.post(path, json=EVENT)
    assert response.status_code == 404
    assert response.json()["message"] == "Not Found"


def test_healthz_is_ok(sandbox: Sandbox) -> None:
    assert sandbox.client.get("/healthz").json() == {"status": "ok"}


def test_the_list_has_normalised_events_oldest_first(sandbox: Sandbox) -> None:
    sandbox.post(deployment_id="first", status="ABORTED", start_time=1758542400)
    sandbox.post(deployment_id="second")
    sandbox.post(deployment_id="second")
    first, second = sandbox.client.get("/api/deployments").json()
    assert (first["deployment_id"], first["status"]) == ("first", "canceled")
    assert first["start_time"] == "2025-09-22T12:00:00.000Z"
    assert first["received_at"].endswith("Z")
    assert (second["deployment_id"], second["times_posted"]) == ("second", 2)


def test_the_page_escapes_what_events_bring(sandbox: Sandbox) -> None:
    evil = "<script>alert(1)</script>"
    names = ("deployment_id", "repo_url", "environment", "branch", "commit_hash")
    sandbox.post(**dict.fromkeys(names, evil), logs_url='https://x/"><script>')
    page = sandbox.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text


def test_the_page_links_to_logs_over_http_only(sandbox: Sandbox) -> None:
    sandbox.post(deployment_id="good")
    sandbox.post(deployment_id="bad", logs_url="javascript:alert(1)")
    page = sandbox.client.get("/").text
    assert f'<a href="{EVENT["logs_url"]}"' in page
    assert "javascript:" not in page


def test_the_page_shows_the_newest_first_and_refreshes_itself(sandbox: Sandbox) -> None:
    sandbox.post(deployment_id="older")
    sandbox.post(deployment_id="newer", status="failed")
    page = sandbox.client.get("/").text
    assert page.index("newer") < page.index("older")
    assert '<meta http-equiv="refresh" content="2">' in page
    assert '<span class="status failed">failed</span>' in page
    assert "15m 30s" in page


# --- Misbehaviour ---


def test_a_status_fault_answers_as_told(sandbox: Sandbox) -> None:
    sandbox.fault(kind="status", status=503, retry_after=7, body="down for maintenance")
    response = sandbox.post()
    assert (response.status_code, response.text) == (503, "down for maintenance")
    assert response.headers["Retry-After"] == "7"
    assert sandbox.stored() == []


def test_retry_after_and_an_object_as_body_are_sent_as_given(sandbox: Sandbox) -> None:
    when = "Wed, 21 Oct 2026 07:28:00 GMT"
    sandbox.fault(kind="status", status=429, retry_after=when, body={"message": "slow down"})
    response = sandbox.post()
    assert response.headers["Retry-After"] == when
    assert response.json() == {"message": "slow down"}


@pytest.mark.parametrize("status", [204, 500, 599])
def test_a_status_fault_needs_no_body(sandbox: Sandbox, status: int) -> None:
    sandbox.fault(kind="status", status=status)
    assert sandbox.post().status_code == status


def test_a_fault_comes_before_the_token_check(sandbox: Sandbox) -> None:
    sandbox.fault(kind="status", status=502)
    assert sandbox.client.post(ENDPOINT, json=EVENT).status_code == 502


def test_a_fault_spares_the_other_paths(sandbox: Sandbox) -> None:
    sandbox.fault(kind="reset")
    assert sandbox.client.get("/healthz").status_code == 200
    assert sandbox.client.get("/api/deployments").status_code == 200


def test_a_slow_fault_handles_the_event_even_when_the_client_gave_up(sandbox: Sandbox) -> None:
    sandbox.fault(kind="slow", delay=0.2, times=1)
    with pytest.raises(httpx.ReadTimeout):
        sandbox.post(timeout=0.05)
    assert sandbox.answered() == [None]
    until(lambda: sandbox.stored() == ["deploy-20250922-1200"])


def test_a_slow_fault_answers_in_the_end(sandbox: Sandbox) -> None:
    sandbox.fault(kind="slow", delay=0.01)
    assert sandbox.post().status_code == 200


@pytest.mark.parametrize(("status", "answered"), [(None, 200), (403, 403)])
def test_an_html_fault_shows_a_login_page(sandbox: Sandbox, status: int | None, answered: int) -> None:
    sandbox.fault(kind="html", **({"status": status} if status else {}))
    response = sandbox.post()
    assert response.status_code == answered
    assert response.headers["content-type"].startswith("text/html")
    assert "password" in response.text
    assert sandbox.stored() == []


def test_a_redirect_fault_leads_elsewhere(sandbox: Sandbox) -> None:
    sandbox.fault(kind="redirect", location="https://login.example.com/?a=b")
    response = sandbox.post()
    assert (response.status_code, response.headers["Location"]) == (302, "https://login.example.com/?a=b")


@pytest.mark.parametrize(("fields", "stored"), [({}, True), ({"stored": False}, False)])
def test_a_cut_fault_breaks_off_in_the_middle_of_the_answer(
    sandbox: Sandbox, fields: dict[str, Any], stored: bool
) -> None:
    sandbox.fault(kind="cut", **fields)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
        sandbox.post()
    assert bool(sandbox.stored()) is stored
    assert sandbox.answered() == [200]


@pytest.mark.parametrize(("fields", "stored"), [({}, False), ({"stored": True}, True)])
def test_a_reset_fault_leaves_open_whether_the_event_was_stored(
    sandbox: Sandbox, fields: dict[str, Any], stored: bool
) -> None:
    sandbox.fault(kind="reset", **fields)
    with pytest.raises(httpx.ReadError):
        sandbox.post()
    assert bool(sandbox.stored()) is stored
    assert sandbox.answered() == [None]


@pytest.mark.parametrize(("fields", "stored"), [({}, False), ({"stored": True}, True)])
def test_a_silent_fault_lets_the_client_give_up(sandbox: Sandbox, fields: dict[str, Any], stored: bool) -> None:
    sandbox.fault(kind="silent", **fields)
    with pytest.raises(httpx.ReadTimeout):
        sandbox.post(timeout=0.1)
    assert bool(sandbox.stored()) is stored
    assert sandbox.answered() == [None]


def test_a_silent_fault_closes_the_connection_after_its_delay(sandbox: Sandbox) -> None:
    sandbox.fault(kind="silent", delay=0.05)
    with pytest.raises(httpx.RemoteProtocolError):
        sandbox.post()


def test_clearing_lets_go_of_requests_kept_waiting(sandbox: Sandbox) -> None:
    sandbox.fault(kind="silent", times=1)
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(sandbox.post)
        until(lambda: sandbox.client.get("/_faults").json() == [])
        sandbox.hivel.clear_faults()
        with pytest.raises(httpx.RemoteProtocolError):
            pending.result()
    assert sandbox.post().status_code == 200


def test_any_fault_can_store_the_event_unseen(sandbox: Sandbox) -> None:
    sandbox.fault(kind="status", status=504, stored=True)
    assert sandbox.post().status_code == 504
    assert sandbox.stored() == ["deploy-20250922-1200"]


def test_a_stored_fault_still_wants_the_token(sandbox: Sandbox) -> None:
    sandbox.fault(kind="reset", stored=True)
    with pytest.raises(httpx.ReadError):
        sandbox.client.post(ENDPOINT, json=EVENT)
    assert sandbox.stored() == []


def test_a_fault_ends_after_its_number_of_requests(sandbox: Sandbox) -> None:
    sandbox.fault(kind="status", status=500, times=2)
    assert [sandbox.post().status_code for _ in range(3)] == [500, 500, 200]


def test_a_fault_ends_after_its_seconds(sandbox: Sandbox) -> None:
    sandbox.fault(kind="status", status=500, seconds=30)
    assert sandbox.post().status_code == 500
    sandbox.now += 29.9
    assert sandbox.post().status_code == 500
    sandbox.now += 0.1
    assert sandbox.post().status_code == 200


def test_a_fault_without_an_end_stays_until_it_is_cleared(sandbox: Sandbox) -> None:
    sandbox.hivel.fault(Fault(kind="status", status=500))
    sandbox.now += 1_000_000
    assert [sandbox.post().status_code for _ in range(3)] == [500, 500, 500]
    sandbox.hivel.clear_faults()
    assert sandbox.post().status_code == 200


def test_a_fault_with_match_poisons_only_matching_events(sandbox: Sandbox) -> None:
    sandbox.fault(kind="status", status=500, match="shop#13")
    assert sandbox.post(deployment_id="main:shop#12").status_code == 200
    assert sandbox.post(deployment_id="main:shop#13").status_code == 500
    assert sandbox.post_raw("not json").status_code == 400


def test_the_first_fault_that_matches_is_used(sandbox: Sandbox) -> None:
    sandbox.fault(kind="status", status=501, match="other")
    sandbox.fault(kind="status", status=502, times=1)
    sandbox.fault(kind="status", status=503, times=1)
    assert [sandbox.post().status_code for _ in range(3)] == [502, 503, 200]


def test_faults_are_listed_with_what_remains_of_them(sandbox: Sandbox) -> None:
    assert sandbox.fault(kind="status", status=500, times=2, seconds=30).status_code == 201
    assert sandbox.fault(kind="html", seconds=5).json() == {"kind": "html", "seconds": 5.0}
    sandbox.post()
    sandbox.now += 10
    listed = sandbox.client.get("/_faults").json()
    assert listed == [{"kind": "status", "status": 500, "times": 1, "seconds": 20.0}]


def test_delete_clears_the_faults(sandbox: Sandbox) -> None:
    sandbox.fault(kind="status", status=500)
    headers = {"Content-Type": "application/json"}
    assert sandbox.client.delete("/_faults", headers=headers).status_code == 204
    assert sandbox.client.get("/_faults").json() == []
    assert sandbox.post().status_code == 200


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "kind"),
        ({"kind": "explode"}, "kind"),
        ({"kind": "status", "status": "500"}, "status"),
        ({"kind": "status", "status": 99}, "status"),
        ({"kind": "status"}, "status"),
        ({"kind": "slow"}, "delay"),
        ({"kind": "slow", "delay": -1}, "delay"),
        ({"kind": "redirect"}, "location"),
        ({"kind": "redirect", "location": "/\r\nSet-Cookie: a=b"}, "location"),
        ({"kind": "status", "status": 503, "retry_after": "1\r\nX: y"}, "retry_after"),
        ({"kind": "reset", "times": 0}, "times"),
        ({"kind": "reset", "seconds": 0}, "seconds"),
        ({"kind": "reset", "tmies": 1}, "tmies"),
    ],
)
def test_a_fault_that_is_wrong_is_refused_by_name(sandbox: Sandbox, fields: dict[str, Any], named: str) -> None:
    response = sandbox.fault(**fields)
    assert response.status_code == 400
    assert named in response.json()["error"]
    assert sandbox.client.get("/_faults").json() == []


def test_a_wrong_fault_is_refused_in_python_too() -> None:
    with contextlib.closing(LocalHivel()) as hivel, pytest.raises(msgspec.ValidationError, match="times"):
        hivel.fault(Fault(kind="reset", times=0))


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_what_a_web_page_could_send_does_not_drive_the_faults(sandbox: Sandbox, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    body = b'{"kind": "reset"}'
    assert sandbox.client.post("/_faults", content=body, headers=headers).status_code == 415
    assert sandbox.client.delete("/_faults", headers=headers).status_code == 415
    assert sandbox.client.get("/_faults").json() == []


def until(condition: Any) -> None:
    """Ask over and over, for at most ten seconds, without sleeping."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
