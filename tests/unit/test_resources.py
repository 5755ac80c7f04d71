"""What the JSON of Argo's resources tells of a deployment."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.deployments.systems.ci import fields_of_resource
from agent.model.status import WORDS, Provider, Status, normalise

SHA = "6dacad59e2225cb80021a8ec0f67c2f0fa6e87e2"
OLDER = "f913b6cbf58aa5ae5ca1f8a2b149477aebcbd9d8"
FIELDS = {"provider", "job", "run", "status", "repo_url", "branch", "commit_hash", "environment"} | {
    "image",
    "start_time",
    "end_time",
    "pr_number",
}


def application(**changes: Any) -> dict[str, Any]:
    """An Application as ``kubectl get application -o json`` shows it; changes are at paths with "__" for the dots."""
    resource: dict[str, Any] = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {
            "name": "shop",
            "namespace": "argocd",
            "uid": "d5b4a1c3-9f0c-4a39-b6c5-6a5f0a7c1f11",
            "labels": {"team": "web"},
        },
        "spec": {
            "destination": {"server": "https://kubernetes.default.svc", "namespace": "shop-production"},
            "project": "web",
            "source": {
                "path": "deploy",
                "repoURL": "https://bot:s3cret@git.example.com/acme/shop.git",
                "targetRevision": "main",
            },
        },
        "status": {
            "health": {"status": "Healthy"},
            "operationState": {
                "phase": "Succeeded",
                "startedAt": "2026-11-23T09:00:00Z",
                "finishedAt": "2026-11-23T09:02:30Z",
                "message": "successfully synced (all tasks run)",
                "syncResult": {"revision": OLDER},
            },
            "summary": {"images": ["registry.example.com/acme/shop:1.4.2"]},
            "sync": {"status": "OutOfSync", "revision": SHA},
        },
    }
    return changed(resource, changes)


def workflow(**changes: Any) -> dict[str, Any]:
    resource: dict[str, Any] = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {
            "name": "deploy-shop-x7k2p",
            "generateName": "deploy-shop-",
            "namespace": "ci",
            "uid": "0b9c1f0e-6f1d-4c38-9a55-6d2f1c6d8a10",
            "labels": {
                "workflows.argoproj.io/completed": "true",
                "workflows.argoproj.io/phase": "Succeeded",
                "workflows.argoproj.io/workflow-template": "deploy-shop",
            },
        },
        "spec": {
            "arguments": {
                "parameters": [
                    {"name": "repo", "value": "https://bot:s3cret@git.example.com/acme/shop.git"},
                    {"name": "git-branch", "value": "refs/heads/main"},
                    {"name": "revision", "value": SHA},
                    {"name": "environment", "value": "production"},
                    {"name": "image", "value": "registry.example.com/acme/shop:1.4.2"},
                    {"name": "pr-number", "value": "71"},
                    {"name": "message", "value": "hello"},
                ]
            },
            "workflowTemplateRef": {"name": "deploy-shop"},
        },
        "status": {
            "phase": "Succeeded",
            "startedAt": "2026-11-23T09:00:00Z",
            "finishedAt": "2026-11-23T09:02:30Z",
            "progress": "2/2",
        },
    }
    return changed(resource, changes)


def changed(resource: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = resource
        for name in parents:
            place = place[name]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return resource


def of(system: str, resource: object) -> dict[str, str]:
    return fields_of_resource(system, json.dumps(resource))


def test_the_fields_of_an_application_of_argo_cd() -> None:
    """The commit is the one that was deployed, not the newer one that waits to be."""
    assert of("argocd", application()) == {
        "provider": "argocd",
        "job": "shop",
        "run": "argocd:argocd/shop#2026-11-23T09:00:00Z",
        "status": "success",
        "repo_url": "https://git.example.com/acme/shop.git",
        "branch": "main",
        "commit_hash": OLDER,
        "environment": "shop-production",
        "image": "registry.example.com/acme/shop:1.4.2",
        "start_time": "2026-11-23T09:00:00Z",
        "end_time": "2026-11-23T09:02:30Z",
    }


@pytest.mark.parametrize(
    ("phase", "health", "status"),
    [
        ("Succeeded", "Healthy", "success"),
        ("Failed", "Healthy", "failed"),
        ("Error", "Healthy", "failed"),
        ("Succeeded", "Degraded", "failed"),
        ("Running", "Healthy", "unknown"),
        ("Succeeded", "Progressing", "unknown"),
        ("Succeeded", "Missing", "unknown"),
        ("Succeeded", "Suspended", "unknown"),
    ],
)
def test_phase_and_health_of_argo_cd_make_one_status(phase: str, health: str, status: str) -> None:
    found = of("argocd", application(status__operationState__phase=phase, status__health__status=health))
    assert found["status"] == status == Status(status)


def test_an_application_that_was_never_synced_tells_no_run_and_no_times() -> None:
    found = of("argocd", application(status__operationState=None, status__health=None))
    assert not {"run", "status", "start_time", "end_time"} & set(found)
    assert found["commit_hash"] == SHA


def test_two_syncs_of_one_revision_are_two_runs() -> None:
    again = application(status__operationState__startedAt="2026-11-23T11:00:00Z")
    assert of("argocd", again)["run"] != of("argocd", application())["run"]


@pytest.mark.parametrize(
    ("destination", "environment"),
    [
        ({"name": "production", "namespace": "shop"}, "production"),
        ({"name": "in-cluster", "namespace": "shop"}, "shop"),
        ({"server": "https://kubernetes.default.svc"}, None),
    ],
)
def test_the_environment_of_an_application(destination: dict[str, str], environment: str | None) -> None:
    assert of("argocd", application(spec__destination=destination)).get("environment") == environment


def test_an_application_of_several_sources_is_that_of_its_git_repository() -> None:
    sources = [
        {"chart": "nginx", "repoURL": "https://charts.example.com", "targetRevision": "15.9.0"},
        {"ref": "values", "repoURL": "https://git.example.com/acme/values.git", "targetRevision": "main"},
        {"path": "deploy", "repoURL": "https://git.example.com/acme/shop.git", "targetRevision": "release"},
    ]
    several = application(
        spec__source=None,
        spec__sources=sources,
        status__operationState__syncResult={"revisions": ["15.9.0", OLDER, SHA]},
    )
    found = of("argocd", several)
    assert found["repo_url"] == "https://git.example.com/acme/shop.git"
    assert (found["branch"], found["commit_hash"]) == ("release", SHA)


def test_the_version_of_a_chart_is_neither_branch_nor_commit() -> None:
    chart = {"chart": "shop", "repoURL": "https://charts.example.com", "targetRevision": "1.4.2"}
    found = of("argocd", application(spec__source=chart, status__operationState__syncResult={"revision": "1.4.2"}))
    assert found["repo_url"] == "https://charts.example.com"
    assert not {"branch", "commit_hash"} & set(found)


@pytest.mark.parametrize("images", [None, [], ["a", "b"]])
def test_of_several_images_none_is_the_image(images: list[object] | None) -> None:
    assert "image" not in of("argocd", application(status__summary__images=images))


def test_the_fields_of_a_workflow_of_argo() -> None:
    assert of("argo_workflows", workflow()) == {
        "provider": "argo_workflows",
        "job": "deploy-shop",
        "run": "argo_workflows:ci/deploy-shop-x7k2p#0b9c1f0e-6f1d-4c38-9a55-6d2f1c6d8a10@2026-11-23T09:00:00Z",
        "status": "Succeeded",
        "repo_url": "https://git.example.com/acme/shop.git",
        "branch": "main",
        "commit_hash": SHA,
        "environment": "production",
        "image": "registry.example.com/acme/shop:1.4.2",
        "start_time": "2026-11-23T09:00:00Z",
        "end_time": "2026-11-23T09:02:30Z",
        "pr_number": "71",
    }


@pytest.mark.parametrize(("word", "status"), WORDS[Provider.ARGO_WORKFLOWS].items())
def test_every_phase_of_a_workflow_means_what_the_page_says(word: str, status: Status) -> None:
    found = of("argo_workflows", workflow(status__phase=word.capitalize()))
    assert normalise(Provider.ARGO_WORKFLOWS, found["status"]) is status


def test_a_workflow_that_is_tried_again_is_another_run() -> None:
    again = workflow(status__startedAt="2026-11-23T11:00:00Z")
    assert of("argo_workflows", again)["run"] != of("argo_workflows", workflow())["run"]


def test_a_workflow_without_template_and_parameters() -> None:
    bare = workflow(metadata__labels=None, spec__arguments=None)
    found = of("argo_workflows", bare)
    assert found["job"] == "deploy-shop-x7k2p"
    assert not {"repo_url", "branch", "commit_hash", "environment", "image", "pr_number"} & set(found)


@pytest.mark.parametrize(
    ("revision", "branch", "commit"),
    [
        (SHA, None, SHA),
        (SHA[:8], None, SHA[:8]),
        ("main", "main", None),
        ("v1.0.0", "v1.0.0", None),
        ("HEAD",) + (None,) * 2,
    ],
)
def test_the_revision_of_a_workflow_is_a_branch_or_a_commit(
    revision: str, branch: str | None, commit: str | None
) -> None:
    parameters = [{"name": "revision", "value": revision}]
    found = of("argo_workflows", workflow(spec__arguments={"parameters": parameters}))
    assert (found.get("branch"), found.get("commit_hash")) == (branch, commit)


def test_what_is_given_to_a_workflow_counts_before_its_templates_own_values() -> None:
    stored = {"arguments": {"parameters": [{"name": "environment", "value": "dev"}, {"name": "image", "value": "x:1"}]}}
    given_values = {"parameters": [{"name": "environment", "value": "production"}, {"name": "image"}]}
    resource = workflow(spec__arguments=given_values)
    resource["status"]["storedWorkflowTemplateSpec"] = stored
    assert of("argo_workflows", resource)["environment"] == "production"


def test_numbers_as_parameters_are_text() -> None:
    parameters = [{"name": "pr_number", "value": 71}, {"name": "image", "value": 1.5}, {"name": "env", "value": True}]
    found = of("argo_workflows", workflow(spec__arguments={"parameters": parameters}))
    assert (found["pr_number"], found["image"], found["environment"]) == ("71", "1.5", "true")


@pytest.mark.parametrize(
    ("system", "text", "message"),
    [
        ("argocd", "", "this is not the JSON of one Application: it is empty"),
        ("argocd", "apiVersion: argoproj.io/v1alpha1", "this is not the JSON of one Application: Expecting value"),
        ("argocd", "{} {}", "this is not the JSON of one Application: Extra data"),
        ("argo_workflows", "[" * 100_000, "this is not the JSON of one Workflow: it is nested too deeply"),
        ("argo_workflows", "[]", "the JSON is a list, not an object"),
        ("argo_workflows", "null", "this is not the JSON of one Workflow: it has no metadata.name"),
        ("argo_workflows", "7", "the JSON is a number, not an object"),
        ("argocd", "{}", "this is not the JSON of one Application: it has no metadata.name"),
        ("argocd", json.dumps(workflow()), "this is not the JSON of one Application: its kind is 'Workflow'"),
        (
            "argo_workflows",
            json.dumps(application()),
            "the JSON of one Workflow: its kind is 'Application'",
        ),
        ("argocd", json.dumps({"kind": "List", "items": []}), "not the JSON of one Application: its kind is 'List'"),
        ("argocd", json.dumps(application(metadata=7)), "metadata is a number, not an object"),
        ("argocd", json.dumps(application(spec__source="x")), "spec.source is text, not an object"),
        ("argocd", json.dumps(application(spec__source__repoURL=[])), "spec.source.repoURL is a list, not text"),
        ("argocd", json.dumps(application(spec__sources={})), "spec.sources is an object, not a list"),
        ("argocd", json.dumps(application(spec__sources=[7])), "spec.sources[0] is a number, not an object"),
        ("argocd", json.dumps(application(status__health__status=True)), "status.health.status is true or false"),
        ("argo_workflows", json.dumps(workflow(metadata__labels=[])), "metadata.labels is a list, not an object"),
        (
            "argo_workflows",
            json.dumps(workflow(spec__arguments={"parameters": 7})),
            "spec.arguments.parameters is a number, not a list",
        ),
        (
            "argo_workflows",
            json.dumps(workflow(spec__arguments={"parameters": [{"name": "image", "value": {}}]})),
            "spec.arguments.parameters[0].value is an object, not text",
        ),
        ("jenkins", "{}", "the JSON of a resource can be read for argocd and argo_workflows only, not for jenkins"),
    ],
)
def test_a_resource_that_is_none_is_refused_in_words(system: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^[a-zA-Z].*[^.]$") as refused:
        fields_of_resource(system, text)
    assert message in str(refused.value)


@pytest.mark.parametrize("system", ["argocd", "argo_workflows"])
def test_a_resource_as_argos_own_command_line_prints_it_has_no_kind(system: str) -> None:
    resource = application() if system == "argocd" else workflow()
    whole = of(system, resource)
    del resource["kind"], resource["apiVersion"]
    assert of(system, resource) == whole


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "value", "parameters", "status", "revision", "revisions", "repoURL", "chart"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
PATHS = sorted(
    {
        "metadata",
        "metadata__namespace",
        "metadata__labels",
        "spec",
        "spec__source",
        "spec__sources",
        "spec__destination",
        "spec__arguments",
        "status",
        "status__health",
        "status__operationState",
        "status__operationState__syncResult",
        "status__summary",
        "status__sync",
        "status__phase",
        "status__startedAt",
        "status__storedWorkflowTemplateSpec",
    }
)


@given(st.sampled_from(["argocd", "argo_workflows"]), st.sampled_from(PATHS), JSON)
def test_any_resource_gives_text_or_a_value_error(system: str, path: str, value: object) -> None:
    resource = application() if system == "argocd" else workflow()
    *parents, last = path.split("__")
    place = resource
    for name in parents:
        place = place.setdefault(name, {})
    place[last] = value
    try:
        found = of(system, resource)
    except ValueError as error:
        assert type(error) is ValueError  # words of our own, not those of a decoder or an encoder
        return
    assert set(found) <= FIELDS
    for text in found.values():
        assert text.strip()
        assert text.encode()
