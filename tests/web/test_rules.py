"""The page on which rules are tried: what would change, and that nothing does."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
from starlette.requests import Request

from agent.config.file import ConfigError, rules_text, with_rules
from agent.web import trial
from agent.web.page import RefusedError
from agent.web.pages import rules
from tests.integration.support import wait_until
from tests.web.conftest import TOKEN, VIEW_PASSWORD, VIEW_TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from tests.web.conftest import Site

RULE = '[[deployment]]\njob = "**"\n'


@pytest.fixture
def delivered(site: Site, jenkins: LocalJenkins, hivel: LocalHivel) -> Iterator[Site]:
    """Three builds of one job are at Hivel."""
    jenkins.add_job("deploy/shop")
    jenkins.add_builds("deploy/shop", 3, repo="https://github.example.test/acme/shop.git")
    wait_until(lambda: len(hivel.deployments()) == 3, "three events are delivered")
    yield site


def tried(site: Site, rules: str, days: str = "400", token: str = TOKEN) -> Any:
    with site.client(token) as client:
        answer = client.post("/rules.json", data={"rules": rules, "days": days})
        assert answer.status_code == 200, answer.text
        return answer.json()


def test_the_page_shows_the_rules_of_the_configuration(shared_site: Site) -> None:
    with shared_site.client(VIEW_TOKEN) as client:
        assert client.get("/rules.json").json()["rules"] == RULE.strip()
        assert "job = &#34;**&#34;" in client.get("/rules", headers={"Accept": "text/html"}).text


def test_the_same_rules_change_nothing_and_others_are_compared(delivered: Site) -> None:
    same = tried(delivered, RULE)["comparison"]
    assert same["counts"]["same"] == 3 and same["events"] == []
    other = tried(delivered, RULE + 'environment = "elsewhere"\n')["comparison"]
    assert other["counts"]["changed"] == 3
    changes = {(f["field"], f["known"]) for event in other["events"] for f in event["difference"]["fields"]}
    assert changes == {("environment", "elsewhere")}
    gone = tried(delivered, '[[deployment]]\njob = "nothing"\n')["comparison"]
    assert gone["counts"]["gone"] == 3
    assert tried(delivered, RULE)["comparison"]["counts"]["same"] == 3, "nothing was written"


def test_a_browser_sees_the_changes_and_keeps_its_text(delivered: Site) -> None:
    rules = '[[deployment]]\r\njob = "**"\r\nenvironment = "<b>bold</b>"\r\n'
    with delivered.logged_in() as client:
        page = client.post("/rules", data={"rules": rules, "days": "400"}).text
    assert "3 changed" in page and "environment: production → &lt;b&gt;bold&lt;/b&gt;" in page
    assert "environment = &#34;&lt;b&gt;bold&lt;/b&gt;&#34;" in page and "<b>bold" not in page


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ('[[deployment]]\njob = "**"\nenvironnment = "x"', "rules:3: deployment[0].environnment: unknown key; did you"),
        ("[[deployment]\n", "rules:1: "),
        ('[hivel]\nurl = "https://evil.test"', "rules:1: hivel: only [[deployment]] tables can be tried here"),
        ('[[deployment]]\njob = "re:(a+)+$"', "takes more than 1 s for a name of"),
    ],
)
def test_wrong_rules_are_explained_with_their_lines(shared_site: Site, rules: str, problem: str) -> None:
    found = tried(shared_site, rules)
    assert found["comparison"] is None and problem in found["problem"]


@pytest.mark.parametrize("days", ["0", "401", "-1", "seven", "9999", "1e2"])
def test_days_that_are_no_number_are_refused(shared_site: Site, days: str) -> None:
    with shared_site.client(TOKEN) as client:
        answer = client.post("/rules.json", data={"rules": RULE, "days": days})
        assert (answer.status_code, answer.text) == (400, "days must be a number from 1 to 400\n")


def test_only_those_who_may_act_can_try_rules(shared_site: Site) -> None:
    with shared_site.client(VIEW_TOKEN) as client:
        assert client.post("/rules.json", data={"rules": RULE}).status_code == 403
    with shared_site.logged_in(VIEW_PASSWORD) as client:
        assert client.post("/rules", data={"rules": RULE}).status_code == 403
        assert "Someone who may act can try rules" in client.get("/rules").text


def test_a_trial_that_takes_too_much_is_ended_and_says_so(shared_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    it = trial.Trial(str(shared_site.agent.config), RULE, 0)
    monkeypatch.setattr(trial, "PATIENCE_S", 0.001)
    assert "took more than 0.001 s" in str(asyncio.run(trial.run(it)).problem)
    monkeypatch.setattr(trial, "PATIENCE_S", 120.0)
    busy = "import resource, time; resource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass"
    monkeypatch.setattr(trial, "_PROGRAM", (sys.executable, "-c", busy))
    assert "s of CPU time" in str(asyncio.run(trial.run(it)).problem)
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"  # as the kernel does when memory is short
    monkeypatch.setattr(trial, "_PROGRAM", (sys.executable, "-c", killed))
    assert "too much memory" in str(asyncio.run(trial.run(it)).problem)
    hungry = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28)); bytearray(1 << 30)"
    monkeypatch.setattr(trial, "_PROGRAM", (sys.executable, "-c", hungry))
    assert "too much memory" in str(asyncio.run(trial.run(it)).problem)


def test_the_rules_are_cut_out_of_a_file_as_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[hivel]\nurl = "https://app.hivel.test"\n\n# first\n[[deployment]]\njob = "a" # why\n\n[outbox]\n'
        '[[deployment]]\njob = "[hivel]"\nenvironment = """\n[outbox]"""\n[[jenkins]]\nurl = "https://x.test"\n'
    )
    assert rules_text(file) == (
        '[[deployment]]\njob = "a" # why\n\n[[deployment]]\njob = "[hivel]"\nenvironment = """\n[outbox]"""'
    )
    settings = with_rules(file, '[[deployment]]\njob = "b"\n')
    assert [rule.job.text for rule in settings.rules] == ["b"]
    with pytest.raises(ConfigError, match=re.escape("rules:2: deployment[0].job: ")):
        with_rules(file, "[[deployment]]\njob = 1\n")


def test_a_trial_ends_when_its_client_goes_away(shared_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else others would have to wait for a trial that nobody wants."""
    monkeypatch.setattr(trial, "_PROGRAM", (sys.executable, "-c", "import signal; signal.pause()"))
    running = trial.run(trial.Trial(str(shared_site.agent.config), RULE, 0))

    async def receive() -> dict[str, str]:
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    with pytest.raises(RefusedError, match="the client is gone"):
        asyncio.run(rules._unless_gone(Request({"type": "http"}, receive), running))
