"""The fields of new jobs and builds, in the shape recorded from Jenkins 2.516.2."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from agent.sandbox.jenkins.model import LIVE, PERMALINKS, Build, Item, JsonObject
from agent.sandbox.jenkins.phases import PIPELINE_RUN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class JobKind(StrEnum):
    """Kinds of jobs."""

    FREESTYLE = "freestyle"
    PIPELINE = "pipeline"
    MATRIX = "matrix"


class FolderKind(StrEnum):
    """Kinds of folders."""

    FOLDER = "folder"
    MULTIBRANCH = "multibranch"
    ORGANIZATION = "organization"


FREESTYLE_BUILD: Final = "hudson.model.FreeStyleBuild"
EXECUTORS: Final = 4
_MATRIX_RUN: Final = "hudson.matrix.MatrixRun"
_MULTIBRANCH: Final = "org.jenkinsci.plugins.workflow.multibranch.WorkflowMultiBranchProject"
_JOB_CLASSES: Final = {
    JobKind.FREESTYLE: "hudson.model.FreeStyleProject",
    JobKind.PIPELINE: "org.jenkinsci.plugins.workflow.job.WorkflowJob",
    JobKind.MATRIX: "hudson.matrix.MatrixProject",
}
_FOLDER_CLASSES: Final = {
    FolderKind.FOLDER: "com.cloudbees.hudson.plugins.folder.Folder",
    FolderKind.MULTIBRANCH: _MULTIBRANCH,
    FolderKind.ORGANIZATION: "jenkins.branch.OrganizationFolder",
}
BUILD_CLASSES: Final = {
    "hudson.model.FreeStyleProject": FREESTYLE_BUILD,
    "org.jenkinsci.plugins.workflow.job.WorkflowJob": PIPELINE_RUN,
    "hudson.matrix.MatrixProject": "hudson.matrix.MatrixBuild",
    "hudson.matrix.MatrixConfiguration": _MATRIX_RUN,
}
_NAMED: Final[JsonObject] = {
    "description": None, "displayNameOrNull": None, "fullDisplayName": LIVE, "fullName": LIVE, "name": LIVE,
    "url": LIVE, "healthReport": [],
}  # fmt: skip
_JOB: Final[JsonObject] = {
    **_NAMED, "buildable": True, "builds": LIVE, "allBuilds": LIVE, "color": LIVE, "firstBuild": LIVE,
    "inQueue": False, "keepDependencies": False, "nextBuildNumber": 1, "property": [], "queueItem": None,
    "concurrentBuild": False, "disabled": False, **dict.fromkeys(PERMALINKS, LIVE),
}  # fmt: skip
_JOB_EXTRAS: Final[dict[JobKind, JsonObject]] = {
    JobKind.PIPELINE: {"concurrentBuild": True, "resumeBlocked": False},
    JobKind.FREESTYLE: {
        "description": "", "downstreamProjects": [], "labelExpression": None,
        "scm": {"_class": "hudson.plugins.git.GitSCM"},
        "upstreamProjects": [],
    },
    JobKind.MATRIX: {
        "downstreamProjects": [], "labelExpression": None, "scm": {"_class": "hudson.plugins.git.GitSCM"},
        "upstreamProjects": [], "activeConfigurations": [],
    },
}  # fmt: skip
_DISPLAY: Final = "org.jenkinsci.plugins.displayurlapi.actions"
_CREDENTIALS: Final = {"_class": "com.cloudbees.plugins.credentials.ViewCredentialsAction"}
_JOB_ACTIONS: Final = [{}, {}, {}, {"_class": f"{_DISPLAY}.JobDisplayAction"}, _CREDENTIALS]
_FOLDER_ACTIONS: Final = [{}, {}, {}, _CREDENTIALS]
USER_CAUSE: Final[JsonObject] = {
    "_class": "hudson.model.Cause$UserIdCause", "shortDescription": "Started by user admin", "userId": "admin",
    "userName": "admin",
}  # fmt: skip


def root(url: str) -> Item:
    """A controller without jobs."""
    views = {"_class": "hudson.model.AllView", "name": "all", "url": url}
    item = Item(
        "hudson.model.Hudson",
        {
            "assignedLabels": [{"name": "built-in"}], "mode": "NORMAL",
            "nodeDescription": "the Jenkins controller's built-in node", "nodeName": "", "numExecutors": EXECUTORS,
            "description": None, "jobs": LIVE, "overallLoad": {}, "primaryView": views, "quietDownReason": None,
            "quietingDown": False, "slaveAgentPort": -1,
            "unlabeledLoad": {"_class": "jenkins.model.UnlabeledLoadStatistics"}, "url": LIVE, "useCrumbs": True,
            "useSecurity": True, "views": [views],
        },
    )  # fmt: skip
    item.url = url
    return item


def job(kind: JobKind, parent: Item, name: str) -> Item:
    """A job without builds, below its parent."""
    item = Item(_JOB_CLASSES[kind], {**_JOB, **_JOB_EXTRAS[kind], "actions": _JOB_ACTIONS})
    item.place(parent, name)
    show_as(item, name)
    return item


def folder(kind: FolderKind, parent: Item, name: str) -> Item:
    """A folder without jobs, below its parent."""
    item = Item(_FOLDER_CLASSES[kind], {**_NAMED, "actions": _FOLDER_ACTIONS, "jobs": LIVE})
    item.place(parent, name)
    view = {"_class": "hudson.model.AllView", "name": "All", "url": item.url}
    item.fields |= {"primaryView": view, "views": [view]}
    if kind is FolderKind.MULTIBRANCH:
        item.fields |= {"buildable": True, "sources": []}
    show_as(item, name)
    return item


def show_as(item: Item, name: str) -> None:
    """Set the display name: a branch job is shown with the name of the branch, ``feature/x``."""
    branch = item.parent is not None and item.parent.json_class == _MULTIBRANCH
    shown = unquote(name) if branch else name
    item.fields |= {"displayName": shown, "displayNameOrNull": shown if shown != name else None}


def executor(json_class: str | None) -> JsonObject:
    """The ``executor`` of a running build at depth 0."""
    return {} if json_class == FREESTYLE_BUILD else {"_class": "hudson.model.OneOffExecutor"}


def build(job: Item, number: int, timestamp: int, actions: Sequence[JsonObject]) -> Build:
    """A build that has just started."""
    json_class = BUILD_CLASSES.get(job.json_class or "", FREESTYLE_BUILD)
    fields: JsonObject = {
        "actions": [*actions, {}, {}, {"_class": f"{_DISPLAY}.RunDisplayAction"}], "artifacts": [],
        "building": True, "description": None, "displayName": f"#{number}", "duration": 0,
        "estimatedDuration": -1, "executor": executor(json_class), "fullDisplayName": LIVE, "id": str(number),
        "inProgress": True, "keepLog": False, "number": number, "queueId": number, "result": None,
        "timestamp": timestamp, "url": LIVE, "culprits": [],
    }  # fmt: skip
    if json_class == PIPELINE_RUN:
        fields |= {"changeSets": [], "nextBuild": LIVE, "previousBuild": LIVE}
    else:
        fields |= {"builtOn": "", "changeSet": {"_class": "hudson.scm.EmptyChangeLogSet", "items": [], "kind": None}}
    if json_class == "hudson.matrix.MatrixBuild":
        fields["runs"] = []
    return Build(job, number, json_class, fields)


def parameters_action(parameters: Mapping[str, str | bool]) -> JsonObject:
    """``hudson.model.ParametersAction``."""
    return {
        "_class": "hudson.model.ParametersAction",
        "parameters": [
            {
                "_class": f"hudson.model.{'Boolean' if isinstance(value, bool) else 'String'}ParameterValue",
                "name": name,
                "value": value,
            }
            for name, value in parameters.items()
        ],
    }


def cause_action(causes: Sequence[Mapping[str, Any]]) -> JsonObject:
    """``hudson.model.CauseAction``."""
    return {"_class": "hudson.model.CauseAction", "causes": [dict(cause) for cause in causes]}


def build_data(number: int, repo: str, branch: str, commit: str) -> JsonObject:
    """``hudson.plugins.git.util.BuildData`` of one checkout."""
    revision = {"SHA1": commit, "branch": [{"SHA1": commit, "name": branch}]}
    last = {
        "_class": "hudson.plugins.git.util.Build", "buildNumber": number, "buildResult": None,
        "marked": revision, "revision": revision,
    }  # fmt: skip
    return {
        "_class": "hudson.plugins.git.util.BuildData", "buildsByBranchName": {branch: last},
        "lastBuiltRevision": revision, "remoteUrls": [repo], "scmName": "",
    }  # fmt: skip


def computers(root: Item, *, whole: bool) -> JsonObject:
    """``/computer/api/json`` of a controller without agents.

    A pipeline and a matrix parent run outside the numbered executors. An executor is empty at depth 0. With
    ``tree``, an idle one has ``currentExecutable: null`` (as ``hudson.model.Executor`` exports it).
    """
    running = [build for item in root.everything() if item.builds for build in item.builds.values() if build.executing]
    heavy = [build for build in running if build.json_class in {FREESTYLE_BUILD, _MATRIX_RUN}]
    flyweight = [build for build in running if build.json_class not in {FREESTYLE_BUILD, _MATRIX_RUN}]
    idle = [None] * (EXECUTORS - len(heavy))
    node = {
        "_class": "hudson.model.Hudson$MasterComputer", "actions": [],
        "assignedLabels": [{"name": "built-in"}], "description": "the Jenkins controller's built-in node",
        "displayName": "Built-In Node",
        "executors": [_executor(build, whole=whole) for build in [*heavy, *idle]],
        "icon": "symbol-computer", "iconClassName": "symbol-computer", "idle": not running, "jnlpAgent": False,
        "launchSupported": True, "loadStatistics": {"_class": "hudson.model.Label$1"},
        "manualLaunchAllowed": True, "monitorData": {}, "numExecutors": EXECUTORS, "offline": False,
        "offlineCause": None, "offlineCauseReason": "",
        "oneOffExecutors": [_executor(build, whole=whole) for build in flyweight],
        "temporarilyOffline": False,
    }  # fmt: skip
    return {
        "_class": "hudson.model.ComputerSet", "busyExecutors": len(heavy), "computer": [node],
        "displayName": "Nodes", "totalExecutors": EXECUTORS,
    }  # fmt: skip


def _executor(build: Build | None, *, whole: bool) -> JsonObject:
    if whole:
        return {}
    may_be_seen = build is not None and build.job.visible
    return {"currentExecutable": build if may_be_seen else None, "idle": build is None}


def queue_item(job: Item, number: int, since: int) -> JsonObject:
    """The ``queueItem`` of a job while one of its builds waits."""
    return {
        "_class": "hudson.model.Queue$BuildableItem", "actions": [], "blocked": False, "buildable": True,
        "id": number, "inQueueSince": since, "params": "", "stuck": False,
        "task": {"_class": job.json_class}, "url": f"queue/item/{number}/",
        "why": "Waiting for next available executor", "buildableStartMilliseconds": since, "pending": False,
    }  # fmt: skip


def whoami(username: str) -> JsonObject:
    """``/whoAmI/api/json``."""
    return {
        "_class": "hudson.security.WhoAmI", "anonymous": False, "authenticated": True,
        "authorities": ["authenticated"], "name": username,
    }  # fmt: skip


def me(username: str, root_url: str) -> JsonObject:
    """``/me/api/json``."""
    return {
        "_class": "hudson.model.User", "absoluteUrl": f"{root_url}user/{username}", "description": None,
        "fullName": username, "id": username, "property": [{"_class": "jenkins.security.ApiTokenProperty"}],
    }  # fmt: skip


def crumb() -> JsonObject:
    """``/crumbIssuer/api/json``. The sandbox does not require the crumb."""
    return {
        "_class": "hudson.security.csrf.DefaultCrumbIssuer",
        "crumb": "509662dd62f4f553380a7a4a5a14fa17533715457b6a09f7305f0bc28320f70d",
        "crumbRequestField": "Jenkins-Crumb",
    }  # fmt: skip
