"""What doors make of a report before anything is stored: which run it is of, and what is refused with words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.settings import JenkinsSettings, controller_of
from agent.deployments.urls import https_form
from agent.model.fact import Report
from agent.model.keys import Project, Run, jenkins_run, run_of_id
from agent.model.names import build_of_url
from agent.model.report import (
    FIELDS,
    LONGEST_TEXT,
    LONGEST_URL,
    TEXTS,
    URLS,
    ReportError,
    UnknownWordError,
    checked,
    decode,
)
from agent.model.status import Provider, known_words
from agent.sources.reports.parse import Parsed, parse

NOON = 1_795_435_200_000  # 2026-11-23T12:00:00Z
# Each of these was met by a daemon, raised where nobody expected it, and stopped everything until a person came.
NO_URLS = [
    "https://[your-jenkins]/job/a/2/",
    "https://[::1/job/a/2/",
    "https://::1]/job/a/2/",
    "http://[v1.x/job/a/2/",
    "https://[jenkins.example.com]:8080/job/a/2/",
    "https://jenkins℀example/job/a/2/",
]


def jenkins(name: str, url: str) -> JenkinsSettings:
    return JenkinsSettings(name, url, None, None, 15_000, "now", 5_000)


MAIN = jenkins("main", "https://jenkins.example.test/")
WEST = jenkins("west", "https://west.example.test/jenkins/")


def parsed(*controllers: JenkinsSettings, **report: Any) -> Parsed:
    return parse(checked(report), controllers or (MAIN,))


# ---- which controller


@pytest.mark.parametrize("reverse", [False, True])
def test_a_jenkins_below_the_path_of_another_one_is_not_taken_for_it(reverse: bool) -> None:
    outer, inner = jenkins("outer", "https://ci.example.test/"), jenkins("inner", "https://ci.example.test/team/")
    controllers = (inner, outer) if reverse else (outer, inner)
    assert controller_of(controllers, "https://ci.example.test/team/job/a/2/") is inner
    assert controller_of(controllers, "https://ci.example.test/job/team/2/") is outer
    assert parsed(*controllers, build_url="https://ci.example.test/team/job/a/2/").controller == "inner"


def test_two_jenkins_on_one_host_are_told_apart_by_their_ports() -> None:
    one, two = jenkins("one", "https://ci.example.test/"), jenkins("two", "https://ci.example.test:8443/")
    assert controller_of((one, two), "https://ci.example.test:8443/job/a/2/") is two
    assert controller_of((one, two), "https://ci.example.test:443/job/a/2/") is one
    assert controller_of((one, two), "http://ci.example.test:8080/job/a/2/") is None


# ---- what is refused


@pytest.mark.parametrize("url", NO_URLS)
@pytest.mark.parametrize("field", URLS)
def test_a_url_that_nobody_can_take_apart_is_refused_with_its_name(field: str, url: str) -> None:
    with pytest.raises(ReportError, match=f"^{field}: .* is not a URL: ") as raised:
        checked({"job": "a", "build_number": 2, field: url})
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize("url", NO_URLS)
def test_such_a_url_raises_nowhere_else_either(url: str) -> None:
    assert controller_of((MAIN, WEST), url) is None
    assert build_of_url(url) is None
    assert https_form(url)


@pytest.mark.parametrize(
    "url",
    ["https://[::1]:8080/job/a/2/", "https://[2001:db8::7]/job/a/2/", "https://jenkins.example.test/job/größe/2/",
     "https://jenkins.example.test/job/a[1]/2/", "git@git.example.test:acme/shop.git", "C:\\repositories\\shop"],
)  # fmt: skip
def test_what_only_looks_unusual_is_taken(url: str) -> None:
    assert checked({"repo_url": url}) == {"repo_url": url}


@pytest.mark.parametrize("field", TEXTS)
def test_a_text_that_is_too_long_is_refused_before_anything_reads_it(field: str) -> None:
    longest = LONGEST_URL if field in URLS else LONGEST_TEXT
    with pytest.raises(ReportError, match=rf"^{field}: 'x+'… has {longest + 1} characters; the maximum is {longest}$"):
        checked({field: "x" * (longest + 1)})
    if field != "event_type":
        assert checked({field: "x" * longest + " "}) == {field: "x" * longest}


@pytest.mark.parametrize(
    ("report", "complaint"),
    [
        ({"start_time": "9" * 400}, "start_time: '9999999999999999999999999999999999999999'… has 400 characters"),
        ({"end_time": 10**200}, "end_time: '1000000000000000000000000000000000000000'… has 201 characters"),
        ({"pr_number": 12345678901}, "pr_number: 12345678901 has 11 digits; the maximum is 10"),
        ({"build_number": "1" * 101}, "build_number: '1111111111111111111111111111111111111111'… has 101 characters"),
        ({"job": "a", "build_number": 12345678901}, "build_number: '12345678901' is not a build number"),
        ({"job": "a", "build_number": "٣"}, "build_number: '٣' is not a build number"),
        ({"job": "a/../b", "build_number": 1}, "job: 'a/../b' is not the full name of a job"),
        ({"build_url": "https://jenkins.example.test/job/a/", "job": "a"}, "build_number: '' is not a build number"),
    ],
)
def test_numbers_and_names_of_another_shape_are_refused(report: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ReportError) as raised:
        parsed(**report)
    assert str(raised.value).startswith(complaint)


def test_a_number_of_another_system_may_have_more_digits() -> None:
    told = parsed(provider="gitlab_ci", run="gitlab_ci:acme/shop#12345678901", build_number="12345678901")
    assert told.said.build_number == "12345678901"


@pytest.mark.parametrize("url", ["https://user:secret@git.example.test/a", "https://user:secret@[x]/job/a/2/"])
@pytest.mark.parametrize("field", URLS)
def test_credentials_stay_neither_in_what_is_stored_nor_in_what_is_said(field: str, url: str) -> None:
    try:
        assert checked({field: url}) == {field: "https://git.example.test/a"}
    except ReportError as error:
        assert "secret" not in str(error)


VALUES = st.one_of(st.text(), st.integers(), st.floats(), st.none())


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6))
def test_a_report_is_understood_or_refused_and_nothing_else_is_raised(report: dict[str, Any]) -> None:
    try:
        told = parsed(MAIN, WEST, **report)
    except ReportError as error:
        assert str(error)
    else:
        assert told.run.number


@given(st.binary(max_size=40))
def test_bytes_are_a_report_or_refused(body: bytes) -> None:
    try:
        decode(body)
    except ReportError as error:
        assert str(error)


# ---- which run it is of


@pytest.mark.parametrize(
    ("report", "run", "controller"),
    [
        ({"job": "deploy/shop", "build_number": "007"}, jenkins_run("main", "deploy/shop", 7), "main"),
        ({"build_url": f"{MAIN.url}job/deploy/job/shop/7/"}, jenkins_run("main", "deploy/shop", 7), "main"),
        ({"build_url": f"{WEST.url}job/deploy/7/"}, jenkins_run("west", "deploy", 7), "west"),
        ({"build_url": f"{WEST.url}job/deploy/7/", "controller": "main"}, jenkins_run("main", "deploy", 7), "main"),
        ({"job": "a", "build_number": 7, "controller": "far"}, jenkins_run("far", "a", 7), None),
        (
            {"build_url": "https://user:pw@else.test:8080/job/a/7/"},
            jenkins_run("else.test:8080", "a", 7),
            None,
        ),
        ({"job": "a", "build_number": 7}, jenkins_run("jenkins", "a", 7), None),
    ],
)
def test_a_build_of_jenkins_is_named_by_controller_job_and_number(
    report: dict[str, Any], run: Run, controller: str | None
) -> None:
    controllers = (MAIN,) if report == {"job": "deploy/shop", "build_number": "007"} else (MAIN, WEST)
    told = parsed(*controllers, **report)
    assert (told.run, told.controller) == (run, controller)


def test_a_run_of_another_system_is_named_by_its_text_of_which_nothing_is_read() -> None:
    told = parsed(provider="GitLab_CI", run="gitlab_ci:acme/shop#7", job="deploy", build_number="7")
    assert told.run == Run(Project("gitlab_ci", "", ""), "gitlab_ci:acme/shop#7")
    assert parsed(run="x").run == Run(Project("other", "", ""), "x")


def test_a_given_id_is_a_key_of_its_own() -> None:
    for more in ({}, {"provider": "jenkins"}, {"job": "a", "build_number": "7"}, {"run": "x"}):
        told = parsed(deployment_id="shop-7", **more)
        assert (told.run, told.controller) == (run_of_id("shop-7"), None)


@pytest.mark.parametrize(
    "given_id",
    ["main:deploy/shop#7", "main:deploy/shop#7:eu", "main:deploy/shop#7:eu:Deploy", "main:deploy/shop#7:Deploy"],
)
def test_who_gives_the_id_that_is_made_of_the_same_report_asks_for_nothing_else(given_id: str) -> None:
    build = {"job": "deploy/shop", "build_number": "7", "environment": "eu", "stage": "Deploy"}
    told = parsed(deployment_id=given_id, **build)
    assert told == parsed(**build)
    assert parsed(deployment_id=given_id.replace("#7", "#8"), **build).run == run_of_id(given_id.replace("#7", "#8"))


def test_nothing_that_names_a_run_is_refused() -> None:
    with pytest.raises(ReportError, match="deployment_id: the report does not identify a deployment"):
        parsed()
    with pytest.raises(ReportError, match="job: the report does not identify a build"):
        parsed(provider="jenkins", run="x")
    with pytest.raises(ReportError, match="provider: 'cvs' is not a known provider"):
        parsed(provider="cvs", run="x")


# ---- what it says


@pytest.mark.parametrize(
    "moment",
    ["2026-11-23T12:00:00Z", "2026-11-23T13:00:00+01:00", "2026-11-23T12:00:00", "2026-11-23 12:00:00.000Z",
     "1795435200", "1795435200000", "1795435200.0", 1795435200, 1795435200000, "Mon, 23 Nov 2026 12:00:00 GMT",
     "Mon, 23 Nov 2026 13:00:00 +0100", "Mon, 23 Nov 2026 12:00:00", "Mon, 23 Nov 2026 12:00:00 -0000"],
)  # fmt: skip
def test_times_are_read_in_every_form_of_hivels_page_and_without_a_zone_they_are_utc(
    moment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        told = parsed(run="x", start_time=moment, end_time=moment)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (told.said.started_at, told.said.ended_at) == (NOON, NOON)


@pytest.mark.parametrize(
    "moment",
    ["yesterday", "99999999999999999999", "1e5", "0001-01-01T00:00:00+23:59", "Mon, 1", "1e300", "inf", "-9" * 20,
     "9999-12-31T23:59:59-23:59", "12:00"],
)  # fmt: skip
def test_a_time_that_is_none_or_out_of_range_is_refused(moment: str) -> None:
    with pytest.raises(ReportError, match=r"^start_time: '.*' is not a time; write it like"):
        parsed(run="x", start_time=moment)


def test_everything_that_is_said_is_in_the_fact() -> None:
    told = parsed(
        provider="jenkins", job="a", build_number="7", build_url=f"{MAIN.url}job/a/7/", status=" Unstable ", stage="S",
        environment="eu", repo_url="https://user:pw@git.example.test/a", branch="origin/main", commit_hash="abc",
        image="i:1", logs_url="https://logs.example.test/7", pr_number=9, pr_numbers=[9, 11, 9],
    )  # fmt: skip
    assert told.said == Report(
        provider="jenkins", status="Unstable", stage="S", environment="eu", repo_url="https://git.example.test/a",
        branch="origin/main", commit_hash="abc", image="i:1", logs_url="https://logs.example.test/7", pr_number="9",
        pr_numbers=(9, 11), build_number="7", url=f"{MAIN.url}job/a/7/",
    )  # fmt: skip


# ---- the word of a status


@pytest.mark.parametrize("provider", [provider for provider in Provider if provider is not Provider.OTHER])
def test_a_word_that_the_provider_has_not_is_refused_with_those_that_it_has(provider: Provider) -> None:
    expected = rf"^status: 'sucess' is not a status of {provider}; use one of "
    with pytest.raises(UnknownWordError, match=expected) as raised:
        parsed(provider=provider.value, job="a", build_number="7", run="7", status="sucess")
    assert ", ".join(known_words(provider)) in str(raised.value)


def test_of_any_other_system_every_word_is_taken() -> None:
    assert parsed(run="7", status="sucess").said.status == "sucess"


@pytest.mark.parametrize("word", ["SUCCESS", "success", "FAILURE", "Unstable", "aborted", "NOT_BUILT", "failed", None])
def test_jenkins_own_words_and_hivels_are_taken_of_a_build_in_any_case(word: str | None) -> None:
    assert parsed(job="a", build_number="7", status=word).said.status == word


# ---- what somebody wrote down


def test_a_report_says_which_of_its_fields_somebody_wrote_down() -> None:
    said = parsed(job="deploy/shop", build_number="7", repo_url="https://x.test/y", branch="main", given=["repo_url"])
    assert said.said.given == ("repo_url",)


def test_a_field_that_is_not_there_cannot_have_been_written_down() -> None:
    assert parsed(job="deploy/shop", build_number="7", given=["repo_url"]).said.given == ()


@pytest.mark.parametrize("given_names", ["repo_url", ["nothing"], [7], {"repo_url": True}])
def test_what_was_written_down_is_a_list_of_names_of_fields(given_names: object) -> None:
    with pytest.raises(ReportError, match="given: a list of field names is expected"):
        checked({"job": "deploy/shop", "build_number": "7", "given": given_names})
