"""What the environments of CI systems tell of a deployment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.deployments.systems.ci import fields, recognise
from agent.model.status import WORDS, Provider, Status, normalise

ROOT = Path(__file__).parents[2]
SHA = "6dacad59e2225cb80021a8ec0f67c2f0fa6e87e2"
KEYS = {
    "provider",
    "controller",
    "job",
    "build_url",
    "build_number",
    "run",
    "status",
    "repo_url",
    "branch",
    "commit_hash",
    "environment",
    "image",
    "logs_url",
    "start_time",
    "end_time",
    "pr_number",
    "stage",
}

# ---- one environment for each system, as its vendor documents it

JENKINS = {
    "BUILD_DISPLAY_NAME": "#12",
    "BUILD_ID": "12",
    "BUILD_NUMBER": "12",
    "BUILD_TAG": "jenkins-deploy-shop-12",
    "BUILD_URL": "https://jenkins.example.com/job/deploy/job/shop/12/",
    "CI": "true",
    "ENVIRONMENT": "production",
    "EXECUTOR_NUMBER": "1",
    "GIT_BRANCH": "origin/main",
    "GIT_COMMIT": SHA,
    "GIT_LOCAL_BRANCH": "main",
    "GIT_URL": "https://git.example.com/acme/shop.git",
    "HUDSON_URL": "https://jenkins.example.com/",
    "JENKINS_HOME": "/var/jenkins_home",
    "JENKINS_URL": "https://jenkins.example.com/",
    "JOB_BASE_NAME": "shop",
    "JOB_NAME": "deploy/shop",
    "JOB_URL": "https://jenkins.example.com/job/deploy/job/shop/",
    "NODE_NAME": "linux-1",
    "RUN_DISPLAY_URL": "https://jenkins.example.com/job/deploy/job/shop/12/display/redirect",
    "STAGE_NAME": "Deploy",
    "WORKSPACE": "/var/jenkins_home/workspace/deploy/shop",
}
GITHUB = {
    "CI": "true",
    "GITHUB_ACTION": "__run_2",
    "GITHUB_ACTIONS": "true",
    "GITHUB_ACTOR": "octocat",
    "GITHUB_API_URL": "https://api.github.com",
    "GITHUB_BASE_REF": "",
    "GITHUB_EVENT_NAME": "push",
    "GITHUB_EVENT_PATH": "/github/workflow/event.json",
    "GITHUB_HEAD_REF": "",
    "GITHUB_JOB": "deploy",
    "GITHUB_REF": "refs/heads/feature/cart",
    "GITHUB_REF_NAME": "feature/cart",
    "GITHUB_REF_PROTECTED": "true",
    "GITHUB_REF_TYPE": "branch",
    "GITHUB_REPOSITORY": "acme/shop",
    "GITHUB_REPOSITORY_OWNER": "acme",
    "GITHUB_RUN_ATTEMPT": "1",
    "GITHUB_RUN_ID": "1658821493",
    "GITHUB_RUN_NUMBER": "42",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_SHA": SHA,
    "GITHUB_WORKFLOW": "Deploy",
    "GITHUB_WORKSPACE": "/home/runner/work/shop/shop",
    "RUNNER_OS": "Linux",
}
GITLAB = {
    "CI": "true",
    "CI_COMMIT_BRANCH": "main",
    "CI_COMMIT_REF_NAME": "main",
    "CI_COMMIT_REF_SLUG": "main",
    "CI_COMMIT_SHA": SHA,
    "CI_COMMIT_SHORT_SHA": SHA[:8],
    "CI_ENVIRONMENT_NAME": "production",
    "CI_ENVIRONMENT_SLUG": "production",
    "CI_ENVIRONMENT_TIER": "production",
    "CI_JOB_ID": "98765",
    "CI_JOB_IMAGE": "alpine:3.20",
    "CI_JOB_NAME": "deploy",
    "CI_JOB_STAGE": "deploy",
    "CI_JOB_STARTED_AT": "2026-11-23T09:00:00Z",
    "CI_JOB_STATUS": "success",
    "CI_JOB_URL": "https://gitlab.example.com/acme/shop/-/jobs/98765",
    "CI_PIPELINE_ID": "4321",
    "CI_PIPELINE_IID": "17",
    "CI_PIPELINE_SOURCE": "push",
    "CI_PROJECT_ID": "12",
    "CI_PROJECT_PATH": "acme/shop",
    "CI_PROJECT_URL": "https://gitlab.example.com/acme/shop",
    "CI_REPOSITORY_URL": "https://gitlab-ci-token:[masked]@gitlab.example.com/acme/shop.git",
    "CI_SERVER_URL": "https://gitlab.example.com",
    "GITLAB_CI": "true",
}
CIRCLECI = {
    "CI": "true",
    "CIRCLECI": "true",
    "CIRCLE_BRANCH": "main",
    "CIRCLE_BUILD_NUM": "8142",
    "CIRCLE_BUILD_URL": "https://circleci.com/gh/acme/shop/8142",
    "CIRCLE_JOB": "deploy",
    "CIRCLE_NODE_INDEX": "0",
    "CIRCLE_NODE_TOTAL": "1",
    "CIRCLE_PROJECT_ID": "5034460f-c7c4-4c43-9457-de07e2029e7b",
    "CIRCLE_PROJECT_REPONAME": "shop",
    "CIRCLE_PROJECT_USERNAME": "acme",
    "CIRCLE_REPOSITORY_URL": "git@github.com:acme/shop.git",
    "CIRCLE_SHA1": SHA,
    "CIRCLE_USERNAME": "octocat",
    "CIRCLE_WORKFLOW_ID": "fda08377-fe7e-46b1-8992-3a7aaecac9c3",
    "CIRCLE_WORKFLOW_JOB_ID": "c7f9f8f2-6f4c-4a94-9d3b-94b5b8a5a5a1",
    "DEPLOY_ENV": "staging",
}
AZURE = {
    "AGENT_JOBNAME": "DeployWeb",
    "AGENT_JOBSTATUS": "Succeeded",
    "BUILD_BUILDID": "842",
    "BUILD_BUILDNUMBER": "20261123.1",
    "BUILD_BUILDURI": "vstfs:///Build/Build/842",
    "BUILD_DEFINITIONNAME": "shop-ci",
    "BUILD_REASON": "IndividualCI",
    "BUILD_REPOSITORY_NAME": "shop",
    "BUILD_REPOSITORY_PROVIDER": "TfsGit",
    "BUILD_REPOSITORY_URI": "https://acme@dev.azure.com/acme/Web%20Shop/_git/shop",
    "BUILD_SOURCEBRANCH": "refs/heads/release/2026.11",
    "BUILD_SOURCEBRANCHNAME": "2026.11",
    "BUILD_SOURCEVERSION": SHA,
    "ENVIRONMENT_ID": "10",
    "ENVIRONMENT_NAME": "production",
    "SYSTEM_COLLECTIONID": "bb420569-6e91-4163-ab87-1a5b192fd50c",
    "SYSTEM_COLLECTIONURI": "https://dev.azure.com/acme/",
    "SYSTEM_HOSTTYPE": "build",
    "SYSTEM_JOBATTEMPT": "1",
    "SYSTEM_JOBNAME": "__default",
    "SYSTEM_PHASEATTEMPT": "1",
    "SYSTEM_PHASENAME": "DeployWeb",
    "SYSTEM_PIPELINESTARTTIME": "2026-11-23 09:00:00+00:00",
    "SYSTEM_STAGEATTEMPT": "1",
    "SYSTEM_STAGENAME": "Production",
    "SYSTEM_TEAMFOUNDATIONCOLLECTIONURI": "https://dev.azure.com/acme/",
    "SYSTEM_TEAMPROJECT": "Web Shop",
    "TF_BUILD": "True",
}
AZURE_RELEASE = {
    "AGENT_JOBNAME": "Release",
    "AGENT_JOBSTATUS": "SucceededWithIssues",
    "BUILD_BUILDID": "1174",
    "BUILD_BUILDNUMBER": "20261122.7",
    "BUILD_DEFINITIONNAME": "shop-ci",
    "BUILD_REPOSITORY_NAME": "shop",
    "BUILD_REPOSITORY_PROVIDER": "TfsGit",
    "BUILD_SOURCEBRANCH": "refs/heads/main",
    "BUILD_SOURCEBRANCHNAME": "main",
    "BUILD_SOURCEVERSION": SHA,
    "BUILD_TYPE": "Build",
    "RELEASE_ATTEMPTNUMBER": "1",
    "RELEASE_DEFINITIONNAME": "shop-cd",
    "RELEASE_DEPLOYMENTID": "254",
    "RELEASE_DEPLOYMENT_STARTTIME": "2026-11-23 12:39:52Z",
    "RELEASE_ENVIRONMENTID": "276",
    "RELEASE_ENVIRONMENTNAME": "Prod EU",
    "RELEASE_RELEASEID": "118",
    "RELEASE_RELEASENAME": "Release-47",
    "RELEASE_RELEASEWEBURL": "https://dev.azure.com/acme/0807fc91/_release?releaseId=118&_a=release-summary",
    "SYSTEM_HOSTTYPE": "release",
    "SYSTEM_TEAMFOUNDATIONCOLLECTIONURI": "https://dev.azure.com/acme/",
    "SYSTEM_TEAMPROJECT": "Shop",
}
ARGO_WORKFLOWS = {  # the first four are Argo's own, the others those of the template
    "ARGO_CONTAINER_NAME": "main",
    "ARGO_DEADLINE": "0001-01-01T00:00:00Z",
    "ARGO_INCLUDE_SCRIPT_OUTPUT": "false",
    "ARGO_NODE_ID": "deploy-shop-x7k2p-2841960373",
    "ARGO_WORKFLOW_NAME": "deploy-shop-x7k2p",
    "ARGO_WORKFLOW_UID": "0b9c1f0e-6f1d-4c38-9a55-6d2f1c6d8a10",
    "DEPLOY_ENV": "production",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
}
ARGOCD = {
    "ARGOCD_APP_NAME": "shop",
    "ARGOCD_APP_NAMESPACE": "shop-production",
    "ARGOCD_APP_PROJECT_NAME": "web",
    "ARGOCD_APP_REVISION": SHA,
    "ARGOCD_APP_REVISION_SHORT": SHA[:7],
    "ARGOCD_APP_SOURCE_PATH": "deploy",
    "ARGOCD_APP_SOURCE_REPO_URL": "https://git.example.com/acme/shop.git",
    "ARGOCD_APP_SOURCE_TARGET_REVISION": "main",
    "KUBE_VERSION": "1.31.0",
}
ENVIRONMENTS = {
    "jenkins": JENKINS,
    "github_actions": GITHUB,
    "gitlab_ci": GITLAB,
    "circleci": CIRCLECI,
    "azure_devops": AZURE,
    "azure_devops release": AZURE_RELEASE,
    "argo_workflows": ARGO_WORKFLOWS,
    "argocd": ARGOCD,
}
EACH = pytest.mark.parametrize(
    ("system", "environment"),
    [pytest.param(name.split()[0], environment, id=name) for name, environment in ENVIRONMENTS.items()],
)


@EACH
def test_a_system_is_recognised_in_its_environment(system: str, environment: dict[str, str]) -> None:
    assert recognise(environment) == system == Provider(system).value


def test_anything_else_is_another_system() -> None:
    teamcity = {"TEAMCITY_VERSION": "2026.1", "BUILD_NUMBER": "7", "ENVIRONMENT": "production", "CI": "true"}
    assert recognise(teamcity) == recognise({}) == "other"
    assert fields("other", teamcity) == {"provider": "other"}


@pytest.mark.parametrize("environment", [GITHUB, GITLAB, CIRCLECI, AZURE, AZURE_RELEASE])
def test_a_job_that_talks_to_other_systems_is_still_of_its_own(environment: dict[str, str]) -> None:
    others = {
        "JENKINS_URL": "https://jenkins.example.com/",
        "BUILD_NUMBER": "3",
        "ARGO_WORKFLOW_NAME": "deploy",
        "ARGOCD_APP_NAME": "shop",
        "ARGOCD_APP_SOURCE_REPO_URL": "https://git.example.com/acme/shop.git",
    }
    assert recognise(others | environment) == recognise(environment)


@pytest.mark.parametrize(
    "environment",
    [
        {"BUILD_TAG": "jenkins-deploy-12", "BUILD_NUMBER": "12", "JOB_NAME": "deploy"},
        {"BUILD_URL": "http://jenkins:8080/job/deploy/12/"},
        {"JENKINS_HOME": "/var/jenkins_home", "BUILD_NUMBER": "12", "JOB_NAME": "deploy"},
    ],
)
def test_a_jenkins_without_its_address_and_a_container_with_few_variables_are_jenkins(
    environment: dict[str, str],
) -> None:
    assert recognise(environment) == "jenkins"


def test_the_host_of_a_jenkins_is_no_build() -> None:
    assert recognise({"JENKINS_HOME": "/var/jenkins_home", "JENKINS_URL": "https://jenkins.example.com/"}) == "other"


# ---- every field of every system


def test_the_fields_of_jenkins() -> None:
    assert fields("jenkins", JENKINS) == {
        "provider": "jenkins",
        "job": "deploy/shop",
        "build_number": "12",
        "build_url": "https://jenkins.example.com/job/deploy/job/shop/12/",
        "repo_url": "https://git.example.com/acme/shop.git",
        "branch": "main",
        "commit_hash": SHA,
        "environment": "production",
    }


def test_the_fields_of_github_actions() -> None:
    assert fields("github_actions", GITHUB) == {
        "provider": "github_actions",
        "job": "deploy",
        "build_number": "42",
        "run": "github_actions:acme/shop#1658821493/deploy",
        "repo_url": "https://github.com/acme/shop",
        "branch": "feature/cart",
        "commit_hash": SHA,
        "logs_url": "https://github.com/acme/shop/actions/runs/1658821493",
    }


def test_the_fields_of_gitlab_ci() -> None:
    assert fields("gitlab_ci", GITLAB) == {
        "provider": "gitlab_ci",
        "job": "deploy",
        "build_number": "98765",
        "run": "gitlab_ci:acme/shop#98765",
        "status": "success",
        "repo_url": "https://gitlab.example.com/acme/shop",
        "branch": "main",
        "commit_hash": SHA,
        "environment": "production",
        "logs_url": "https://gitlab.example.com/acme/shop/-/jobs/98765",
        "start_time": "2026-11-23T09:00:00Z",
    }


def test_the_fields_of_circleci() -> None:
    assert fields("circleci", CIRCLECI) == {
        "provider": "circleci",
        "job": "deploy",
        "build_number": "8142",
        "run": "circleci:acme/shop#8142",
        "repo_url": "git@github.com:acme/shop.git",
        "branch": "main",
        "commit_hash": SHA,
        "environment": "staging",
        "logs_url": "https://circleci.com/gh/acme/shop/8142",
    }


def test_the_fields_of_a_build_of_azure_devops() -> None:
    assert fields("azure_devops", AZURE) == {
        "provider": "azure_devops",
        "job": "shop-ci",
        "build_number": "20261123.1",
        "run": "azure_devops:acme/Web Shop#842/Production/DeployWeb",
        "status": "Succeeded",
        "repo_url": "https://dev.azure.com/acme/Web%20Shop/_git/shop",
        "branch": "release/2026.11",
        "commit_hash": SHA,
        "environment": "production",
        "logs_url": "https://dev.azure.com/acme/Web%20Shop/_build/results?buildId=842",
        "start_time": "2026-11-23 09:00:00+00:00",
    }


def test_the_fields_of_a_classic_release_of_azure_devops() -> None:
    """It has no variable for the repository's URL, only for its name."""
    assert fields("azure_devops", AZURE_RELEASE) == {
        "provider": "azure_devops",
        "job": "shop-cd",
        "build_number": "Release-47",
        "run": "azure_devops:acme/Shop#release-118/Prod EU",
        "status": "SucceededWithIssues",
        "branch": "main",
        "commit_hash": SHA,
        "environment": "Prod EU",
        "logs_url": "https://dev.azure.com/acme/0807fc91/_release?releaseId=118&_a=release-summary",
        "start_time": "2026-11-23 12:39:52Z",
    }


