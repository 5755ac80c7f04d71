"""`/dora`: the figures of the verb, each with a link to the deployments it was made of."""

from __future__ import annotations

import csv
import html
import io
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from agent.model.status import Status
from agent.model.times import Clock, parse_moment
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sandbox.hivel import LocalHivel
from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer
from tests.conformance.things import content, deployment, inserted, run
from tests.web.conftest import VIEW_TOKEN, configured, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.web.conftest import Site

SHOP, API = "https://git.example.test/acme/shop", "https://git.example.test/acme/api"
HOSTILE = "<script>alert(1)</script>"
MINUTE, DAY = 60_000, 86_400_000
MONDAY = parse_moment("2024-12-23")
SPAN = {"since": "2024-12-23", "until": "2025-03-31"}
WEEKS = 14


def fill(outbox: SqliteOutbox) -> None:
    """Fourteen weeks of two repositories, with every status."""
    number = 0

    def add(day: float, status: Status = Status.SUCCESS, **fields: Any) -> None:
        nonlocal number
        number += 1
        ended_at = MONDAY + round(day * DAY)
        said = {"repo_url": SHOP, "started_at": ended_at - 5 * MINUTE, "ended_at": ended_at, "status": status} | fields
        inserted(outbox, deployment(of=run(number), content=content(**said)))

    for week in range(WEEKS):
        add(7 * week, commit_hash=f"{week:040x}", first_commit_at=MONDAY - DAY)
        add(7 * week + 1, Status.FAILED)
        add(7 * week + 2)
        add(7 * week + 3, repo_url=API, environment="staging")
    add(0.5, commit_hash=f"{0:040x}")
    add(9, commit_hash=f"{0:040x}")
    add(3, Status.CANCELED)
    add(4, Status.UNKNOWN)
    add(97.5, Status.FAILED)
    add(5, environment=HOSTILE, repo_url=API)
    for team in range(6):
        for week in range(WEEKS):
            add(7 * week + 1, environment="acceptance", repo_url=f"{SHOP}-of-team-{team}", first_commit_at=MONDAY)
            add(7 * week, Status.FAILED, environment="acceptance", repo_url=f"{SHOP}-of-team-{team}")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, hivel = tmp_path_factory.mktemp("history"), LocalHivel()
    with LocalServer(LocalJenkins().app) as jenkins_server, LocalServer(hivel.app) as hivel_server:
        agent = configured(folder, jenkins_server, hivel_server)
        with SqliteOutbox(agent.outbox, Clock()) as outbox:
            fill(outbox)
        with running(agent) as site:
            yield site
    hivel.close()


