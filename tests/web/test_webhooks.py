"""The page of the webhooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests import webhooks
from tests.integration.hooked import HOOKS, Hooked, deployment_status
from tests.web.conftest import VIEW_TOKEN, configured, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.sandbox.server import LocalServer
    from tests.web.conftest import Site


@pytest.fixture
def hooked(jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path) -> Iterator[Site]:
    agent = configured(tmp_path, jenkins_server, hivel_server)
    agent.config.write_text(agent.config.read_text() + "\n" + HOOKS)
    for name, secret in (("github", webhooks.SECRET), ("gitlab", webhooks.SIGNING_TOKEN)):
        (tmp_path / f"{name}.secret").write_text(f"{secret}\n")
    with running(agent) as site:
        daemon = Hooked(tmp_path)
        daemon.github(webhooks.body("github/ping", zen="<script>alert(1)</script>"), "<b>ping</b>", delivery="one")
        daemon.github(deployment_status(), "deployment_status", delivery="two")
        yield site


def test_the_page_shows_the_webhooks_and_what_became_of_their_deliveries(hooked: Site) -> None:
    with hooked.client(VIEW_TOKEN) as client:
        view = client.get("/webhooks.json").json()
        assert [(each["name"], each["path"], each["last_verdict"]) for each in view["hooks"]] == [
            ("github", "/v1/hooks/github", "stored"),
            ("gitlab", "/v1/hooks/gitlab", None),
        ]
        assert [each["verdict"] for each in view["deliveries"]] == ["stored", "ignored"]
        assert client.get("/webhooks.json?hook=gitlab").json()["deliveries"] == []
        assert client.get("/webhooks.json?limit=1").json()["deliveries"] == view["deliveries"][:1]
        rows = client.get("/webhooks.csv").text.splitlines()
        assert rows[0].startswith("at,hook,event,verdict,deployment_id") and len(rows) == 3
        page = client.get("/webhooks", headers={"Accept": "text/html"}).text
        name = "github_actions:acme/shop#289782451/deploy:production"
        assert name in page and "&lt;b&gt;ping&lt;/b&gt;" in page and "<b>ping" not in page
        link = page.partition(f">{name}<")[0].rpartition('href="')[2].rstrip('"').replace("&amp;", "&")
        assert name in client.get(link, headers={"Accept": "text/html"}).text, "the link leads to the deployment"


def test_the_page_requires_a_login(hooked: Site) -> None:
    assert httpx.get(f"{hooked.url}/webhooks.json", trust_env=False).status_code == 401
    assert httpx.get(f"{hooked.url}/webhooks", trust_env=False).status_code == 401


def test_the_metrics_and_the_status_show_the_deliveries(hooked: Site) -> None:
    log = hooked.agent.log()
    monitoring = log.partition("what=monitoring url=")[2].split()[0]
    metrics = httpx.get(f"{monitoring}/metrics", trust_env=False, timeout=120).text
    assert 'hivel_agent_webhook_deliveries_total{hook="github",status="202"} 1.0' in metrics
    assert 'hivel_agent_webhook_deliveries_total{hook="gitlab",status="401"} 0.0' in metrics
    assert 'hivel_agent_webhook_last_delivery_timestamp_seconds{hook="github"}' in metrics
    status = hooked.agent.json("status")
    assert [(each["name"], each["last_verdict"]) for each in status["webhooks"]] == [
        ("github", "stored"), ("gitlab", None),
    ]  # fmt: skip
    assert "webhook   gitlab (gitlab): no delivery is stored" in hooked.agent.run("status").stdout


def test_without_webhooks_the_page_says_so(shared_site: Site) -> None:
    with shared_site.client(VIEW_TOKEN) as client:
        assert "has no [[webhook]]" in client.get("/webhooks", headers={"Accept": "text/html"}).text