def test_the_fields_of_a_step_of_argo_workflows() -> None:
    assert fields("argo_workflows", ARGO_WORKFLOWS) == {
        "provider": "argo_workflows",
        "job": "deploy-shop-x7k2p",
        "run": "argo_workflows:deploy-shop-x7k2p#0b9c1f0e-6f1d-4c38-9a55-6d2f1c6d8a10",
        "environment": "production",
    }


def test_the_fields_of_argo_cds_build_environment() -> None:
    assert fields("argocd", ARGOCD) == {
        "provider": "argocd",
        "job": "shop",
        "repo_url": "https://git.example.com/acme/shop.git",
        "branch": "main",
        "commit_hash": SHA,
        "environment": "shop-production",
    }


def test_the_times_that_hivels_page_names_are_read_where_they_are_set() -> None:
    """The vendors' lists do not have them; a pipeline may set them."""
    finished = "2026-11-23T09:05:00Z"
    assert fields("gitlab_ci", GITLAB | {"CI_JOB_FINISHED_AT": finished})["end_time"] == finished
    azure = fields("azure_devops", AZURE | {"BUILD_STARTTIME": "2026-11-23T09:01:00Z", "BUILD_FINISHTIME": finished})
    assert (azure["start_time"], azure["end_time"]) == ("2026-11-23T09:01:00Z", finished)


