"""What the readers of the platforms make of the bodies in tests/data/webhooks, and of any other JSON."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.deployments.systems.ci import fields, fields_of_resource
from agent.model.report import checked
from agent.model.status import Provider, parse_word
from agent.sources.webhooks.platforms import READERS, argocd
from agent.sources.webhooks.values import Ended, Ignored, Started
from tests.unit.test_systems import AZURE, AZURE_RELEASE, CIRCLECI
from tests.unit.webhook_cases import CASES, Case, delivery, hook
from tests.unit.webhooks_reference import PAGE, page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config.settings import Platform

EACH = pytest.mark.parametrize("case", CASES, ids=str)
OTHER_CI = Path(__file__).parents[2] / "other-ci"
ANY = {"name": "**", "environment": "any", "repo_url": "https://git.example.com/acme/any", "branch": "any"}
NOW = 1_800_000_000_000


@EACH
def test_a_body_means_what_the_documentation_of_the_platform_says(case: Case) -> None:
    if case.meaning is None:
        with pytest.raises(ValueError, match=r"^") as raised:
            READERS[case.platform](case.delivery, case.hook)
        assert str(raised.value) == case.error
    else:
        assert READERS[case.platform](case.delivery, case.hook) == case.meaning


@EACH
def test_what_a_reader_reports_is_a_valid_report(case: Case) -> None:
    """As ``emit`` and the intake check it, with a status that the provider knows."""
    if isinstance(case.meaning, Ended):
        report = case.meaning.report
        assert checked(dict(report)) == report
        assert parse_word(Provider(report["provider"]), report["status"])


# ---- the same ids as emit


def report_of(platform: Platform, file: str, **changes: Any) -> dict[str, str]:
    case = next(case for case in CASES if (case.platform, case.file) == (platform, file))
    found = READERS[platform](case.delivery, hook(platform, {"rules": [ANY], **changes}))
    assert isinstance(found, Ended)
    return dict(found.report)


def test_a_sync_of_argo_cd_has_the_run_that_emit_makes() -> None:
    for file in ("application.json", "application-with-several-sources.json"):
        case = next(case for case in CASES if case.file == file)
        assert report_of("argocd", file)["run"] == fields_of_resource("argocd", json.dumps(case.body))["run"]


@pytest.mark.parametrize("file", ["job-completed.json", "job-completed.gitlab.json"])
def test_a_job_of_circleci_has_the_run_that_emit_makes(file: str) -> None:
    """GitHub App and GitLab projects have no CIRCLE_PROJECT_USERNAME, as CircleCI documents it."""
    body = next(case.body for case in CASES if case.file == file)
    environment = CIRCLECI | {
        "CIRCLE_BUILD_NUM": str(body["job"]["number"]),
        "CIRCLE_PROJECT_ID": body["project"]["id"],
        "CIRCLE_PROJECT_USERNAME": "acme" if file == "job-completed.json" else "",
    }
    assert report_of("circleci", file)["run"] == fields("circleci", environment)["run"]


def test_a_deployment_of_a_release_has_the_run_that_emit_makes() -> None:
    first = report_of("azure_devops", "release-deployment-completed.json")
    again = report_of("azure_devops", "release-deployment-completed.with-deployment.json")
    assert first["run"] == fields("azure_devops", AZURE_RELEASE)["run"]
    assert again["run"] == fields("azure_devops", AZURE_RELEASE | {"RELEASE_ATTEMPTNUMBER": "2"})["run"]


def test_a_stage_has_the_run_that_emit_makes_but_for_the_job_which_the_event_does_not_name() -> None:
    """The project's name comes from ``projects``: the event has only its GUID."""
    found = report_of("azure_devops", "stage-state-changed.with-repositories.json", projects=["acme/Web Shop"])
    emitted = fields("azure_devops", AZURE)
    assert f"{found['run']}/{AZURE['SYSTEM_PHASENAME']}" == emitted["run"]
    assert fields("azure_devops", AZURE | {"SYSTEM_PHASENAME": ""})["run"] == found["run"]
    assert found["repo_url"] == emitted["repo_url"]


