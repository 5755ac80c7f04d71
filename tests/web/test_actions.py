"""Replay and discard on the pages: what is confirmed happens, once, and nothing else."""

from __future__ import annotations

import html
import re
import signal
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.support import wait_until
from tests.web.conftest import PASSWORD, TOKEN, VIEW_PASSWORD, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from tests.web.conftest import Site

REPO = "https://github.example.test/acme/shop.git"


@pytest.fixture
def failing(jenkins: LocalJenkins) -> LocalJenkins:
    """Three builds without a repository, of which no event can be made."""
    jenkins.add_job("deploy/broken")
    jenkins.add_builds("deploy/broken", 3)
    return jenkins


@pytest.fixture
def failed(failing: LocalJenkins, site: Site) -> Site:
    counts(site, failed=3)
    return site


@pytest.fixture
def operator(failed: Site) -> Iterator[httpx.Client]:
    with failed.logged_in(PASSWORD, "Ada") as client:
        yield client


def counts(site: Site, **wanted: int) -> None:
    """Wait until there are so many in each state."""
    with site.client(TOKEN) as client:
        states = {"pending": 0, "held": 0, "delivered": 0, "failed": 0, "discarded": 0} | wanted
        wait_until(lambda: client.get("/now.json").json()["counts"] == states, f"there are {states}")


def numbers(client: httpx.Client, **query: str) -> list[int]:
    return [each["id"] for each in client.get("/deployments.json", params=query).json()["deployments"]]


def confirmed(client: httpx.Client, what: str, **form: Any) -> tuple[str, str]:
    """The page that asks, and the key in its form."""
    page = client.post("/confirm", data={"what": what} | form)
    assert page.status_code == 200, page.text
    key = re.search(r'name="selection" value="([^"]+)"', page.text)
    assert key is not None, page.text
    return page.text, key[1]


def started(client: httpx.Client, key: str, **form: str) -> str:
    """The path of the task."""
    answer = client.post("/tasks", data={"selection": key} | form)
    assert answer.status_code == 303, answer.text
    return answer.headers["Location"]


def ended(client: httpx.Client, task: str) -> Any:
    """The task when it is over."""
    wait_until(lambda: client.get(f"{task}.json").json()["state"] not in ("waiting", "running"), "the task is over")
    return client.get(f"{task}.json").json()


def add_rule(site: Site) -> None:
    """The repository and branch that the builds do not tell."""
    config = site.agent.config
    config.write_text(config.read_text() + f'repo_url = "{REPO}"\nbranch = "main"\n')


def reload(site: Site) -> None:
    """Let the daemon read its configuration again."""
    before = site.agent.log().count("event=started")
    site.process.send_signal(signal.SIGHUP)
    wait_until(lambda: site.agent.log().count("event=started") > before, "the new life has begun")


# ---- what is confirmed happens


def test_discarding_chosen_deployments_needs_a_confirmation_and_a_reason(failed: Site, operator: httpx.Client) -> None:
    first, second, _ = numbers(operator, state="failed")
    page, key = confirmed(operator, "discard", number=[first, second])
    assert "Discard 2 deployments?" in page
    assert f"chosen one by one: {second}, {first}" in page
    refused = operator.post("/tasks", data={"selection": key, "reason": "  "})
    assert refused.status_code == 400 and "a reason is required" in refused.text
    task = ended(operator, started(operator, key, reason="an exercise"))
    assert (task["state"], task["total"], task["done"], task["refused"]) == ("done", 2, 2, 0)
    assert (task["who"], task["reason"]) == ("Ada", "an exercise")
    counts(failed, failed=1, discarded=2)
    shown = operator.get(f"/deployments/{first}.json").json()
    assert shown["deployment"]["reason"] == "by Ada: an exercise"
    assert [(each["what"], each["who"], each["reason"]) for each in shown["actions"]] == [
        ("discard", "Ada", "an exercise")
    ]


def test_all_that_match_are_replayed_after_the_rule_was_corrected(failed: Site, operator: httpx.Client) -> None:
    page, key = confirmed(operator, "replay", all="1", job="deploy/**", state="failed")
    assert "Replay 3 deployments?" in page and "state failed, job deploy/**" in page
    add_rule(failed)
    reload(failed)
    task = ended(operator, started(operator, key))
    assert (task["total"], task["done"], task["refused"], task["reason"]) == (3, 3, 0, None)
    counts(failed, delivered=3)


def test_one_deployment_is_replayed_from_its_page(failed: Site, operator: httpx.Client) -> None:
    add_rule(failed)
    reload(failed)
    number = numbers(operator)[0]
    assert f'name="number" value="{number}"' in operator.get(f"/deployments/{number}").text
    _, key = confirmed(operator, "replay", number=number)
    assert ended(operator, started(operator, key))["done"] == 1
    counts(failed, delivered=1, failed=2)
    shown = operator.get(f"/deployments/{number}.json").json()
    assert [(each["what"], each["who"]) for each in shown["actions"]] == [("replay", "Ada")]
    assert ("replay", "by Ada") in [(step["what"], step["details"]) for step in shown["timeline"]]