# ---- branches, tags, pull requests


def told(system: str, environment: dict[str, str], *names: str, **more: str) -> tuple[str | None, ...]:
    found = fields(system, environment | more)
    return tuple(found.get(name) for name in names)


def test_a_pull_request_in_jenkins_has_its_source_branch() -> None:
    request = {"CHANGE_ID": "7", "CHANGE_TARGET": "main", "BRANCH_NAME": "PR-7", "GIT_BRANCH": "PR-7"}
    both = ("branch", "pr_number")
    assert told("jenkins", JENKINS, *both, **request, CHANGE_BRANCH="fix/42") == ("fix/42", "7")
    assert told("jenkins", JENKINS, *both, **request) == (None, "7")


@pytest.mark.parametrize(
    ("variables", "branch"),
    [
        ({"BRANCH_NAME": "feature/x", "GIT_BRANCH": "feature/x"}, "feature/x"),
        ({"BRANCH_NAME": "v1.0.0", "TAG_NAME": "v1.0.0", "GIT_BRANCH": "v1.0.0"}, "v1.0.0"),
        ({"TAG_NAME": "v1.0.0", "GIT_BRANCH": "detached"}, "v1.0.0"),
        ({"GIT_BRANCH": "refs/remotes/origin/main"}, "main"),
        ({"GIT_BRANCH": "refs/tags/v1.0.0"}, "v1.0.0"),
        ({"GIT_BRANCH": "detached"}, None),
        ({"GIT_BRANCH": SHA}, None),
    ],
)
def test_the_branch_in_jenkins(variables: dict[str, str], branch: str | None) -> None:
    assert told("jenkins", JENKINS, "branch", **variables) == (branch,)


