"""``/deployments`` and the page of one deployment, of a daemon that read them from a Jenkins."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import pytest

from agent.sandbox.hivel import LocalHivel
from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer
from tests.integration.support import wait_until
from tests.web.conftest import PASSWORD, TOKEN, VIEW_PASSWORD, VIEW_TOKEN, Site, configured, running

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO = "https://github.example.test/acme/shop.git"
BUILDS = 60
HOSTILE = "<img src=x onerror=alert(1)>"
BIDI = "gnp\u202efdp"


def _builds(jenkins: LocalJenkins) -> None:
    jenkins.add_job("deploy/shop")
    jenkins.add_builds(
        "deploy/shop", BUILDS, parameters={"ENVIRONMENT": "production", "NOTE": "s3cret-note"}, repo=REPO
    )
    jenkins.add_job("deploy/broken")
    jenkins.add_builds("deploy/broken", 2)  # without a repository no event can be made
    for job in (f"x/{HOSTILE}", "x/=cmd|' /C calc'!A1", f"x/{BIDI}", "x/" + "n" * 250):
        jenkins.add_job(job)
        jenkins.add_builds(job, 1, parameters={"ENVIRONMENT": "staging"}, repo=REPO)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """All builds are read and all events are settled; the tests change nothing."""
    jenkins, hivel = LocalJenkins(), LocalHivel()
    _builds(jenkins)
    with (
        LocalServer(jenkins.app) as jenkins_server,
        LocalServer(hivel.app) as hivel_server,
        running(configured(tmp_path_factory.mktemp("played"), jenkins_server, hivel_server)) as site,
        site.client(TOKEN) as client,
    ):
        wanted = {"pending": 0, "held": 0, "delivered": BUILDS + 4, "failed": 2, "discarded": 0}
        wait_until(lambda: client.get("/now.json").json()["counts"] == wanted, "everything is settled")
        yield site
    hivel.close()


def found(site: Site, query: str = "") -> Any:
    with site.client(VIEW_TOKEN) as client:
        answer = client.get(f"/deployments.json{query}")
        assert answer.status_code == 200, answer.text
        return answer.json()


# ---- the list


def test_pages_lead_through_all_deployments_and_back(played: Site) -> None:
    query, seen, pages = "", [], []
    while True:
        page = found(played, query)
        seen += [each["id"] for each in page["deployments"]]
        pages.append(page["deployments"])
        if page["older"] is None:
            break
        query = f"?before={page['older']}"
    assert seen == sorted(seen, reverse=True) and len(set(seen)) == BUILDS + 6
    assert found(played, f"?after={page['newer']}")["deployments"] == pages[-2]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("state=failed", 2),
        ("state=failed&state=delivered", BUILDS + 6),
        ("environment=staging", 4),
        ("environment=nowhere", 0),
        (f"repo={REPO}", BUILDS + 4),
        ("controller=main", BUILDS + 6),
        ("controller=other", 0),
        ("job=deploy/shop", BUILDS),
        ("job=deploy/**", BUILDS + 2),
        ("status=failed", 0),
        ("status=success&job=deploy/shop", BUILDS),
        ("since=1d", BUILDS + 6),
        ("until=2020-01-01", 0),
        ("text=main:deploy/br", 2),
        ("text=deploy/br", 2),
        ("environment=&job=", BUILDS + 6),
    ],
)
def test_each_filter_of_the_address_selects(played: Site, query: str, count: int) -> None:
    page = found(played, f"?{query}")
    assert (page["count"], page["more"]) == (count, False)
    assert len(page["deployments"]) == min(count, 25)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("state=lost", "state: 'lost' does not exist; use one of held, pending, delivered, failed, discarded"),
        ("status=green", "status: 'green' does not exist"),
        ("since=7", "the unit is missing: 7s, 7m, 7h or 7d"),
        ("since=2026-01-31&until=2026-01-30", "nothing is in between"),
        ("job=deploy/*/x", "job: use the full name of a job, or a folder and /**"),
        ("before=abc", "before: 'abc' is not the number of a deployment"),
        ("before=99999999999999999999", "is not the number of a deployment"),
        ("limit=1001", "limit: at most 1,000 deployments fit on a page"),
        ("reason=HTTP+400", "reason: only none is possible"),
        ("text=" + "x" * 2001, "text: the value has more than 2000 characters"),
    ],
)
def test_a_filter_that_is_not_valid_is_refused_with_the_reason(played: Site, query: str, words: str) -> None:
    with played.client(VIEW_TOKEN) as client:
        answer = client.get(f"/deployments.json?{query}")
        assert answer.status_code == 400
        assert words in answer.text


def test_the_csv_form_has_the_same_rows_and_no_formulas(played: Site) -> None:
    with played.client(VIEW_TOKEN) as client:
        text = client.get("/deployments.csv?environment=staging").text
    header, *rows = csv.reader(io.StringIO(text))
    assert header[:3] == ["id", "state", "deployment_id"]
    assert [int(row[0]) for row in rows] == [
        each["id"] for each in found(played, "?environment=staging")["deployments"]
    ]
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]
    assert "\u202e" not in text


@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_link_leads_from_each_part_of_a_list_to_the_next_one(played: Site, form: str) -> None:
    """As RFC 8288 says, with the same filters, until there is no more."""
    numbers: list[int] = []
    address: str | None = f"/deployments.{form}?limit=25&environment=production&repo={REPO}"
    with played.client(VIEW_TOKEN) as client:
        while address is not None:
            answer = client.get(address)
            if form == "csv":
                numbers += [int(row["id"]) for row in csv.DictReader(io.StringIO(answer.text))]
            else:
                numbers += [each["id"] for each in answer.json()["deployments"]]
            address = answer.links["next"]["url"] if "next" in answer.links else None
            assert address is None or address.startswith(f"/deployments.{form}?before={numbers[-1]}&limit=25&")
    assert len(numbers) == len(set(numbers)) == BUILDS


def test_names_from_jenkins_are_text_on_every_page(played: Site) -> None:
    with played.logged_in(PASSWORD) as client:
        addresses = ["/deployments?environment=staging"]
        addresses += [f"/deployments/{each['id']}" for each in found(played, "?environment=staging")["deployments"]]
        texts = [client.get(address).text for address in addresses]
    assert len(texts) == 5
    assert "&lt;img src=x onerror=alert(1)&gt;" in texts[0]
    for text in texts:
        assert "<img" not in text
        assert "\u202e" not in text
        assert 'href="javascript' not in text


def test_a_filter_is_text_in_the_page_that_shows_it(played: Site) -> None:
    with played.logged_in(VIEW_PASSWORD) as client:
        page = client.get(
            "/deployments", params={"text": '"><img src=x onerror=alert(1)>', "job": "javascript:alert(1)"}
        )
    assert page.status_code == 200
    assert "<img" not in page.text


def test_a_full_page_is_at_most_20_kb(played: Site) -> None:
    with played.logged_in(PASSWORD) as client:
        page = client.get("/deployments")
        assert len(page.content) <= 20 * 1024


@pytest.mark.parametrize("path", ["/deployments", "/deployments/1"])
def test_rows_need_a_login(played: Site, path: str) -> None:
    with played.client() as client:
        page = client.get(path)
        assert page.status_code == 401
        assert "deploy/shop" not in page.text
        for form in (".json", ".csv"):
            assert client.get(path + form).status_code == 401


# ---- one deployment


def one(site: Site, token: str, query: str) -> Any:
    number = found(site, query)["deployments"][0]["id"]
    with site.client(token) as client:
        return client.get(f"/deployments/{number}.json").json()


def test_a_deployment_shows_every_field_with_its_origin(played: Site) -> None:
    shown = one(played, TOKEN, "?job=deploy/shop")
    fields = {each["name"]: each for each in shown["fields"]}
    assert fields["environment"]["value"] == "production"
    assert fields["environment"]["origin"] == "parameter ENVIRONMENT"
    assert fields["repo_url"]["value"] == REPO
    assert all(each["origin"] for each in fields.values())
    assert shown["payload"].startswith('{"deployment_id":"main:deploy/shop#')


def test_its_timeline_leads_from_the_build_to_hivel(played: Site) -> None:
    steps = [each["what"] for each in one(played, TOKEN, "?job=deploy/shop")["timeline"]]
    assert steps == ["build started", "build ended", "found by poller", "enqueued", "delivered"]


def test_values_of_parameters_are_only_for_those_who_may_act(played: Site) -> None:
    number = found(played, "?job=deploy/shop")["deployments"][0]["id"]
    for form in ("", ".json", ".csv"):
        with played.logged_in(VIEW_PASSWORD) as viewer, played.logged_in(PASSWORD) as operator:
            assert "s3cret-note" not in viewer.get(f"/deployments/{number}{form}").text
            assert ("s3cret-note" in operator.get(f"/deployments/{number}{form}").text) == (form != ".csv")


def test_a_deployment_without_an_event_says_why(played: Site) -> None:
    with played.logged_in() as client:
        number = found(played, "?state=failed")["deployments"][0]["id"]
        page = client.get(f"/deployments/{number}").text
    assert "no repo_url" in page
    assert "The agent cannot create this event." in page


@pytest.mark.parametrize("number", ["0", "999999", "99999999999999999999999"])
def test_a_number_that_no_deployment_has_is_not_found(played: Site, number: str) -> None:
    with played.client(TOKEN) as client:
        assert client.get(f"/deployments/{number}.json").status_code == 404