def test_a_group_of_failed_deployments_is_discarded(failed: Site, operator: httpx.Client) -> None:
    [group] = operator.get("/failed.json").json()["groups"]
    assert (group["count"], group["advice"][:35]) == (3, "Set the missing fields in the rule,")
    _, key = confirmed(operator, "discard", all="1", state="failed", cause=group["cause"])
    assert ended(operator, started(operator, key, reason="an exercise"))["done"] == 3
    assert operator.get("/failed.json").json() == {"groups": [], "failed": 0, "more": False}


def test_a_group_without_a_reason_is_discarded_and_nothing_else(failed: Site, operator: httpx.Client) -> None:
    """An older version stored none."""
    with sqlite3.connect(failed.agent.outbox) as connection:
        connection.execute("UPDATE deployments SET reason = NULL WHERE id = (SELECT min(id) FROM deployments)")
    connection.close()
    page = operator.get("/failed").text
    assert "no reason</a>" in page
    assert re.findall(r"Discard \d+", page) == ["Discard 2", "Discard 1"]
    chosen = {"state": "failed", "reason": "none"}
    assert [each["reason"] for each in operator.get("/deployments.json", params=chosen).json()["deployments"]] == [None]
    _, key = confirmed(operator, "discard", all="1", **chosen)
    assert ended(operator, started(operator, key, reason="an exercise"))["done"] == 1
    [group] = operator.get("/failed.json").json()["groups"]
    assert (group["count"], group["cause"] != "") == (2, True)


def test_a_deployment_that_cannot_be_corrected_is_refused_with_the_reason(operator: httpx.Client) -> None:
    _, key = confirmed(operator, "replay", all="1", state="failed")
    task = ended(operator, started(operator, key))
    assert (task["done"], task["refused"]) == (0, 3)
    assert all(each["reason"].startswith("no repo_url, no branch in the build") for each in task["refusals"])


def test_a_reload_of_the_configuration_does_not_disturb_a_task(failing: LocalJenkins, site: Site) -> None:
    failing.add_builds("deploy/broken", 997)
    counts(site, failed=1000)
    with site.logged_in(PASSWORD) as client:
        _, key = confirmed(client, "discard", all="1")
        task = started(client, key, reason="an exercise")
        reload(site)
        assert ended(client, task)["done"] == 1000
    counts(site, discarded=1000)


# ---- nothing else happens


def test_a_form_that_is_sent_twice_starts_one_task(operator: httpx.Client) -> None:
    _, key = confirmed(operator, "discard", all="1")
    tasks = {started(operator, key, reason="an exercise") for _ in range(3)}
    assert len(tasks) == 1
    assert ended(operator, tasks.pop())["done"] == 3
    assert len(operator.get("/tasks.json").json()["tasks"]) == 1


def test_what_another_tab_has_done_is_refused(failed: Site, operator: httpx.Client) -> None:
    _, first = confirmed(operator, "discard", all="1", state="failed")
    _, second = confirmed(operator, "replay", all="1", state="failed")
    ended(operator, started(operator, first, reason="an exercise"))
    task = ended(operator, started(operator, second))
    assert (task["done"], task["refused"]) == (0, 3)
    assert {each["reason"] for each in task["refusals"]} == {
        "it has changed since it was selected: it is discarded now"
    }
    counts(failed, discarded=3)


def test_two_tabs_do_not_replay_twice(failed: Site, operator: httpx.Client, hivel: LocalHivel) -> None:
    add_rule(failed)
    reload(failed)
    keys = [confirmed(operator, "replay", all="1", state="failed")[1] for _ in range(2)]
    tasks = [ended(operator, path) for path in [started(operator, key) for key in keys]]
    assert [(task["done"], task["refused"]) for task in tasks] == [(3, 0), (0, 3)]
    counts(failed, delivered=3)
    assert len(hivel.requests()) == 3


def test_what_comes_to_match_after_the_confirmation_is_left_alone(
    failed: Site, operator: httpx.Client, jenkins: LocalJenkins
) -> None:
    _, key = confirmed(operator, "discard", all="1", state="failed")
    jenkins.add_builds("deploy/broken", 2)
    counts(failed, failed=5)
    assert ended(operator, started(operator, key, reason="an exercise"))["total"] == 3
    counts(failed, failed=2, discarded=3)