@pytest.fixture(scope="module")
def recent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three deployments that ended just now, one of them without an environment."""
    folder, hivel = tmp_path_factory.mktemp("recent"), LocalHivel()
    with LocalServer(LocalJenkins().app) as jenkins_server, LocalServer(hivel.app) as hivel_server:
        agent = configured(folder, jenkins_server, hivel_server)
        now = Clock().now_ms()
        with SqliteOutbox(agent.outbox, Clock()) as outbox:
            for number, environment in enumerate(("production", "staging", None), 1):
                said = content(
                    repo_url=SHOP, started_at=now - 2 * MINUTE, ended_at=now - MINUTE, environment=environment
                )
                inserted(outbox, deployment(of=run(number), content=said))
        with running(agent) as site:
            yield site
    hivel.close()


def page(site: Site, **query: str) -> str:
    with site.client(VIEW_TOKEN) as client:
        return client.get("/dora", params=query).raise_for_status().text


def links(text: str) -> set[str]:
    return {html.unescape(part.partition('"')[0]) for part in text.split('href="')[1:]}


def test_the_json_form_has_the_figures_of_the_verb(history: Site) -> None:
    with history.client(VIEW_TOKEN) as client:
        found = client.get("/dora.json", params=SPAN).raise_for_status().json()
    assert found == history.agent.json("dora", "--since", SPAN["since"], "--until", SPAN["until"])
    assert len(found["groups"]) == 9


def test_the_csv_form_has_the_rows_of_the_verb(history: Site) -> None:
    with history.client(VIEW_TOKEN) as client:
        found = client.get("/dora.csv", params=SPAN).raise_for_status().text
    printed = history.agent.run("dora", "--since", SPAN["since"], "--until", SPAN["until"], "--csv").stdout
    assert list(csv.reader(io.StringIO(found))) == list(csv.reader(io.StringIO(printed)))


def figures(group: dict[str, Any], *, weeks: int) -> Iterator[tuple[dict[str, Any], int]]:
    """The query of each figure that the page shows, and how many deployments it was made of."""
    for of in (group["total"], *(week["figures"] for week in group["weeks"][-weeks:])):
        for name in ("successful", "failed"):
            if of[name]["count"]:
                yield of[name]["query"], of[name]["count"]
        for name in ("time_to_next_success", "duration", "lead_time", "rollbacks"):
            if of[name]["count"]:
                yield of[name]["query"], of["failed" if "next" in name else "successful"]["count"]
    for name in ("canceled", "unknown"):
        yield group["total"][name]["query"], group["total"][name]["count"]


def test_every_figure_is_a_link_to_the_deployments_that_it_was_made_of(history: Site) -> None:
    chosen = SPAN | {"environment": "production", "repo": SHOP}
    found = links(page(history, **chosen))
    by_query = {}
    with history.client(VIEW_TOKEN) as client:
        [group] = client.get("/dora.json", params=chosen).json()["groups"]
        for link in found:
            parts = urlsplit(link)
            fields = parse_qs(parts.query)
            if parts.path == "/deployments" and "status" in fields:
                count = client.get(f"/deployments.json?{parts.query}").raise_for_status().json()["count"]
                assert sorted(fields["state"]) == ["delivered", "failed", "held", "pending"]
                assert (fields["environment"], fields["repo"]) == (["production"], [SHOP])
                key = parse_moment(fields["since"][0]), parse_moment(fields["until"][0]), fields["status"][0]
                by_query[key] = count
    expected = {
        (parse_moment(query["since"]), parse_moment(query["until"]), query["status"]): count
        for query, count in figures(group, weeks=4)
    }
    open_failures = group["open_failures"]
    query = open_failures["query"]
    expected[parse_moment(query["since"]), parse_moment(query["until"]), "failed"] = open_failures["count"]
    assert by_query == expected
    assert f"/deployments/{open_failures['newest'][0]['id']}" in found


def test_the_overview_has_a_row_and_links_for_each_environment_and_repository(history: Site) -> None:
    text = page(history, **SPAN)
    found = links(text)
    assert sum("environment=acceptance" in link and link.startswith("/dora?") for link in found) == 4
    assert sum(link.startswith("/deployments?") and "status=success" in link for link in found) == 5
    assert "4 more with fewer deployments are not shown" in text


def test_without_filters_the_page_shows_the_last_90_days(recent: Site) -> None:
    text = page(recent)
    assert "1 deployment has no environment or no repository" in text
    assert sum(link.startswith("/dora?environment=") for link in links(text)) == 2
    for link in links(text):
        if link.startswith("/dora?environment="):
            assert "<h2>" in page(recent, **dict(parse_qsl(urlsplit(link).query)))


def test_a_hostile_name_is_shown_as_text(history: Site) -> None:
    text = page(history, **SPAN, environment=HOSTILE)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert HOSTILE not in text


def test_the_page_names_the_figures_for_what_they_are_and_has_charts_with_a_table(history: Site) -> None:
    text = page(history, **SPAN, environment="production", repo=SHOP)
    assert "A failed deployment is not a failed change" in text
    assert "Rollbacks (estimated)" in text
    assert "known for 47% of the successful deployments" in text
    assert text.count('<svg role="img"') == 3
    assert "Table of all weeks" in text
    assert "2025-W13" in text
    assert not {"elite", "Elite"} & set(text.split())


@pytest.mark.parametrize("query", [SPAN, SPAN | {"environment": "production", "repo": SHOP}])
def test_the_page_is_at_most_20_kb(history: Site, query: dict[str, str]) -> None:
    text = page(history, **query)
    assert len(text.encode()) <= 20 * 1024


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"since": "soon"}, "since: "),
        ({"since": "2999-01-01", "until": "2999-02-01"}, "since: 2999-01-01 is in the future"),
        ({"since": "2025-01-02", "until": "2025-01-01"}, "must be before until"),
        ({"since": "1970-01-01"}, "at most 530 weeks are shown"),
        ({"environment": "x" * 2001}, "more than 2000 characters"),
    ],
)
def test_a_filter_that_is_not_valid_is_refused_with_the_reason(
    history: Site, query: dict[str, str], message: str
) -> None:
    with history.client(VIEW_TOKEN) as client:
        refused = client.get("/dora.json", params=query)
        assert refused.status_code == 400
        assert message in refused.text


def test_a_span_without_deployments_says_so(history: Site) -> None:
    assert "No deployments." in page(history, since="2020-01-01", until="2020-02-01")


def test_without_a_login_there_are_no_figures(history: Site) -> None:
    with history.client() as client:
        assert client.get("/dora").status_code == 401
