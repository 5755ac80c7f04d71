"""Recognises the CI system and reads the fields of a report from its environment variables or from a resource's JSON.

The sources are section 7 of Hivel's page and, beyond it, only variables that the vendors document. Fields that a system
does not provide are left out and can be given as flags.

``hivel-agent emit`` loads this module at its start, so it imports nothing slow at the top, not even ``typing``, ``re``
or ``json``.
"""

from __future__ import annotations

import os

from agent.deployments.systems.words import branch_of_target, first, is_retry, run_name
from agent.model.git import branch_name, without_credentials

TYPE_CHECKING = False  # importing it from typing would load typing
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Usual variable names for the environment, for systems without their own.
_ENVIRONMENTS = ("ENVIRONMENT", "DEPLOY_ENV", "DEPLOY_ENVIRONMENT")
_URLS = ("repo_url", "build_url", "logs_url")
# Bytes. GitHub's payloads have a few ten thousand; larger files are skipped.
_LONGEST_EVENT = 1 << 20
_UNRESERVED = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")


def recognise(environment: Mapping[str, str]) -> str:
    """The CI system of this environment, as ``Provider`` writes it; ``other`` if unknown.

    Systems with an unambiguous variable come first, because their jobs may have a variable ``JENKINS_URL`` or
    ``ARGOCD_APP_NAME`` to talk to another system.
    """
    for system, is_marked in _MARKS:
        if is_marked(environment):
            return system
    return "other"


