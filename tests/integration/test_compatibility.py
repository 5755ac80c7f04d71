"""docs/compatibility.md, by what is really printed and served: every field, metric and answer that others may use."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.model.times import Clock
from agent.outbox.hooks import HookDelivery, Verdict
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sandbox.hivel import Fault
from tests import webhooks
from tests.integration.hooked import deployment_status
from tests.integration.support import REPO, wait_until
from tests.integration.test_monitoring import address, metrics, page
from tests.unit import surface

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from tests.integration.support import Agent

JOB = "deploy/shop"
FIRST = f"main:{JOB}#1"
# Left out where they have no value.
SPARSE = ("event", "query")


def differs(section: str, value: object) -> Iterator[str]:
    """What a document has that the type of this output has not, and what it lacks."""
    told, found = surface.SURFACES["json.txt"][section], set(surface.keys(value))
    opaque = {path for path in told if path.rpartition(".")[2] in ("body", "source", "sent", "known")}
    known = [
        re.escape(path).replace(r"\*", ".+") + (r"(\.[^.]+|\[\])*" if path in opaque else "") for path in sorted(told)
    ]
    yield from (f"{path} is new" for path in sorted(found) if not re.fullmatch("|".join(known), path))
    for path in told:
        parent, _, name = path.rpartition(".")
        whole = parent in found or not parent
        objects = any(each.startswith(f"{parent}.") for each in found)
        if whole and objects and name not in ("*", "*[]") and parent.rpartition(".")[2] not in SPARSE:
            yield from [] if path in found or path.endswith("[]") else [f"{path} is missing"]


@pytest.fixture
def story(agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel) -> Agent:
    """One event is delivered, one has failed, and one waits."""
    hivel.fault(Fault(kind="status", status=400, match="#2"))
    jenkins.add_builds(JOB, 2, repo=REPO)
    agent.run("once")
    hivel.fault(Fault(kind="status", status=503))
    jenkins.add_builds(JOB, 1, repo=REPO)
    return agent


def test_every_output_has_the_fields_that_are_promised(story: Agent, hivel: LocalHivel) -> None:
    with story.config.open("a") as file:
        file.write('[[webhook]]\nname = "github"\nplatform = "github"\nsecret_file = "hivel.token"\n')
    body = story.folder / "body.json"
    body.write_bytes(webhooks.encoded(deployment_status()))
    with SqliteOutbox(story.outbox, Clock()) as outbox:
        outbox.note_hook_delivery(HookDelivery(hook="github", delivery_id="", at=0, event="", verdict=Verdict.IGNORED))
    said = {
        "once --json": story.json("once"),
        "check --json": story.json("check", "--offline"),
        "status --json": story.json("status"),
        "preview --json": story.json("preview", "--since", "2020-01-01"),
        "preview --compare --json": story.json("preview", "--compare", "--since", "2020-01-01"),
        "explain --json": story.json("explain", FIRST),
        "audit --json": story.json("audit", "--since", "2020-01-01"),
        "backfill --json": story.json("backfill", "--since", "2020-01-01", "--dry-run"),
        "dora --json": story.json("dora", "--since", "2026-11-01"),
        "queue list --json": story.json("queue", "list"),
        "queue show --json": story.json("queue", "show", FIRST),
        "replay --json": story.json("replay", FIRST),
        "webhook test --json": story.json("webhook", "test", "github", "--body", str(body)),
        "webhook list --json": story.json("webhook", "list"),
        "queue discard --json": story.json("queue", "discard", f"main:{JOB}#2"),
    }
    assert {verb for verb in surface.JSON if verb.endswith("--json")} == set(said)
    assert {verb: found for verb, value in said.items() if (found := list(differs(verb, value)))} == {}
    assert said["queue list --json"][0]["event"]["deployment_id"]


def test_a_field_that_is_new_or_missing_is_noticed() -> None:
    [first, *rest] = list(differs("/readyz", {"ready": True, "checks": [{"name": "log", "okay": True}]}))
    assert (first, rest) == ("checks[].okay is new", ["checks[].ok is missing", "checks[].reason is missing"])


@pytest.mark.parametrize(
    ("verb", "code"),
    [
        (("status",), 0),
        (("queue", "list", "--state", "failed"), 0),
        (("explain", FIRST), 0),
        (("once",), 1),  # an event has failed
        (("queue", "show", "main:deploy/shop#99"), 1),
        (("replay", f"main:{JOB}#3"), 1),  # not in the outbox
        (("queue", "list", "--state", "gone"), 2),
        (("queue", "lst"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_the_exit_codes_are_those_of_the_page(story: Agent, verb: tuple[str, ...], code: int) -> None:
    assert story.run(*verb).returncode == code


@pytest.mark.parametrize("verb", [("run",), ("once",), ("check",), ("status",), ("queue", "list"), ("dora",)])
def test_a_wrong_configuration_is_exit_code_2_everywhere(agent: Agent, verb: tuple[str, ...]) -> None:
    agent.config.write_text("[hivel]\nurl = 7\n")
    assert agent.run(*verb).returncode == 2


def test_emit_says_what_is_promised(agent: Agent) -> None:
    done = agent.run("emit", "--dry-run", "--status", "SUCCESS", "--job", JOB, "--build-number", "1")
    assert {"accepted", "reason", "report"} <= set(json.loads(done.stdout))


def test_what_the_daemon_serves_has_what_is_promised(agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel) -> None:
    (agent.folder / "intake.token").write_text("token-of-builds\n")
    told = agent.folder / "told.json"
    with agent.config.open("a") as file:
        file.write(
            '[intake]\nlisten = "127.0.0.1:0"\ntoken_file = "intake.token"\n'
            f'[notify]\ncommand = ["/usr/bin/tee", "{told}"]\nafter = "1s"\n'
            '[[webhook]]\nname = "github"\nplatform = "github"\nsecret_file = "intake.token"\n'
            'api_token_file = "intake.token"\napi_url = "http://127.0.0.1:1"\nrepair = ["acme/shop"]\n'
        )
    hivel.fault(Fault(kind="status", status=503, times=1))
    daemon = agent.start()
    try:
        wait_until(lambda: "event=started" in agent.log(), "the daemon has started")
        jenkins.add_builds(JOB, 1, repo=REPO)
        retries = 'hivel_agent_retries_total{reason="http_503"}'
        wait_until(lambda: metrics(agent).get(retries) == 1, "an attempt has failed")
        wait_until(lambda: metrics(agent)["hivel_agent_delivered_total"] == 1, "the event is delivered")
        for path in ("/readyz", "/jenkins"):
            assert list(differs(path, httpx.get(address(agent) + path).json())) == [], path
        assert {"alive", "version"} <= set(httpx.get(f"{address(agent)}/healthz").json())
        promised, now = surface.read("metrics.txt")["/metrics"], served(agent)
        assert {name: now.get(name) for name in promised} == promised
        assert answers(agent) == [{"deployment_id", "state"}, {"woken"}, {"error"}]
        assert agent.run("notify", "test").returncode == 0
        assert list(differs("[notify]", json.loads(told.read_text().splitlines()[0]))) == []
    finally:
        daemon.kill()
        daemon.wait()


def served(agent: Agent) -> surface.Fields:
    """The metrics, each with its type and its labels."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): [
            family.type, *sorted({label for each in family.samples for label in each.labels} - {"le"})
        ]
        for family in text_string_to_metric_families(page(agent))
    }  # fmt: skip


def answers(agent: Agent) -> list[set[str]]:
    """What the intake answers to a report, to a call to wake, and to nonsense: the keys."""
    found = re.search(r"what=intake url=(http://\S+)", agent.log())
    assert found
    client = httpx.Client(base_url=found[1], headers={"Authorization": "Bearer token-of-builds"})
    report: dict[str, Any] = {"job": JOB, "build_number": "1", "controller": "main", "status": "SUCCESS"}
    with client:
        return [
            set(client.post("/v1/events", json=report).json()),
            set(client.post("/v1/wake").json()),
            set(client.post("/v1/events", json={**report, "status": "odd"}).json()),
        ]
