"""From a build and the rule that it matched to the deployment event, or to the reason why there is none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

import msgspec

from agent import event as events
from agent.event import DeploymentEvent, InvalidEventError
from agent.jenkins.builds import Build, Checkout
from agent.jenkins.names import branch_name, environment_of_name, without_credentials
from agent.jenkins.rules import MaskedParameterError, Match
from agent.status import Provider, normalise

# A build records the checkout of a shared library like any other; told by the repository's name.
_LIBRARY_NAME = re.compile(r"(?i)(^|[-_./:])(lib|libs|library|libraries)(\.git)?/?$")
_BRANCH_PARAMETERS = ("BRANCH_NAME", "GIT_BRANCH", "BRANCH")


@dataclass(frozen=True)
class Underivable:
    """There should be an event but a required field cannot be found; ``reason`` says which and what helps."""

    reason: str


@dataclass(frozen=True)
class _Sources:
    repo_url: str | None = None
    branch: str | None = None
    commit: str | None = None


def deployment_id(build: Build) -> str:
    """The id under which this build is known, whether or not its event can be derived."""
    return events.build_deployment_id(build.controller, build.job, build.number)


def derive(build: Build, match: Match) -> DeploymentEvent | Underivable:
    """The event of a final build; never raises for what a build or a template may contain."""
    rule = match.rule
    sources = _sources(build)
    fields = {f"params.{name}": value for name, value in build.parameters.items()} | {
        "job": build.job,
        "job.environment": environment_of_name(build.job),
        "number": str(build.number),
        "repo_url": sources.repo_url or "",
        "branch": sources.branch or "",
        "commit": sources.commit or "",
    }
    fields |= match.groups  # the rule's own names win
    try:
        branch = sources.branch
        if rule.branch is not None:
            rendered = rule.branch.render(fields, build.masked_parameters)
            branch = branch_name(rendered) if rendered else None
            fields |= {"branch": branch or ""} | match.groups
        repo_url = sources.repo_url
        if rule.repo_url is not None:
            rendered = rule.repo_url.render(fields, build.masked_parameters)
            repo_url = without_credentials(rendered) if rendered else None
        return events.completed(
            deployment_id=deployment_id(build),
            status=normalise(Provider.JENKINS, build.result),
            started_at=build.started_at,
            ended_at=build.ended_at,
            repo_url=repo_url,
            environment=rule.environment.render(fields, build.masked_parameters),
            branch=branch,
            commit_hash=sources.commit,
            build_number=str(build.number),
            image=rule.image.render(fields, build.masked_parameters) if rule.image else None,
            logs_url=build.url,
        )
    except MaskedParameterError as error:
        return Underivable(str(error))
    except InvalidEventError as error:
        return Underivable(_advice(str(error), match))


def to_json(build: Build) -> str:
    """What is kept with a row so that its event can be derived again."""
    return msgspec.json.encode(build).decode()


def from_json(source: str) -> Build:
    """The build of :func:`to_json`. Raises :class:`msgspec.MsgspecError` for anything else."""
    return msgspec.json.decode(source, type=Build)


def _advice(problem: str, match: Match) -> str:
    keys = [key for key in ("repo_url", "environment", "branch") if f"no {key}" in problem]
    if not keys:
        return problem
    where = f'the rule for job = "{match.rule.job.text}"'
    return f"{problem} in the build; set {' and '.join(keys)} in {where}, then replay"


def _sources(build: Build) -> _Sources:
    """Repository, branch and commit of the application among the checkouts of the build."""
    checkout = _application(build.checkouts)
    if checkout is None:
        return _Sources(branch=_branch_elsewhere(build))
    index = _origin(checkout)
    names = checkout.branches[index : index + 1] or checkout.branches[:1]
    branch = branch_name(names[0]) if names else None
    urls = checkout.remote_urls
    repo_url = urls[index] if len(urls) == len(checkout.branches) else urls[0]
    return _Sources(repo_url, branch or _branch_elsewhere(build), checkout.commit)


def _application(checkouts: tuple[Checkout, ...]) -> Checkout | None:
    """The first checkout that is no shared library; a library only when there is nothing else."""
    for checkout in checkouts:
        if not any(_LIBRARY_NAME.search(url) for url in checkout.remote_urls):
            return checkout
    return checkouts[0] if checkouts else None


def _origin(checkout: Checkout) -> int:
    """With several remotes, the place of the one that is called origin; else the first."""
    for index, name in enumerate(checkout.branches):
        if name.removeprefix("refs/remotes/").startswith("origin/"):
            return index
    return 0


def _branch_elsewhere(build: Build) -> str | None:
    """A detached head or no checkout at all: the branch job's name or the build's parameters may know."""
    if build.branch_job:
        return unquote(build.job.rpartition("/")[2])
    for name in _BRANCH_PARAMETERS:
        if branch := branch_name(build.parameters.get(name, "")):
            return branch
    return None