def test_the_first_remote_of_several_in_jenkins() -> None:
    several = {"GIT_URL": "", "GIT_URL_1": "git@git.example.com:acme/shop.git", "GIT_URL_2": "git@git.example.com:x/y"}
    assert told("jenkins", JENKINS, "repo_url", **several) == ("git@git.example.com:acme/shop.git",)


def event_of(tmp_path: Path, event: object) -> str:
    file = tmp_path / "event.json"
    file.write_text(json.dumps(event), encoding="utf-8")
    return str(file)


def test_a_pull_request_on_github_has_its_source_branch_and_number() -> None:
    """The branch of a fork has its name without the fork's owner, and the run belongs to the target's repository."""
    request = {
        "GITHUB_EVENT_NAME": "pull_request",
        "GITHUB_REF": "refs/pull/7/merge",
        "GITHUB_REF_NAME": "7/merge",
        "GITHUB_HEAD_REF": "patch-1",
        "GITHUB_BASE_REF": "main",
    }
    names = ("branch", "pr_number", "repo_url")
    assert told("github_actions", GITHUB, *names, **request) == ("patch-1", "7", "https://github.com/acme/shop")


@pytest.mark.parametrize("ref", ["refs/pull/7/merge", "refs/pull/7/head"])
def test_the_ref_of_a_pull_request_is_no_branch(ref: str) -> None:
    assert told("github_actions", GITHUB, "branch", "pr_number", GITHUB_REF=ref) == (None, "7")
    assert told("azure_devops", AZURE, "branch", "pr_number", BUILD_SOURCEBRANCH=ref) == (None, "7")


