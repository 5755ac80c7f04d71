"""The listener for webhooks over a real socket: what it accepts, and what it answers."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx
import pytest

from agent.config.credentials import Secret, Token, TokenError
from agent.config.rules import Pattern
from agent.config.settings import Address, WebhookRule, WebhookSettings
from agent.daemon.hooks import HookStorage
from agent.daemon.listener import MOST_CONNECTIONS, Listener
from agent.outbox.hooks import Verdict
from agent.outbox.offloop import OffLoop
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import OutboxError
from agent.sources.webhooks import listener as module
from agent.sources.webhooks import room
from agent.sources.webhooks.listener import Answers, Hooks
from tests import webhooks
from tests.integration.reporting import reports_of, settings_of
from tests.integration.support import NOON, FakeClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from agent.outbox.hooks import HookDelivery
    from agent.sources.webhooks.values import Delivery, Invalid, Meaning

GITHUB = WebhookSettings(name="github", platform="github", secrets=(Secret("old secret"), Secret(webhooks.SECRET)))
GITLAB = WebhookSettings(name="gitlab", platform="gitlab", secrets=(Secret(webhooks.SIGNING_TOKEN),))
LOST = WebhookSettings(name="lost", platform="github", secrets=(Token.missing(TokenError("no file")),))
GITHUB_BYTES = 1024 * 1024  # more of one body are not read
NAME = "github_actions:acme/shop#289782451/deploy:production"


def deployment_status(**changes: Any) -> dict[str, Any]:
    return webhooks.body(
        "github/deployment_status.actions",
        **{
            "deployment__created_at": webhooks.at(NOON - 600_000),
            "check_run__started_at": webhooks.at(NOON - 300_000),
            "deployment_status__created_at": webhooks.at(NOON - 60_000),
        }
        | changes,
    )


class Bench:
    """A listener with a real outbox."""

    def __init__(self, client: httpx.AsyncClient, outbox: SqliteOutbox, answers: Answers) -> None:
        self.client = client
        self.outbox = outbox
        self.answers = answers

    async def post(self, hook: str, content: Any, headers: dict[str, str]) -> httpx.Response:
        return await self.client.post(f"/v1/hooks/{hook}", content=webhooks.encoded(content), headers=headers)

    async def github(self, content: Any, event: str = "deployment_status", **options: Any) -> httpx.Response:
        return await self.post("github", content, webhooks.github(content, event, **options))

    def ids(self) -> list[str | None]:
        return [each.deployment_id for each in self.outbox.all_deployments()]


def run(
    folder: Path,
    story: Callable[[Bench], Awaitable[None]],
    *hooks: WebhookSettings,
    accept: Callable[[WebhookSettings, Delivery, Meaning | Invalid], Awaitable[HookDelivery]] | None = None,
) -> None:
    """Run a story against a listener with these webhooks."""

    async def whole() -> None:
        clock = FakeClock()
        async with OffLoop() as off_loop:
            outbox = await off_loop(SqliteOutbox, folder / "outbox.db", clock)
            storage = HookStorage(reports_of(settings_of(folder / "outbox.db"), outbox), off_loop)
            answers = Answers()
            application = Hooks(hooks or (GITHUB, GITLAB, LOST), accept or storage.accept, clock, answers)
            async with Listener(application.app, Address("127.0.0.1", 0)) as listener:
                limits = httpx.Limits(max_connections=100)
                address = f"http://127.0.0.1:{listener.port}"
                async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits, trust_env=False) as client:
                    with SqliteOutbox(folder / "outbox.db", clock) as looking:
                        await story(Bench(client, looking, answers))
            await off_loop(outbox.close)

    asyncio.run(whole())


# ---- what is stored


def test_a_deployment_is_stored_before_it_is_answered_and_a_repeated_delivery_gets_the_same_answer(
    tmp_path: Path,
) -> None:
    async def story(bench: Bench) -> None:
        first = await bench.github(deployment_status(), delivery="one")
        assert (first.status_code, first.json()) == (202, {"deployment_id": NAME, "state": "pending"})
        assert bench.ids() == [NAME]
        again = await bench.github(deployment_status(), delivery="one")
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert bench.ids() == [NAME]
        assert len(bench.outbox.hook_deliveries(10)) == 1
        assert bench.answers.counts == {("github", 202): 2}
        assert bench.answers.last == {"github": NOON}

    run(tmp_path, story)


@pytest.mark.parametrize("order", ["start first", "end first"])
def test_the_announced_start_counts_whatever_comes_first(tmp_path: Path, order: str) -> None:
    """Platforms promise no order."""
    began = NOON - 200_000
    start = deployment_status(deployment_status__state="in_progress", deployment_status__created_at=webhooks.at(began))

    async def story(bench: Bench) -> None:
        bodies = [(start, "a"), (deployment_status(), "b")]
        for body, delivery in bodies if order == "start first" else reversed(bodies):
            assert (await bench.github(body, delivery=delivery)).status_code == 202
        [found] = bench.outbox.all_deployments()
        assert (found.content.started_at, found.content.ended_at) == (began, NOON - 60_000)

    run(tmp_path, story)


def test_the_secrets_of_a_webhook_are_all_accepted(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        for secret in ("old secret", webhooks.SECRET):
            answer = await bench.github(deployment_status(), secret=secret)
            assert answer.status_code == 202

    run(tmp_path, story)


def test_a_form_of_github_is_read_and_its_signature_is_over_the_form(tmp_path: Path) -> None:
    form = urlencode({"payload": json.dumps(deployment_status())}).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    async def story(bench: Bench) -> None:
        answer = await bench.post("github", form, webhooks.github(form, "deployment_status") | headers)
        assert (answer.status_code, answer.json()["deployment_id"]) == (202, NAME)
        other = b"body=1"
        answer = await bench.post("github", other, webhooks.github(other, "deployment_status") | headers)
        assert (answer.status_code, answer.json()) == (
            400,
            {"error": "the form has no field payload; choose application/json as the content type of the webhook"},
        )

    run(tmp_path, story)


def test_a_deployment_of_gitlab_with_a_signing_token_is_stored(tmp_path: Path) -> None:
    body = webhooks.body("gitlab/deployment.success", status_changed_at="2026-11-23 11:59:00 +0000")

    async def story(bench: Bench) -> None:
        headers = webhooks.gitlab(body, "Deployment Hook", delivery="key", now_ms=NOON)
        answer = await bench.post("gitlab", body, headers)
        assert (answer.status_code, answer.json()["deployment_id"]) == (
            202, "gitlab_ci:acme/shop#9905389091:production",
        )  # fmt: skip
        old = webhooks.gitlab(body, "Deployment Hook", delivery="key", now_ms=NOON - 301_000)
        assert (await bench.post("gitlab", body, old)).status_code == 401
        plain = {"X-Gitlab-Event": "Deployment Hook", "X-Gitlab-Token": webhooks.SIGNING_TOKEN}
        assert (await bench.post("gitlab", body, plain)).status_code == 401

    run(tmp_path, story)


# ---- what is ignored


def test_what_is_not_wanted_gets_200_with_the_reason_and_is_listed(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        answer = await bench.github(webhooks.body("github/ping"), "ping", delivery="one")
        assert (answer.status_code, answer.json()) == (200, {"ignored": "ping: the webhook works"})
        [noted] = bench.outbox.hook_deliveries(10)
        assert (noted.verdict, noted.event, noted.delivery_id) == (Verdict.IGNORED, "ping", "one")
        assert bench.ids() == []

    run(tmp_path, story)


def test_an_ignored_delivery_is_read_again_when_it_is_repeated(tmp_path: Path) -> None:
    """A person adds a rule and lets the platform send the delivery again."""
    body = webhooks.body(
        "github/workflow_run.completed",
        workflow_run__run_started_at=webhooks.at(NOON - 600_000), workflow_run__updated_at=webhooks.at(NOON - 60_000),
    )  # fmt: skip

    async def ignored(bench: Bench) -> None:
        answer = await bench.github(body, "workflow_run", delivery="one")
        assert answer.json() == {
            "ignored": "no rule of the webhook says to which environment workflow 'Deploy' deploys"
        }

    async def stored(bench: Bench) -> None:
        answer = await bench.github(body, "workflow_run", delivery="one")
        assert answer.status_code == 202
        assert [each.verdict for each in bench.outbox.hook_deliveries(10)] == [Verdict.STORED]

    run(tmp_path, ignored, GITHUB)
    rule = WebhookRule(Pattern.parse("**"), Pattern.parse("Deploy"), "staging")
    run(tmp_path, stored, replace(GITHUB, rules=(rule,)))


# ---- what is refused


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Hub-Signature-256": "sha256=" + "0" * 64},
        {"X-Hub-Signature": "sha1=" + "0" * 40},
        {"Authorization": f"Bearer {webhooks.SECRET}"},
        {"X-Gitlab-Token": webhooks.SECRET},
    ],
)
def test_without_a_valid_signature_the_answer_is_401_and_nothing_is_decoded_or_stored(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async def story(bench: Bench) -> None:
        for content in (deployment_status(), b"no JSON \xff"):
            answer = await bench.post("github", content, {"X-GitHub-Event": "deployment_status"} | headers)
            assert (answer.status_code, answer.json()) == (401, {"error": "the signature is missing or wrong"})
        assert bench.outbox.hook_deliveries(10) == []
        assert bench.ids() == []

    run(tmp_path, story)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"[]", "the body is not what github sends: the JSON is a list, not an object"),
        (b"{}", "the body is not what github sends: repository.full_name is missing"),
        (b"null", "the body is not what github sends: repository.full_name is missing"),
        (
            webhooks.encoded(deployment_status(deployment_status__state=7, deployment__environment=[])),
            "the body is not what github sends: ",
        ),
        (
            webhooks.encoded(deployment_status(deployment_status__created_at="1999-01-01T00:00:00Z")),
            "1999-01-01T00:00:00.000Z is more than 400 days before the agent's clock",
        ),
    ],
)
def test_a_signed_body_of_another_shape_gets_400_with_the_field_and_is_listed(
    tmp_path: Path, content: bytes, words: str
) -> None:
    async def story(bench: Bench) -> None:
        answer = await bench.github(content, delivery="one")
        assert answer.status_code == 400
        assert words in answer.json()["error"]
        [noted] = bench.outbox.hook_deliveries(10)
        assert (noted.verdict, noted.reason) == (Verdict.REFUSED, answer.json()["error"])

    run(tmp_path, story)


def test_a_body_over_the_limit_gets_413_before_it_is_read_or_while(tmp_path: Path) -> None:
    async def chunks() -> Any:
        for _ in range(GITHUB_BYTES // 65_536 + 1):
            yield b" " * 65_536

    async def story(bench: Bench) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.client.base_url.port)
        writer.write(b"POST /v1/hooks/github HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (GITHUB_BYTES + 1))
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")  # not a byte of the body was sent
        writer.close()
        with suppress(httpx.TransportError):  # the connection is closed while the client sends
            await bench.client.post("/v1/hooks/github", content=chunks(), headers={"X-Hub-Signature-256": "?"})
        assert bench.answers.counts["github", 413] == 2
        assert (await bench.github(deployment_status())).status_code == 202

    run(tmp_path, story)


def test_only_an_unknown_webhook_is_404(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        body = deployment_status()
        assert (await bench.post("other", body, webhooks.github(body, "ping"))).status_code == 404
        assert (await bench.client.get("/v1/hooks/github")).status_code == 405
        for path in ("/", "/v1/events", "/v1/wake", "/metrics", "/v1/hooks/"):
            assert (await bench.client.post(path, json={})).status_code in (404, 405), path
        assert (await bench.post("github/", body, webhooks.github(body, "deployment_status"))).status_code == 202

    run(tmp_path, story)


def test_a_webhook_whose_secret_cannot_be_read_asks_to_be_called_later(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        answer = await bench.post("lost", {}, webhooks.github({}, "ping"))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")

    run(tmp_path, story)


@pytest.mark.parametrize("error", [OutboxError("the disk is full"), RuntimeError("a bug")])
def test_what_cannot_be_stored_gets_503_and_never_500(tmp_path: Path, error: Exception) -> None:
    async def fails(*_: object) -> HookDelivery:
        raise error

    async def story(bench: Bench) -> None:
        answer = await bench.github(deployment_status())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "cannot be stored now" in answer.json()["error"]

    run(tmp_path, story, accept=fails)


# ---- a flood


def test_more_deliveries_than_the_limit_get_429_and_the_others_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_REQUESTS", 4)

    async def whole(bench: Bench) -> None:
        answers = [asyncio.create_task(bench.github(deployment_status(), delivery=str(each))) for each in range(40)]
        found = [await each for each in answers]
        assert {each.status_code for each in found} <= {202, 429}
        assert all(each.headers["retry-after"] == "5" for each in found if each.status_code == 429)
        assert sum(each.status_code == 202 for each in found) == len(bench.outbox.hook_deliveries(100))
        assert (await bench.github(deployment_status(), delivery="later")).status_code == 202

    run(tmp_path, whole)


def test_the_bytes_of_all_bodies_together_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_BYTES", 100)

    async def story(bench: Bench) -> None:
        answer = await bench.github(deployment_status())
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
        assert (await bench.github({}, "ping")).status_code == 200

    run(tmp_path, story)


def test_announced_bodies_that_do_not_arrive_keep_nobody_out(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        head = (
            b"POST /v1/hooks/github HTTP/1.1\r\nHost: a\r\nX-Hub-Signature-256: sha256=00\r\nExpect: 100-continue\r\n"
        )
        writers = []
        for each in range(20):
            size = b"Content-Length: %d" % GITHUB_BYTES if each % 2 else b"Transfer-Encoding: chunked"
            reader, writer = await asyncio.open_connection("127.0.0.1", bench.client.base_url.port)
            writer.write(head + size + b"\r\n\r\n")
            assert b" 100 " in await reader.readline()  # the listener waits for the body
            writers.append(writer)
        assert (await bench.github(deployment_status())).status_code == 202
        for writer in writers:
            writer.close()

    run(tmp_path, story)


def test_bodies_that_arrive_slowly_keep_nobody_out(tmp_path: Path) -> None:
    """More clients than the listener has connections, each with a forged signature and without the end of its body."""

    async def story(bench: Bench) -> None:
        head = (
            b"POST /v1/hooks/github HTTP/1.1\r\nHost: a\r\nX-Hub-Signature-256: sha256=00\r\nContent-Length: 9\r\n\r\n"
        )
        writers = []
        for _ in range(MOST_CONNECTIONS + 20):
            _, writer = await asyncio.open_connection("127.0.0.1", bench.client.base_url.port)
            writer.write(head + b"{")
            await writer.drain()
            writers.append(writer)
        for number in range(3):
            assert (await bench.github(deployment_status(), delivery=str(number))).status_code == 202
        for writer in writers:
            writer.close()

    run(tmp_path, story)


def test_when_there_is_no_room_the_oldest_body_that_has_not_arrived_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = webhooks.encoded(deployment_status())
    monkeypatch.setattr(room, "MOST_BYTES", 100_000 + 100 * len(body))

    async def story(bench: Bench) -> None:
        head = (
            b"POST /v1/hooks/github HTTP/1.1\r\nHost: a\r\nX-Hub-Signature-256: sha256=00\r\nContent-Length: %d\r\n\r\n"
        )
        slow = []
        for _ in range(12):
            reader, writer = await asyncio.open_connection("127.0.0.1", bench.client.base_url.port)
            writer.write(head % (50 * len(body)) + b" " * (20 * len(body)))
            await writer.drain()
            slow.append((reader, writer))
        for number in range(3):
            assert (await bench.github(deployment_status(), delivery=str(number))).status_code == 202
        assert (await slow[0][0].readline()).startswith(b"HTTP/1.1 408 ")
        for _, writer in slow:
            writer.close()

    run(tmp_path, story)


@pytest.mark.parametrize(
    "content", [b"[" + b"[]," * 60_000 + b"0]", b'{"a":' * 300 + b"[" + b"0," * 120_000 + b"0]", b"," * 200_000]
)
def test_a_body_with_too_many_values_is_refused_before_it_is_decoded(tmp_path: Path, content: bytes) -> None:
    async def story(bench: Bench) -> None:
        answer = await bench.github(content)
        assert (answer.status_code, answer.json()) == (400, {"error": "the body has more than 100,000 JSON values"})

    run(tmp_path, story)


@pytest.mark.parametrize("hook", ["github", "gitlab", "argocd"])
def test_without_a_signature_the_answer_does_not_wait_for_the_body(tmp_path: Path, hook: str) -> None:
    argocd = WebhookSettings(name="argocd", platform="argocd", secrets=(Secret(webhooks.SECRET),))

    async def story(bench: Bench) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.client.base_url.port)
        head = b"POST /v1/hooks/%s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer wrong\r\nContent-Length: 9\r\n\r\n"
        writer.write(head % hook.encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()

    run(tmp_path, story, GITHUB, GITLAB, argocd)


def test_a_start_that_another_webhook_announces_changes_nothing(tmp_path: Path) -> None:
    other = replace(GITHUB, name="other")
    started = deployment_status(
        deployment_status__state="in_progress", deployment_status__created_at=webhooks.at(NOON - 900_000)
    )

    async def story(bench: Bench) -> None:
        headers = webhooks.github(started, "deployment_status", delivery="one")
        assert (await bench.post("other", started, headers)).status_code == 202
        assert (await bench.github(deployment_status(), delivery="two")).status_code == 202
        [row] = bench.outbox.all_deployments()
        assert row.content.started_at == NOON - 300_000

    run(tmp_path, story, GITHUB, other)


def test_of_a_long_name_in_a_body_only_a_part_is_stored(tmp_path: Path) -> None:
    hook = replace(GITHUB, projects=(Pattern.parse("acme/*"),))

    async def story(bench: Bench) -> None:
        answer = await bench.github(deployment_status(repository__full_name="x" * 900_000))
        assert (answer.status_code, len(answer.json()["ignored"])) == (200, 1_000)
        [noted] = bench.outbox.hook_deliveries(10)
        assert len(noted.reason) == 1_000

    run(tmp_path, story, hook)


def test_deliveries_at_the_same_time_are_all_stored_once(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bodies = [deployment_status(workflow_run__id=each) for each in range(1, 61)]
        answers = await asyncio.gather(
            *(bench.github(body, delivery=str(n)) for n, body in enumerate(bodies)),
            *(bench.github(body, delivery=str(n)) for n, body in enumerate(bodies)),
        )
        assert {each.status_code for each in answers} == {202}
        assert len(bench.ids()) == len(bench.outbox.hook_deliveries(200)) == 60

    run(tmp_path, story)