def test_the_confirmation_says_what_stays_as_it_is(failed: Site, operator: httpx.Client) -> None:
    _, key = confirmed(operator, "discard", number=numbers(operator)[:1])
    ended(operator, started(operator, key, reason="an exercise"))
    page, _ = confirmed(operator, "discard", all="1")
    assert "Discard 2 deployments?" in page
    assert "1 that match stay as they are, because they are held or delivered or discarded." in page
    page, _ = confirmed(operator, "discard", number=[*numbers(operator), 4711])
    assert "stays as it is, because it is discarded. Number 4711 does not exist." in page


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"what": "delete", "number": "1"}, 400, "replay or discard"),
        ({"what": "replay"}, 409, "No deployment was selected that can be replayed."),
        ({"what": "replay", "number": "x"}, 400, "is not the number of a deployment"),
        ({"what": "replay", "all": "1", "state": "held"}, 409, "No deployment was selected"),
        ({"what": "replay", "all": "1", "since": "tomorrow"}, 400, "is not a date, a time or a duration"),
    ],
)
def test_a_selection_that_is_not_valid_is_refused(
    operator: httpx.Client, form: dict[str, str], status: int, words: str
) -> None:
    answer = operator.post("/confirm", data=form)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_an_unknown_confirmation_starts_nothing(operator: httpx.Client) -> None:
    answer = operator.post("/tasks", data={"selection": "made-up"})
    assert answer.status_code == 409
    assert "Nothing was changed. Select the deployments again" in answer.text
    assert operator.get("/tasks.json").json() == {"tasks": []}


@pytest.mark.parametrize("path", ["/confirm", "/tasks"])
def test_actions_need_the_right_to_act(failed: Site, path: str) -> None:
    with failed.client() as nobody, failed.logged_in(VIEW_PASSWORD) as viewer:
        nobody.headers["Origin"] = failed.url
        assert nobody.post(path, data={"what": "replay", "all": "1"}).status_code == 401
        assert viewer.post(path, data={"what": "replay", "all": "1"}).status_code == 403
        for page in ("/deployments", "/failed", "/deployments/1"):
            assert 'action="/confirm"' not in viewer.get(page).text
    counts(failed, failed=3)


def test_hostile_names_and_reasons_are_text_on_the_pages_of_actions(
    failed: Site, operator: httpx.Client, jenkins: LocalJenkins
) -> None:
    attack = "<img src=x onerror=alert(1)>"
    jenkins.add_job(f"deploy/{attack}")
    jenkins.add_builds(f"deploy/{attack}", 1)
    counts(failed, failed=4)
    page, key = confirmed(operator, "discard", all="1", text=f"deploy/{attack}")
    task = started(operator, key, reason=f"{attack}\u202e=1+1")
    assert ended(operator, task)["done"] == 1
    number = numbers(operator, state="discarded")[0]
    pages = [page, *(operator.get(path).text for path in (task, "/tasks", "/failed", f"/deployments/{number}"))]
    for text in pages:
        assert "<img" not in text and "\u202e" not in text
    assert all("&lt;img src=x onerror=alert(1)&gt;" in text for text in (page, pages[1], pages[2], pages[4]))
    for path in ("/failed.csv", "/tasks.csv"):
        assert operator.get(path).status_code == 200


def test_the_failed_page_leads_to_the_deployments_of_a_group(operator: httpx.Client) -> None:
    page = operator.get("/failed").text
    link = re.search(r'<th scope="row"><a href="([^"]+)"', page)
    assert link is not None
    path = html.unescape(link[1])
    assert operator.get(path.replace("/deployments?", "/deployments.json?")).json()["count"] == 3


# ---- restarts and the log


def test_a_restart_interrupts_a_task_and_the_task_says_so(failing: LocalJenkins, site: Site) -> None:
    failing.add_builds("deploy/broken", 1997)
    counts(site, failed=2000)
    with site.logged_in(PASSWORD) as client:
        _, unused = confirmed(client, "discard", all="1")
        _, key = confirmed(client, "discard", all="1")
        path = started(client, key, reason="an exercise")
        cookies = dict(client.cookies)
        site.process.kill()
        site.process.wait(120)
    with running(site.agent) as again, again.client() as client:
        client.cookies.update(cookies)
        client.headers["Origin"] = again.url
        task = client.get(f"{path}.json").json()
        assert task["state"] == "interrupted"
        assert task["problem"].startswith("the agent was stopped or restarted in the middle")
        assert "interrupted" in client.get(path).text
        answer = client.post("/tasks", data={"selection": unused, "reason": "an exercise"})
        assert (answer.status_code, "the agent was restarted" in answer.text) == (409, True)
        _, key = confirmed(client, "discard", all="1", state="failed")
        assert started(client, key, reason="the rest") == "/tasks/2"
        ended(client, "/tasks/2")
        counts(again, discarded=2000)


def test_every_action_is_in_the_log(failed: Site, operator: httpx.Client) -> None:
    _, key = confirmed(operator, "discard", all="1", state="failed")
    ended(operator, started(operator, key, reason="an exercise"))
    log = failed.agent.log()
    begun = next(line for line in log.splitlines() if "task started" in line)
    for told in ("what=discard", "who=Ada", "client=127.0.0.1", "deployments=3", "state failed", "an exercise"):
        assert told in begun
    over = next(line for line in log.splitlines() if "task ended" in line)
    for told in ("task=1", "who=Ada", "state=done", "done=3", "refused=0"):
        assert told in over