def test_what_only_the_event_of_a_pull_request_tells(tmp_path: Path) -> None:
    event = {"action": "submitted", "pull_request": {"number": 71, "head": {"ref": "fix/42", "sha": SHA}}}
    variables = {
        "GITHUB_EVENT_NAME": "pull_request_target",
        "GITHUB_REF": "refs/heads/main",
        "GITHUB_EVENT_PATH": event_of(tmp_path, event),
    }
    assert told("github_actions", GITHUB, "branch", "pr_number", **variables) == ("fix/42", "71")
    variables["GITHUB_EVENT_NAME"] = "push"
    assert told("github_actions", GITHUB, "branch", "pr_number", **variables) == ("main", None)


def test_a_deployment_on_github_names_its_environment(tmp_path: Path) -> None:
    event = event_of(tmp_path, {"deployment": {"environment": "production", "ref": "main", "sha": SHA}})
    variables = {"GITHUB_EVENT_NAME": "deployment", "GITHUB_EVENT_PATH": event, "ENVIRONMENT": "x"}
    assert told("github_actions", GITHUB, "environment", **variables) == ("production",)
    assert told("github_actions", GITHUB, "environment", ENVIRONMENT="staging") == ("staging",)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"pull_request": 7}',
        b'{"pull_request": {"number": true, "head": []}}',
        b'{"pull_request": {"number": 71}}' + b" " * (1 << 20),
    ],
)
def test_a_spoiled_or_huge_event_tells_nothing(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "event.json"
    file.write_bytes(content)
    variables = {"GITHUB_EVENT_NAME": "pull_request", "GITHUB_EVENT_PATH": str(file)}
    assert told("github_actions", GITHUB, "branch", "pr_number", **variables) == ("feature/cart", None)


def test_an_event_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "event.json"
    os.mkfifo(pipe)
    for path in (str(pipe), str(tmp_path), str(tmp_path / "none"), "\0", "\udcff", ""):
        variables = {"GITHUB_EVENT_NAME": "pull_request", "GITHUB_EVENT_PATH": path}
        assert told("github_actions", GITHUB, "pr_number", **variables) == (None,)


@pytest.mark.parametrize(
    ("system", "environment", "variables"),
    [
        ("github_actions", GITHUB, {"GITHUB_REF": "refs/tags/v1.0.0", "GITHUB_REF_NAME": "v1.0.0"}),
        ("github_actions", GITHUB, {"GITHUB_REF": "", "GITHUB_REF_NAME": "v1.0.0"}),
        ("gitlab_ci", GITLAB, {"CI_COMMIT_BRANCH": "", "CI_COMMIT_TAG": "v1.0.0", "CI_COMMIT_REF_NAME": "v1.0.0"}),
        ("circleci", CIRCLECI, {"CIRCLE_BRANCH": "", "CIRCLE_TAG": "v1.0.0"}),
        ("azure_devops", AZURE, {"BUILD_SOURCEBRANCH": "refs/tags/v1.0.0", "BUILD_SOURCEBRANCHNAME": "v1.0.0"}),
        ("argocd", ARGOCD, {"ARGOCD_APP_SOURCE_TARGET_REVISION": "v1.0.0"}),
    ],
)
def test_a_tag_stands_for_the_branch(system: str, environment: dict[str, str], variables: dict[str, str]) -> None:
    assert told(system, environment, "branch", **variables) == ("v1.0.0",)


def test_a_merge_request_of_a_fork_on_gitlab() -> None:
    request = {
        "CI_MERGE_REQUEST_IID": "7",
        "CI_MERGE_REQUEST_ID": "90210",
        "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "fix/42",
        "CI_MERGE_REQUEST_SOURCE_PROJECT_URL": "https://gitlab.example.com/guest/shop",
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
        "CI_COMMIT_REF_NAME": "refs/merge-requests/7/head",
        "CI_COMMIT_BRANCH": "",
    }
    names = ("branch", "pr_number", "repo_url")
    assert told("gitlab_ci", GITLAB, *names, **request) == ("fix/42", "7", "https://gitlab.example.com/acme/shop")
    external = {
        "CI_EXTERNAL_PULL_REQUEST_IID": "9",
        "CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME": "fix/43",
    }
    assert told("gitlab_ci", GITLAB, "branch", "pr_number", **external) == ("fix/43", "9")


def test_pull_requests_on_circleci() -> None:
    of_fork = {
        "CIRCLE_BRANCH": "pull/15",
        "CIRCLE_PR_NUMBER": "15",
        "CIRCLE_PULL_REQUEST": "https://github.com/acme/shop/pull/15",
    }
    assert told("circleci", CIRCLECI, "branch", "pr_number", **of_fork) == (None, "15")
    own = {"CIRCLE_BRANCH": "fix/42", "CIRCLE_PULL_REQUEST": "https://github.com/acme/shop/pull/16"}
    assert told("circleci", CIRCLECI, "branch", "pr_number", **own) == ("fix/42", "16")
    odd = {"CIRCLE_PULL_REQUEST": "https://github.com/acme/shop/pull/new"}
    assert told("circleci", CIRCLECI, "pr_number", **odd) == (None,)


def test_pull_requests_on_azure_devops() -> None:
    request = {
        "BUILD_REASON": "PullRequest",
        "BUILD_SOURCEBRANCH": "refs/pull/17/merge",
        "SYSTEM_PULLREQUEST_PULLREQUESTID": "17",
        "SYSTEM_PULLREQUEST_SOURCEBRANCH": "refs/heads/users/raisa/new-feature",
        "SYSTEM_PULLREQUEST_TARGETBRANCH": "refs/heads/main",
    }
    assert told("azure_devops", AZURE, "branch", "pr_number", **request) == ("users/raisa/new-feature", "17")
    github = request | {
        "BUILD_SOURCEBRANCH": "refs/pull/7/merge",
        "SYSTEM_PULLREQUEST_PULLREQUESTID": "662041983",
        "SYSTEM_PULLREQUEST_PULLREQUESTNUMBER": "7",
        "SYSTEM_PULLREQUEST_SOURCEBRANCH": "patch-1",
        "SYSTEM_PULLREQUEST_ISFORK": "True",
    }
    assert told("azure_devops", AZURE, "branch", "pr_number", **github) == ("patch-1", "7")


@pytest.mark.parametrize("revision", ["HEAD", SHA, SHA[:8], "1.2.*", ">=1.0.0", "^1.0", "~1.2", "1.0 - 2.0"])
def test_a_target_of_argo_cd_that_is_no_branch(revision: str) -> None:
    assert told("argocd", ARGOCD, "branch", ARGOCD_APP_SOURCE_TARGET_REVISION=revision) == (None,)


# ---- the name of the run

# What a second deployment changes, which has to be a deployment of its own.
OTHER_RUNS = [
    ("github_actions", GITHUB, {"GITHUB_RUN_ID": "1658821494"}, "github_actions:acme/shop#1658821494/deploy"),
    ("github_actions", GITHUB, {"GITHUB_RUN_ATTEMPT": "2"}, "github_actions:acme/shop#1658821493/deploy.2"),
    ("github_actions", GITHUB, {"GITHUB_JOB": "deploy-api"}, "github_actions:acme/shop#1658821493/deploy-api"),
    ("github_actions", GITHUB, {"GITHUB_REPOSITORY": "acme/api"}, "github_actions:acme/api#1658821493/deploy"),
    ("gitlab_ci", GITLAB, {"CI_JOB_ID": "98766"}, "gitlab_ci:acme/shop#98766"),
    ("circleci", CIRCLECI, {"CIRCLE_BUILD_NUM": "8143"}, "circleci:acme/shop#8143"),
    ("azure_devops", AZURE, {"BUILD_BUILDID": "843"}, "azure_devops:acme/Web Shop#843/Production/DeployWeb"),
    ("azure_devops", AZURE, {"SYSTEM_STAGENAME": "Staging"}, "azure_devops:acme/Web Shop#842/Staging/DeployWeb"),
    ("azure_devops", AZURE, {"SYSTEM_PHASENAME": "DeployApi"}, "azure_devops:acme/Web Shop#842/Production/DeployApi"),
    ("azure_devops", AZURE, {"SYSTEM_STAGEATTEMPT": "2"}, "azure_devops:acme/Web Shop#842/Production/DeployWeb.2"),
    ("azure_devops", AZURE, {"SYSTEM_JOBATTEMPT": "3"}, "azure_devops:acme/Web Shop#842/Production/DeployWeb.1.3"),
    ("azure_devops", AZURE_RELEASE, {"RELEASE_ATTEMPTNUMBER": "2"}, "azure_devops:acme/Shop#release-118/Prod EU.2"),
    ("azure_devops", AZURE_RELEASE, {"RELEASE_RELEASEID": "119"}, "azure_devops:acme/Shop#release-119/Prod EU"),
    (
        "azure_devops",
        AZURE_RELEASE,
        {"RELEASE_ENVIRONMENTNAME": "Prod US"},
        "azure_devops:acme/Shop#release-118/Prod US",
    ),
]


@pytest.mark.parametrize(("system", "environment", "variables", "run"), OTHER_RUNS)
def test_another_run_attempt_or_job_has_another_name(
    system: str, environment: dict[str, str], variables: dict[str, str], run: str
) -> None:
    assert fields(system, environment | variables)["run"] == run != fields(system, environment)["run"]


def test_both_attempts_of_azure_count() -> None:
    """A job tried twice in the second attempt of its stage is neither the one nor the other."""
    pairs = [(stage, job) for stage in "12" for job in "12"]
    runs = [
        fields("azure_devops", AZURE | {"SYSTEM_STAGEATTEMPT": stage, "SYSTEM_JOBATTEMPT": job})["run"]
        for stage, job in pairs
    ]
    assert len(set(runs)) == 4


@EACH
def test_the_name_of_a_run_does_not_change_while_it_runs(system: str, environment: dict[str, str]) -> None:
    """A repeated emit, later, of the same job is the same deployment, whatever else changed."""
    later = {
        "AGENT_JOBSTATUS": "Failed",
        "CI_JOB_STATUS": "failed",
        "CI_JOB_FINISHED_AT": "2026-11-23T10:00:00Z",
        "ENVIRONMENT": "staging",
    }
    assert told(system, environment, "run", **later) == told(system, environment, "run")


@pytest.mark.parametrize(
    ("system", "environment", "name"),
    [
        ("github_actions", GITHUB, "GITHUB_RUN_ID"),
        ("github_actions", GITHUB, "GITHUB_REPOSITORY"),
        ("gitlab_ci", GITLAB, "CI_JOB_ID"),
        ("gitlab_ci", GITLAB, "CI_PROJECT_PATH"),
        ("circleci", CIRCLECI, "CIRCLE_BUILD_NUM"),
        ("azure_devops", AZURE, "BUILD_BUILDID"),
        ("azure_devops", AZURE, "SYSTEM_TEAMPROJECT"),
        ("azure_devops", AZURE_RELEASE, "SYSTEM_TEAMPROJECT"),
        ("argo_workflows", ARGO_WORKFLOWS, "ARGO_WORKFLOW_UID"),
        ("argo_workflows", ARGO_WORKFLOWS, "ARGO_WORKFLOW_NAME"),
    ],
)
def test_a_run_without_its_project_or_number_has_no_name(system: str, environment: dict[str, str], name: str) -> None:
    """Half a name would be the name of many runs."""
    assert "run" not in fields(system, {key: value for key, value in environment.items() if key != name})


def test_a_project_of_circleci_without_owner_has_its_id() -> None:
    run = told("circleci", CIRCLECI, "run", CIRCLE_PROJECT_USERNAME="")
    assert run == ("circleci:5034460f-c7c4-4c43-9457-de07e2029e7b#8142",)


def test_a_classic_build_of_azure_has_neither_stage_nor_job_in_its_run() -> None:
    classic = {"SYSTEM_STAGENAME": "__default", "SYSTEM_PHASENAME": "__default"}
    assert told("azure_devops", AZURE, "run", **classic) == ("azure_devops:acme/Web Shop#842",)


@pytest.mark.parametrize(
    ("collection", "organisation"),
    [
        ("https://acme.visualstudio.com/", "acme.visualstudio.com"),
        ("https://tfs.example.com/tfs/DefaultCollection/", "DefaultCollection"),
    ],
)
def test_the_organisation_of_older_addresses_of_azure(collection: str, organisation: str) -> None:
    variables = {"SYSTEM_COLLECTIONURI": "", "SYSTEM_TEAMFOUNDATIONCOLLECTIONURI": collection}
    assert told("azure_devops", AZURE_RELEASE, "run", **variables) == (
        f"azure_devops:{organisation}/Shop#release-118/Prod EU",
    )


def test_the_log_of_a_second_attempt_on_github_is_its_own() -> None:
    assert told("github_actions", GITHUB, "logs_url", GITHUB_RUN_ATTEMPT="2") == (
        "https://github.com/acme/shop/actions/runs/1658821493/attempts/2",
    )


# ---- status

STATUS_VARIABLES = [
    (system, environment, variable, word, status)
    for system, environment, variable in [
        ("gitlab_ci", GITLAB, "CI_JOB_STATUS"),
        ("azure_devops", AZURE, "AGENT_JOBSTATUS"),
        ("azure_devops", AZURE_RELEASE, "AGENT_JOBSTATUS"),
    ]
    for word, status in WORDS[Provider(system)].items()
]


@pytest.mark.parametrize(("system", "environment", "variable", "word", "status"), STATUS_VARIABLES)
def test_every_word_of_the_page_means_what_it_says_there(
    system: str, environment: dict[str, str], variable: str, word: str, status: Status
) -> None:
    found = fields(system, environment | {variable: word})
    assert normalise(Provider(found["provider"]), found["status"]) is status


def test_azures_words_are_those_of_its_documentation() -> None:
    words = {"Succeeded": "success", "Failed": "failed", "Canceled": "canceled", "SucceededWithIssues": "unknown"}
    for word, status in words.items():
        found = fields("azure_devops", AZURE | {"AGENT_JOBSTATUS": word})
        assert normalise(Provider.AZURE_DEVOPS, found["status"]) == status


@pytest.mark.parametrize("system", ["jenkins", "github_actions", "circleci", "argo_workflows", "argocd"])
def test_a_system_without_a_variable_for_the_status_tells_none(system: str) -> None:
    assert "status" not in fields(system, ENVIRONMENTS[system])


# ---- what is missing, and what is hostile


@EACH
def test_what_is_not_set_or_empty_is_not_reported(system: str, environment: dict[str, str]) -> None:
    for name in environment:
        without = fields(system, {key: value for key, value in environment.items() if key != name})
        assert fields(system, environment | {name: ""}) == without
        assert fields(system, environment | {name: " \n"}) == without
        assert set(without) <= set(fields(system, environment)) | {"branch", "environment"}
    assert fields(system, {}) == {"provider": system}


HOSTILE = [
    'main"; echo "',
    "main'; rm -rf /; '",
    "$(id) `id` ${HOME} %PATH% !x!",
    "two\nlines\r\nand\ttabs",
    "\0\x07\x1b[31m\x7f\u2028",
    '{"status": "success"}',
    "größe/\u202eevil/😀",
    "x" * 100_000,
]


@EACH
@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_values_come_through_unchanged(system: str, environment: dict[str, str], value: str) -> None:
    plain = fields(system, environment)
    changed = set()
    for name, old in environment.items():
        found = fields(system, environment | {name: value})
        for field in found.keys() & plain.keys():
            if plain[field] == old != found[field] and not field.endswith("_url"):  # it is this variable's
                assert found[field] in ({value, value.strip()} if field == "branch" else {value})
                changed.add(field)
    assert changed >= {"job"}


@EACH
def test_text_that_is_no_unicode_is_left_out(system: str, environment: dict[str, str]) -> None:
    """As Python reads a variable in Latin-1: it could not be sent."""
    broken = fields(system, dict.fromkeys(environment, "gr\udcf6\udcdfe"))
    assert broken == {"provider": system}


@pytest.mark.parametrize(
    ("system", "environment", "name", "field"),
    [
        ("jenkins", JENKINS, "GIT_URL", "repo_url"),
        ("jenkins", JENKINS, "BUILD_URL", "build_url"),
        ("github_actions", GITHUB, "GITHUB_SERVER_URL", "repo_url"),
        ("github_actions", GITHUB, "GITHUB_SERVER_URL", "logs_url"),
        ("gitlab_ci", GITLAB, "CI_PROJECT_URL", "repo_url"),
        ("gitlab_ci", GITLAB, "CI_JOB_URL", "logs_url"),
        ("circleci", CIRCLECI, "CIRCLE_REPOSITORY_URL", "repo_url"),
        ("circleci", CIRCLECI, "CIRCLE_BUILD_URL", "logs_url"),
        ("azure_devops", AZURE, "BUILD_REPOSITORY_URI", "repo_url"),
        ("azure_devops", AZURE, "SYSTEM_COLLECTIONURI", "logs_url"),
        ("azure_devops", AZURE_RELEASE, "RELEASE_RELEASEWEBURL", "logs_url"),
        ("argocd", ARGOCD, "ARGOCD_APP_SOURCE_REPO_URL", "repo_url"),
    ],
)
def test_no_credentials_of_an_url_are_reported(system: str, environment: dict[str, str], name: str, field: str) -> None:
    found = fields(system, environment | {name: "https://user:s3cret@host.example.com/acme/"})
    assert found[field].startswith("https://host.example.com/acme")
    assert "s3cret" not in str(found)


NAMES = sorted({name for environment in ENVIRONMENTS.values() for name in environment} | {"CHANGE_ID", "CHANGE_BRANCH"})
VALUES = st.text(st.characters(), max_size=30) | st.sampled_from(
    ["true", "pull_request", "refs/pull/7/merge", "refs/heads/", "jenkins-", "/job/", "https://u:p@h/x", "1", "\udcff"]
)


@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), VALUES, max_size=40))
@example({"GITHUB_EVENT_NAME": "pull_request", "GITHUB_EVENT_PATH": "\0"})
def test_any_environment_gives_text_for_known_fields_and_never_raises(environment: dict[str, str]) -> None:
    assert recognise(environment) in set(Provider)
    for system in [*Provider, "nothing known"]:
        found = fields(str(system), environment)
        assert set(found) <= KEYS
        assert found["provider"] in set(Provider)
        for value in found.values():
            assert value.strip()
            assert value.encode()
        assert found == fields(str(system), environment)


# ---- the fast path


def test_nothing_slow_is_loaded_with_it() -> None:
    """Every emit loads it: it may take its own modules and what Python has loaded anyway, and nothing else."""
    program = (
        "import sys; before = set(sys.modules); from agent.deployments.systems import ci as systems; import os;"
        "systems.fields(systems.recognise(os.environ), os.environ);"
        "print(*sorted(set(sys.modules) - before))"
    )
    for environment in ENVIRONMENTS.values():
        done = subprocess.run(
            [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert set(done.stdout.split()) <= {
            "__future__",
            "agent",
            "agent.model.git",
            "agent.deployments",
            "agent.deployments.systems",
            "agent.deployments.systems.ci",
            "agent.deployments.systems.words",
            "agent.model",
        }