def fields(system: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The fields of a report in the environment: text, never empty. Never raises.

    Values that are not valid Unicode (for example in Latin-1) cannot be sent and are left out.
    """
    read = _READERS.get(system)
    if read is None:
        return {"provider": "other"}
    return _told({"provider": system, **read(environment)})


def fields_of_resource(system: str, text: str) -> dict[str, str]:
    """The fields in the JSON of a resource: Argo CD's ``Application``, Argo Workflows' ``Workflow``.

    Raises :class:`ValueError` with what is wrong with the JSON.
    """
    from agent.deployments.systems import argo as resources  # noqa: PLC0415 - what most reports do not need

    return _told({"provider": system, **resources.read(system, text)})


# ---- one function for each system; "" means unknown


def _jenkins(environment: Mapping[str, str]) -> dict[str, str]:
    pull_request = first(environment, "CHANGE_ID")
    if pull_request:  # then BRANCH_NAME is PR-7, which is not a branch
        branch = first(environment, "CHANGE_BRANCH")
    else:
        branch = first(environment, "BRANCH_NAME", "TAG_NAME") or branch_name(first(environment, "GIT_BRANCH")) or ""
    return {
        "job": first(environment, "JOB_NAME"),
        "build_number": first(environment, "BUILD_NUMBER"),
        "build_url": first(environment, "BUILD_URL"),
        "repo_url": first(environment, "GIT_URL", "GIT_URL_1"),
        "branch": branch,
        "commit_hash": first(environment, "GIT_COMMIT"),
        "environment": first(environment, *_ENVIRONMENTS),
        "pr_number": pull_request,
    }


def _github_actions(environment: Mapping[str, str]) -> dict[str, str]:
    repository = first(environment, "GITHUB_REPOSITORY")
    server = first(environment, "GITHUB_SERVER_URL").rstrip("/")
    repo_url = f"{server}/{repository}" if server and repository else ""
    run_id, attempt = first(environment, "GITHUB_RUN_ID"), first(environment, "GITHUB_RUN_ATTEMPT")
    logs_url = f"{repo_url}/actions/runs/{run_id}" if repo_url and run_id else ""
    event = _github_event(environment)
    ref = first(environment, "GITHUB_REF")
    return {
        "job": first(environment, "GITHUB_JOB"),
        "build_number": first(environment, "GITHUB_RUN_NUMBER"),
        # Includes the job: several jobs of a run may deploy different applications to one environment.
        "run": run_name("github_actions", repository, run_id, first(environment, "GITHUB_JOB"), attempt=attempt),
        "repo_url": repo_url,
        "branch": first(environment, "GITHUB_HEAD_REF")
        or _member(event, "pull_request", "head", "ref")
        or _of_ref(ref or first(environment, "GITHUB_REF_NAME")),
        "commit_hash": first(environment, "GITHUB_SHA"),
        "environment": _member(event, "deployment", "environment") or first(environment, *_ENVIRONMENTS),
        "logs_url": f"{logs_url}/attempts/{attempt}" if logs_url and is_retry(attempt) else logs_url,
        "pr_number": _pull_request_of_ref(ref) or _member(event, "pull_request", "number"),
    }


def _gitlab_ci(environment: Mapping[str, str]) -> dict[str, str]:
    job_id = first(environment, "CI_JOB_ID")
    return {
        "job": first(environment, "CI_JOB_NAME"),
        "build_number": job_id,
        "run": run_name("gitlab_ci", first(environment, "CI_PROJECT_PATH"), job_id),  # a retried job has a new id
        "status": first(environment, "CI_JOB_STATUS"),
        "repo_url": first(environment, "CI_PROJECT_URL"),
        "branch": first(
            environment,
            "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME",
            "CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME",
            "CI_COMMIT_REF_NAME",
        ),
        "commit_hash": first(environment, "CI_COMMIT_SHA"),
        "environment": first(environment, "CI_ENVIRONMENT_NAME", *_ENVIRONMENTS),
        "logs_url": first(environment, "CI_JOB_URL"),
        "start_time": first(environment, "CI_JOB_STARTED_AT"),
        "end_time": first(environment, "CI_JOB_FINISHED_AT"),
        "pr_number": first(environment, "CI_MERGE_REQUEST_IID", "CI_EXTERNAL_PULL_REQUEST_IID"),
    }


def _circleci(environment: Mapping[str, str]) -> dict[str, str]:
    number = first(environment, "CIRCLE_BUILD_NUM")
    owner, name = first(environment, "CIRCLE_PROJECT_USERNAME"), first(environment, "CIRCLE_PROJECT_REPONAME")
    project = f"{owner}/{name}" if owner and name else first(environment, "CIRCLE_PROJECT_ID")
    branch = first(environment, "CIRCLE_BRANCH")
    pull_request = first(environment, "CIRCLE_PULL_REQUEST").rpartition("/")[2]
    return {
        "job": first(environment, "CIRCLE_JOB"),
        "build_number": number,
        "run": run_name("circleci", project, number),  # a retried job has a new number
        "repo_url": first(environment, "CIRCLE_REPOSITORY_URL"),
        # The "branch" of a pull request from a fork is pull/7.
        "branch": branch if branch and not branch.startswith("pull/") else first(environment, "CIRCLE_TAG"),
        "commit_hash": first(environment, "CIRCLE_SHA1"),
        "environment": first(environment, *_ENVIRONMENTS),
        "logs_url": first(environment, "CIRCLE_BUILD_URL"),
        "pr_number": first(environment, "CIRCLE_PR_NUMBER") or (pull_request if _is_number(pull_request) else ""),
    }


def _azure_devops(environment: Mapping[str, str]) -> dict[str, str]:
    ref = first(environment, "BUILD_SOURCEBRANCH")
    told = {
        "status": first(environment, "AGENT_JOBSTATUS"),
        "repo_url": first(environment, "BUILD_REPOSITORY_URI"),
        "branch": _of_ref(first(environment, "SYSTEM_PULLREQUEST_SOURCEBRANCH") or ref),
        "commit_hash": first(environment, "BUILD_SOURCEVERSION"),
        "end_time": first(environment, "BUILD_FINISHTIME"),
        # GitHub's pull requests have a number; the id is Azure DevOps' own.
        "pr_number": first(environment, "SYSTEM_PULLREQUEST_PULLREQUESTNUMBER", "SYSTEM_PULLREQUEST_PULLREQUESTID")
        or _pull_request_of_ref(ref),
    }
    return told | (
        _azure_release(environment) if first(environment, "RELEASE_RELEASEID") else _azure_build(environment)
    )


def _azure_build(environment: Mapping[str, str]) -> dict[str, str]:
    collection, project = _azure_project(environment)
    build_id = first(environment, "BUILD_BUILDID")
    # Includes stage and job: several of them may deploy different applications to one environment.
    names = [first(environment, name) for name in ("SYSTEM_STAGENAME", "SYSTEM_PHASENAME")]
    stage_attempt, job_attempt = first(environment, "SYSTEM_STAGEATTEMPT"), first(environment, "SYSTEM_JOBATTEMPT")
    known = collection and project and build_id
    return {
        "job": first(environment, "BUILD_DEFINITIONNAME"),
        "build_number": first(environment, "BUILD_BUILDNUMBER"),
        "run": run_name(
            "azure_devops",
            _azure_path(collection, project),
            build_id,
            *(name for name in names if name != "__default"),
            attempt=f"{stage_attempt or 1}.{job_attempt}" if is_retry(job_attempt) else stage_attempt,
        ),
        "environment": first(environment, "ENVIRONMENT_NAME", *_ENVIRONMENTS),
        "logs_url": f"{collection}/{_quoted(project)}/_build/results?buildId={_quoted(build_id)}" if known else "",
        "start_time": first(environment, "BUILD_STARTTIME", "SYSTEM_PIPELINESTARTTIME"),
    }


def _azure_release(environment: Mapping[str, str]) -> dict[str, str]:
    stage, release_id = first(environment, "RELEASE_ENVIRONMENTNAME"), first(environment, "RELEASE_RELEASEID")
    return {
        "job": first(environment, "RELEASE_DEFINITIONNAME"),
        "build_number": first(environment, "RELEASE_RELEASENAME"),
        # Builds and releases have independent numbers. The stage is included, because a flag may set the same
        # environment for two stages.
        "run": run_name(
            "azure_devops",
            _azure_path(*_azure_project(environment)),
            f"release-{release_id}",
            stage,
            attempt=first(environment, "RELEASE_ATTEMPTNUMBER"),
        ),
        "environment": stage or first(environment, *_ENVIRONMENTS),
        "logs_url": first(environment, "RELEASE_RELEASEWEBURL"),
        "start_time": first(environment, "RELEASE_DEPLOYMENT_STARTTIME"),
    }


def _azure_project(environment: Mapping[str, str]) -> tuple[str, str]:
    collection = first(environment, "SYSTEM_COLLECTIONURI", "SYSTEM_TEAMFOUNDATIONCOLLECTIONURI")
    return without_credentials(collection).rstrip("/"), first(environment, "SYSTEM_TEAMPROJECT")


def _azure_path(collection: str, project: str) -> str:
    organisation = collection.rpartition("/")[2]
    return f"{organisation}/{project}" if organisation and project else ""


def _argo_workflows(environment: Mapping[str, str]) -> dict[str, str]:
    """Argo sets no variable with the workflow's name in its containers; a template can set one."""
    name = first(environment, "ARGO_WORKFLOW_NAME")
    return {
        "job": name,
        "run": run_name("argo_workflows", name, first(environment, "ARGO_WORKFLOW_UID")),
        "environment": first(environment, *_ENVIRONMENTS),
    }


def _argocd(environment: Mapping[str, str]) -> dict[str, str]:
    """The build environment of Argo CD. It does not identify the sync, so the run comes from a flag or the JSON."""
    return {
        "job": first(environment, "ARGOCD_APP_NAME"),
        "repo_url": first(environment, "ARGOCD_APP_SOURCE_REPO_URL"),
        "branch": branch_of_target(first(environment, "ARGOCD_APP_SOURCE_TARGET_REVISION")),
        "commit_hash": first(environment, "ARGOCD_APP_REVISION"),
        "environment": first(environment, "ARGOCD_APP_NAMESPACE", *_ENVIRONMENTS),
    }


_READERS: dict[str, Callable[[Mapping[str, str]], dict[str, str]]] = {
    "jenkins": _jenkins,
    "github_actions": _github_actions,
    "gitlab_ci": _gitlab_ci,
    "circleci": _circleci,
    "azure_devops": _azure_devops,
    "argo_workflows": _argo_workflows,
    "argocd": _argocd,
}
SYSTEMS = (*_READERS, "other")


def _is_jenkins(environment: Mapping[str, str]) -> bool:
    """A Jenkins without a configured URL sets neither JENKINS_URL nor BUILD_URL; a container may get only a few."""
    return (
        first(environment, "BUILD_TAG").startswith("jenkins-")
        or "/job/" in first(environment, "BUILD_URL")
        or (_has(environment, "BUILD_NUMBER") and bool(first(environment, "JENKINS_URL", "JENKINS_HOME")))
    )


def _is_azure(environment: Mapping[str, str]) -> bool:
    return _says_yes(environment, "TF_BUILD") or _has(
        environment, "RELEASE_RELEASEID", "SYSTEM_TEAMFOUNDATIONCOLLECTIONURI"
    )


_MARKS: tuple[tuple[str, Callable[[Mapping[str, str]], bool]], ...] = (
    ("github_actions", lambda environment: _says_yes(environment, "GITHUB_ACTIONS")),
    ("gitlab_ci", lambda environment: _says_yes(environment, "GITLAB_CI")),
    ("circleci", lambda environment: _says_yes(environment, "CIRCLECI")),
    ("azure_devops", _is_azure),
    ("jenkins", _is_jenkins),
    ("argo_workflows", lambda environment: bool(first(environment, "ARGO_NODE_ID", "ARGO_WORKFLOW_NAME"))),
    ("argocd", lambda environment: _has(environment, "ARGOCD_APP_NAME", "ARGOCD_APP_SOURCE_REPO_URL")),
)


# ---- GitHub's event


def _github_event(environment: Mapping[str, str]) -> object:
    """The payload of the event that started the run, if it has fields that no variable has; otherwise None."""
    if not first(environment, "GITHUB_EVENT_NAME").startswith(("pull_request", "deployment")):
        return None
    path = first(environment, "GITHUB_EVENT_PATH")
    try:
        if not os.path.isfile(path):  # noqa: PTH113 - pathlib is slow to load; a pipe would be waited for
            return None
        with open(path, "rb") as file:  # noqa: PTH123
            content = file.read(_LONGEST_EVENT + 1)
        if len(content) > _LONGEST_EVENT:
            return None
        import json  # noqa: PLC0415 - needed for these events only

        event: object = json.loads(content)
    except (OSError, ValueError, RecursionError):  # the payload is optional
        return None
    return event


def _member(event: object, *names: str) -> str:
    """A nested text or number in an event; "" if missing or of another type."""
    for name in names:
        event = event.get(name) if isinstance(event, dict) else None
    if isinstance(event, bool) or not isinstance(event, str | int):
        return ""
    return str(event)


# ---- shared helpers


def _has(environment: Mapping[str, str], *names: str) -> bool:
    return all(first(environment, name) for name in names)


def _says_yes(environment: Mapping[str, str], name: str) -> bool:
    return first(environment, name).strip().lower() == "true"


def _of_ref(ref: str) -> str:
    """The branch or tag of a ref without remotes; "" for the ref of a pull request."""
    for prefix in ("refs/heads/", "refs/tags/"):
        if ref.startswith(prefix):
            return ref.removeprefix(prefix)
    return "" if ref.startswith("refs/") else ref


def _pull_request_of_ref(ref: str) -> str:
    """``refs/pull/7/merge`` -> ``7``"""
    number = ref.removeprefix("refs/pull/").partition("/")[0]
    return number if ref.startswith("refs/pull/") and _is_number(number) else ""


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _quoted(text: str) -> str:
    """Percent-encoded for a URL, like urllib's function; urllib is slow to load."""
    if not _is_unicode(text):
        return text  # the URL made from it is left out
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in text.encode())


def _told(values: Mapping[str, str]) -> dict[str, str]:
    """The values worth reporting: not blank, without credentials, valid in JSON."""
    clean = ((name, without_credentials(value) if name in _URLS else value) for name, value in values.items())
    return {name: value for name, value in clean if value and not value.isspace() and _is_unicode(value)}


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
