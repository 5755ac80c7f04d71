"""The page of the agents that share an outbox: who polls what, and taking one out and back."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.integration.support import wait_until
from tests.postgresql.fleet import Fleet, Running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.postgresql.cluster import Cluster

WEB = '[web]\nlisten = "127.0.0.1:0"\ntoken_file = "web.token"\nview_token_file = "web.view-token"\n'
SECRETS = {"web.token": "token-that-may-act", "web.view-token": "token-that-may-view"}


@pytest.fixture
def fleet(cluster: Cluster, database: str, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, cluster, database, cluster.url(database), web=WEB, secrets=SECRETS) as fleet:
        yield fleet


def client_of(agent: Running, token: str = "web.token") -> httpx.Client:
    headers = {"Authorization": f"Bearer {SECRETS[token]}"}
    return httpx.Client(base_url=agent.url("web"), headers=headers, trust_env=False, timeout=120)


def states(client: httpx.Client) -> set[str]:
    return {each["state"] for each in client.get("/agents.json").json()["agents"]}


def test_an_agent_is_taken_out_and_back_on_the_page_of_another_one(fleet: Fleet) -> None:
    one, two = fleet.start("one"), fleet.start("two")
    fleet.settle(one, two)
    with client_of(one) as client, client_of(one, "web.view-token") as viewer:
        view = viewer.get("/agents.json").json()
        ids = {each["pid"]: each["id"] for each in view["agents"]}
        assert [(each["state"], each["controllers"]) for each in view["agents"]] == [("active", 1)] * 2
        assert {each["agent_id"] for each in view["leases"]} == set(ids.values())
        rows = {row["id"]: row for row in csv.DictReader(io.StringIO(viewer.get("/agents.csv").text))}
        assert {rows[each["agent_id"]]["controllers"] for each in view["leases"]} == set(fleet.jenkins)
        assert "who polls what" in viewer.get("/controllers").text
        assert "Hand over" not in viewer.get("/agents").text
        assert "Hand over" in client.get("/agents").text

        that = {"agent": ids[two.process.pid]}
        assert viewer.post("/agents/handover", data=that).status_code == 403
        assert client.post("/agents/handover", data=that).status_code == 303
        fleet.settle(one)
        assert "Take part again" in client.get("/agents").text
        [line] = [each for each in one.agent.log().splitlines() if "handover requested" in each]
        assert f"agent_id={that['agent']}" in line and "by=" in line and "client=127.0.0.1" in line

        last = client.post("/agents/handover", data={"agent": ids[one.process.pid]})
        assert last.status_code == 409 and "No other agent is there to take over" in last.text
        assert client.post("/agents/handover", data={"agent": "nobody"}).status_code == 409

        assert client.post("/agents/handover", data={**that, "back": "1"}).status_code == 303
        fleet.settle(one, two)
        two.kill()
        wait_until(
            lambda: "gone" in {each["state"] for each in client.get("/agents.json").json()["agents"]}, "it is gone"
        )
        assert client.post("/agents/handover", data=that).status_code == 409
