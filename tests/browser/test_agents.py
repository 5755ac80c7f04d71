"""The page of the agents that share an outbox. It needs PostgreSQL."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import log_in
from tests.browser.looks import COLOURS, looks, scrolled
from tests.browser.places import Place
from tests.web.conftest import PASSWORD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser.conftest import Tab
    from tests.postgresql.cluster import Cluster

LONG_NAME = "a-machine-with-a-long-name.eu-central-1.compute.example.com"
WEB = '[web]\nlisten = "127.0.0.1:0"\npassword_file = "web.password"\n'


def test_agents_look_right_and_the_last_one_stays(tab: Tab, axe: str, cluster: Cluster, tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="needs the extra [postgresql]")
    from agent.outbox.leases import Agent
    from agent.outbox.postgresql.connection import Connection
    from agent.outbox.postgresql.leases import Leases
    from tests.postgresql.fleet import Fleet

    database = cluster.new_outbox()
    secrets = {"web.password": PASSWORD}
    with Fleet(tmp_path, cluster, database, cluster.url(database), web=WEB, secrets=secrets) as fleet:
        one = fleet.start("one")
        fleet.settle(one)
        with closing(Leases(Connection(cluster.server(database)))) as leases:
            left = Agent(
                "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "a-machine-with-a-long-name.eu-central-1.example.com", "1.0"
            )
            leases.renew(left, 86_400_000)
            leases.ask_to_leave([left.id], leaving=True)
        url = one.url("web")
        log_in(tab.page, url)
        wrong = []
        for place in (Place("/agents"), Place("/controllers")):
            for colours in COLOURS:
                place.go(tab.page, url)
                wrong += looks(tab.page, axe, place, colours)
            wrong += scrolled(tab.page)
        assert not wrong, "\n".join(wrong)
        tab.page.goto(f"{url}/agents")
        assert tab.page.get_by_role("button", name="take part again").count() == 1
        tab.page.get_by_role("button", name="Hand over the work of").click()
        tab.page.get_by_text("No other agent is there to take over").wait_for()