def test_a_build_has_the_run_that_emit_makes_in_a_pipeline_without_stages() -> None:
    found = report_of("azure_devops", "build-complete.2.0.json")
    emitted = fields("azure_devops", AZURE | {"SYSTEM_STAGENAME": "__default", "SYSTEM_PHASENAME": ""})
    for name in ("run", "job", "build_number", "repo_url", "branch", "commit_hash"):
        assert found[name] == emitted[name]


def test_the_organisation_of_an_older_address_is_the_one_that_emit_names() -> None:
    case = next(case for case in CASES if case.file == "run-state-changed.json")
    body = json.loads(json.dumps(case.body).replace("dev.azure.com/acme", "acme.visualstudio.com"))
    found = READERS["azure_devops"](delivery("azure_devops", body, NOW), hook("azure_devops", {"rules": [ANY]}))
    older = AZURE | {"SYSTEM_COLLECTIONURI": "https://acme.visualstudio.com/", "SYSTEM_STAGENAME": "__default"}
    emitted = fields("azure_devops", older | {"SYSTEM_PHASENAME": ""})["run"]
    assert isinstance(found, Ended)
    assert found.report["run"].partition("/")[0] == emitted.partition("/")[0] == "azure_devops:acme.visualstudio.com"


# ---- Argo CD: the order of what it sends


def test_a_health_from_before_the_sync_does_not_hide_the_one_after_it() -> None:
    """Seconds after the sync, Argo CD can still show the Healthy of before. Then the Application becomes Degraded."""
    case = next(case for case in CASES if case.file == "application.json")
    body = copy.deepcopy(case.body)
    body["status"]["health"] = {"status": "Healthy", "lastTransitionTime": "2026-11-22T16:12:00Z"}
    finished = case.received_at - 61_000
    early = READERS["argocd"](delivery("argocd", body, finished + 3_000), case.hook)
    body["status"]["health"] = {"status": "Degraded", "lastTransitionTime": "2026-11-23T09:02:41Z"}
    late = READERS["argocd"](delivery("argocd", body, finished + 12_000), case.hook)
    assert isinstance(early, Ignored)
    assert isinstance(late, Ended)
    assert late.report["status"] == "failed"


def test_the_degraded_of_before_does_not_make_a_repair_fail() -> None:
    case = next(case for case in CASES if case.file == "application.json")
    body = copy.deepcopy(case.body)
    body["status"]["health"] = {"status": "Degraded", "lastTransitionTime": "2026-11-22T16:12:00Z"}
    finished = case.received_at - 61_000
    assert isinstance(READERS["argocd"](delivery("argocd", body, finished + 3_000), case.hook), Ignored)


def test_a_clock_that_is_behind_that_of_argo_cd_loses_nothing() -> None:
    case = next(case for case in CASES if case.file == "application.json")
    body = copy.deepcopy(case.body)
    body["status"]["health"]["lastTransitionTime"] = "2026-11-22T16:12:00Z"
    assert isinstance(READERS["argocd"](delivery("argocd", body, case.received_at - 600_000), case.hook), Ended)


def test_a_rollback_and_a_second_sync_of_one_revision_are_deployments_of_their_own() -> None:
    case = next(case for case in CASES if case.file == "application.json")
    body = copy.deepcopy(case.body)
    body["status"]["operationState"] |= {"startedAt": "2026-11-23T11:00:00Z", "finishedAt": "2026-11-23T11:00:09Z"}
    body["status"]["operationState"]["operation"]["initiatedBy"] = {"username": "release"}
    again = READERS["argocd"](delivery("argocd", body, NOW), case.hook)
    assert isinstance(again, Ended)
    assert again.report["run"] != report_of("argocd", "application.json")["run"]


# ---- the templates that users paste


