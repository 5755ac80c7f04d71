"""Azure DevOps: ends of stages, runs, builds and deployments of classic releases.

Bodies differ in what they know. None but ``build.complete`` 2.0 names the repository, and stages and runs name the
project only by its GUID.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from agent.deployments.systems.words import run_name
from agent.sources.webhooks.platforms import azure_source
from agent.sources.webhooks.platforms.deployment import by_rule, ended, moment, time
from agent.sources.webhooks.values import Ignored, Started, required

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.settings import WebhookSettings
    from agent.model.part import Part
    from agent.sources.webhooks.values import Delivery, Meaning

_STAGE, _RUN = "ms.vss-pipelines.stage-state-changed-event", "ms.vss-pipelines.run-state-changed-event"
_DETAILS = "set 'Resource details to send' of the service hook to All"
# A stage without a name in the YAML file.
_UNNAMED = "__default"
# Stages with these results did not run: the first was not due, the second was refused by an approval or a check.
_NOT_RUN = {"skipped": "was skipped", "rejected": "was rejected by an approval or a check"}


@dataclass(frozen=True)
class _Project:
    """``url``: of its pages. ``path``: organisation and project, as in the variables of a job."""

    url: str
    path: str


def read(delivery: Delivery, hook: WebhookSettings) -> Meaning:
    """The start or the end of a stage, run, build or deployment of a release."""
    body = delivery.body
    event = required(body, "eventType")
    # Releases: documentation and servers have both ms.vss-release.… and ms.azure-devops-release.…
    reader = _READERS.get(event.replace("ms.azure-devops-release.", "ms.vss-release."))
    if reader is None:
        return Ignored(f"the event {event!r:.60} is not the end of a deployment")
    if body.at("resource").is_missing:
        raise ValueError(f"resource is missing; {_DETAILS}")
    return reader(body, hook)


# ---- stages and runs of YAML pipelines


def run_of(body: Part, hook: WebhookSettings) -> tuple[str, str] | None:
    """The project and the id of the run that a stage or a run is about; None for other events.

    Raises :class:`ValueError` for a body of another shape.
    """
    if body.text("eventType") not in (_STAGE, _RUN):
        return None
    resource = body.at("resource")
    pages = [resource.text(f"{part}._links.web.href") for part in ("stage", "run")]
    addresses = [resource.text(f"{part}.url") for part in ("run", "pipeline")]
    return _project(body, hook, *pages, *addresses).path, required(resource.at("run"), "id")


def _stage(body: Part, hook: WebhookSettings) -> Meaning:
    resource = body.at("resource")
    stage, run, pipeline = (resource.at(name) for name in ("stage", "run", "pipeline"))
    name, job, state = required(stage, "name"), required(pipeline, "name"), required(stage, "state")
    project = _project(body, hook, stage.text("_links.web.href"), run.text("_links.web.href"), pipeline.text("url"))
    run_id = required(run, "id")
    key = run_name("azure_devops", project.path, run_id, name if name != _UNNAMED else "")
    result, at = stage.text("result"), moment(body, "createdDate")
    report = {
        "provider": "azure_devops",
        "job": job,
        "build_number": run.text("name"),
        "run": key,
        "status": result,
        "logs_url": stage.text("_links.web.href") or _results(project, run_id),
        "start_time": time(stage, "startTime"),
        "end_time": time(stage, "finishTime") or time(body, "createdDate"),
        **azure_source.of_run(resource),
    }
    names = (name, f"{job}/{name}")
    if state == "running" and at is not None and hook.rule_of(project.path, *names) is not None:
        return Started(key, at)
    if state != "completed":
        return Ignored(f"the stage {name} is not over: resource.stage.state is {state}")
    if reason := _NOT_RUN.get(result):
        return Ignored(f"the stage {name} {reason}")
    return by_rule(hook, project.path, names, report, "" if report["start_time"] else key)


def _run(body: Part, hook: WebhookSettings) -> Meaning:
    resource = body.at("resource")
    run, pipeline = resource.at("run"), resource.at("pipeline")
    name, state = pipeline.text("name") or required(run, "pipeline.name"), required(run, "state")
    project = _project(body, hook, run.text("_links.web.href"), run.text("url"), pipeline.text("url"))
    run_id = required(run, "id")
    report = {
        "provider": "azure_devops",
        "job": name,
        "build_number": run.text("name"),
        "run": run_name("azure_devops", project.path, run_id),
        "status": run.text("result"),
        "logs_url": run.text("_links.web.href") or _results(project, run_id),
        "start_time": time(run, "createdDate"),
        "end_time": time(run, "finishedDate") or time(body, "createdDate"),
        **azure_source.of_run(resource),
    }
    if state != "completed":
        return Ignored(f"the run is not over: resource.run.state is {state}")
    return by_rule(hook, project.path, (name,), report)


# ---- builds


def _build(body: Part, hook: WebhookSettings) -> Meaning:
    """``build.complete``: 1.0 has the result in ``status``, 2.0 in ``result``."""
    build = body.at("resource")
    name, build_id = required(build, "definition.name"), required(build, "id")
    project = _project(body, hook, build.text("_links.web.href"), build.text("url"), name=build.text("project.name"))
    report = {
        "provider": "azure_devops",
        "job": name,
        "build_number": build.text("buildNumber"),
        "run": run_name("azure_devops", project.path, build_id),
        "status": build.text("result") or build.text("status"),
        "logs_url": build.text("_links.web.href") or _results(project, build_id),
        "start_time": time(build, "startTime"),
        "end_time": time(build, "finishTime") or time(body, "createdDate"),
        **azure_source.of_build(build),
    }
    return by_rule(hook, project.path, (name,), report)


# ---- deployments of classic releases


def _release_started(body: Part, hook: WebhookSettings) -> Meaning:
    release = _Release.read(body, hook)
    at = moment(body, "createdDate")
    return Ignored("createdDate is missing") if at is None else Started(release.key, at)


def _release_ended(body: Part, hook: WebhookSettings) -> Meaning:
    release = _Release.read(body, hook)
    resource = body.at("resource")
    deployment, environment = resource.at("deployment"), resource.at("environment")
    status = environment.text("status") or deployment.text("deploymentStatus") or deployment.text("status")
    report = {
        "provider": "azure_devops",
        "job": release.pipeline,
        "build_number": release.name,
        "run": release.run,
        "status": status,
        "environment": release.stage,
        "logs_url": release.url,
        "start_time": time(deployment, "startedOn"),
        "end_time": time(deployment, "completedOn") or time(body, "createdDate"),
        **azure_source.of_release(resource),
    }
    rule = hook.rule_of(release.project.path, release.stage, f"{release.pipeline}/{release.stage}")
    return ended(hook, release.project.path, report, rule, "" if report["start_time"] else release.key)


@dataclass(frozen=True)
class _Release:
    """The deployment of a release to a stage. ``key``: the run without its attempt, which its start does not have."""

    project: _Project
    id: str
    name: str
    pipeline: str
    stage: str
    attempt: str
    url: str

    @classmethod
    def read(cls, body: Part, hook: WebhookSettings) -> _Release:
        resource = body.at("resource")
        deployment = resource.at("deployment")
        environment = resource.at("environment")
        if environment.is_missing:
            environment = deployment.at("environment")
        release = next(
            (each for each in (environment.at("release"), deployment.at("release")) if not each.is_missing),
            environment.at("release"),
        )
        definition = environment.text("releaseDefinition.name") or release.text("releaseDefinition.name")
        page = release.text("_links.web.href")
        attempts = [step.number("attempt") for step in environment.items("deploySteps")]
        return cls(
            project=_project(
                body, hook, page, release.text("url"),
                name=resource.text("project.name") or release.text("project.name"),
            ),
            id=required(release, "id"),
            name=release.text("name"),
            pipeline=definition or resource.text("release.releaseDefinition.name"),
            stage=required(environment, "name"),
            attempt=deployment.number("attempt") or max(attempts, key=lambda text: (len(text), text), default=""),
            url=page,
        )  # fmt: skip

    @property
    def key(self) -> str:
        return run_name("azure_devops", self.project.path, f"release-{self.id}", self.stage)

    @property
    def run(self) -> str:
        return run_name("azure_devops", self.project.path, f"release-{self.id}", self.stage, attempt=self.attempt)


# ---- projects


def _project(body: Part, hook: WebhookSettings, *urls: str, name: str = "") -> _Project:
    """The project of the first of these URLs that has one: ``https://dev.azure.com/acme/Web%20Shop/_build/…``."""
    containers = body.at("resourceContainers")
    collection = containers.text("collection.baseUrl") or containers.text("account.baseUrl")
    where = next((found for url in urls if (found := _before_page(url))), "")
    base, _, found = where.rpartition("/")
    if not where and not (collection and name):
        raise ValueError(f"resource has no URL of the project; {_DETAILS}")
    base = (collection or base).rstrip("/")
    organisation, project = base.rpartition("/")[2], name or _named(hook, base) or unquote(found)
    return _Project(f"{base}/{quote(project.encode('utf-8', 'replace'))}", f"{organisation}/{project}")


def _before_page(url: str) -> str:
    """``https://dev.azure.com/acme/Web%20Shop`` of the URL of a page or of the API; "" for anything else."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    path, mark, _ = parts.path.partition("/_")
    return f"{parts.scheme}://{parts.netloc}{path}" if mark and parts.netloc and path.strip("/") else ""


def _named(hook: WebhookSettings, base: str) -> str:
    """The name of the project, if ``projects`` is one name. Stages and runs have only the GUID of their project."""
    if hook.projects is None or len(hook.projects) != 1:
        return ""
    organisation, _, project = hook.projects[0].text.partition("/")
    is_name = organisation == base.rpartition("/")[2] and not any(sign in project for sign in "*?/")
    return project if is_name else ""


def _results(project: _Project, build_id: str) -> str:
    return f"{project.url}/_build/results?buildId={build_id}"


_READERS: dict[str, Callable[[Part, WebhookSettings], Meaning]] = {
    _STAGE: _stage,
    _RUN: _run,
    "build.complete": _build,
    "ms.vss-release.deployment-started-event": _release_started,
    "ms.vss-release.deployment-completed-event": _release_ended,
}