def template_of(file: str, name: str) -> str:
    """The body of a template of Argo's notifications in a file of ``other-ci``."""
    text = (OTHER_CI / file).read_text(encoding="utf-8")
    found = re.search(rf"^  template\.{name}: \|\n(?:    .*\n)*?        body: '(.*)'$", text, re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_template_for_argo_cd_makes_a_body_that_is_read() -> None:
    case = next(case for case in CASES if case.file == "application.json")
    body = template_of("argocd-notifications.yaml", "hivel").replace("{{ toJson .app }}", json.dumps(case.body))
    assert READERS["argocd"](delivery("argocd", json.loads(body), case.received_at), case.hook) == case.meaning


@pytest.mark.parametrize("event", ["completed", "aborted"])
def test_the_templates_for_argo_rollouts_make_bodies_that_are_read(event: str) -> None:
    case = next(case for case in CASES if case.file == f"{event}.json")
    template = template_of("argo-rollouts-notifications.yaml", f"hivel-{event}")
    body = json.loads(template.replace("{{ toJson .rollout }}", json.dumps(case.body["rollout"])))
    assert body == case.body


def test_the_trigger_for_argo_cd_sends_each_sync_once_and_waits_longer_than_the_agent() -> None:
    text = (OTHER_CI / "argocd-notifications.yaml").read_text(encoding="utf-8")
    conditions = re.findall(r"^      (when|oncePer|send): (.*)$", text, re.MULTILINE)
    assert [value for key, value in conditions if key == "oncePer"] == ["app.status.operationState.startedAt"] * 2
    (succeeded,) = [value for key, value in conditions if key == "when" and "'Succeeded'" in value]
    assert "time.Now().Sub(time.Parse(app.status.operationState.finishedAt)).Minutes() >= 1" in succeeded
    assert argocd.SETTLED_MS <= 30_000


# ---- any other JSON


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a document."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(each, (*path, key))


def replaced(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    body = copy.deepcopy(body)
    place = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return body


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20)
TELLING = st.sampled_from(
    ["Succeeded", "Degraded", "completed", "running", "0001-01-01T00:00:00", "9999-12-31T23:59:59-23:59", "re:(", "//["]
)
JSON = st.recursive(
    SCALARS | TELLING,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PLACES = [(case, path) for case in CASES for path in places(case.body)]


def assert_is_read_or_refused(case: Case, body: Any) -> None:
    """Either a meaning whose texts are texts, or a ValueError for people. Never another exception."""
    try:
        found = READERS[case.platform](delivery(case.platform, body, NOW, case.event), case.hook)
    except ValueError as error:
        assert type(error) is ValueError
        assert str(error)
    else:
        assert isinstance(found, Ended | Started | Ignored)
        if isinstance(found, Ended):
            assert all(text.strip() for text in found.report.values())
            assert {"provider", "run", "status"} <= set(found.report)


@given(st.sampled_from(PLACES), JSON)
def test_any_value_at_any_place_is_read_or_refused_with_words(place: tuple[Case, tuple[Any, ...]], value: Any) -> None:
    case, path = place
    assert_is_read_or_refused(case, replaced(case.body, path, value))


@given(st.sampled_from(CASES), JSON)
def test_any_json_is_read_or_refused_with_words(case: Case, body: Any) -> None:
    assert_is_read_or_refused(case, body)


@given(st.sampled_from([each for each in PLACES if isinstance(each[0].meaning, Ended)]), JSON)
def test_a_refused_body_is_told_with_the_place_of_the_wrong_value(
    place: tuple[Case, tuple[Any, ...]], value: Any
) -> None:
    case, path = place
    try:
        READERS[case.platform](delivery(case.platform, replaced(case.body, path, value), NOW, case.event), case.hook)
    except ValueError as error:
        named = str(error).partition(" ")[0].partition("[")[0].rstrip(":")
        assert named.split(".")[0] in {"the", "this", "kind", "metadata", "resource", *case.body}, str(error)


@given(st.permutations(CASES))
def test_a_delivery_means_the_same_whatever_came_before_it(order: list[Case]) -> None:
    """Readers keep nothing: no platform promises an order, and each repeats deliveries."""
    for case in (*order, *reversed(order)):
        if case.meaning is not None:
            assert READERS[case.platform](case.delivery, case.hook) == case.meaning


def test_the_page_of_the_documentation_shows_what_the_readers_do() -> None:
    """If it fails: ``python -m tests.unit.webhooks_reference``, and look at the difference."""
    assert PAGE.read_text(encoding="utf-8") == page()
