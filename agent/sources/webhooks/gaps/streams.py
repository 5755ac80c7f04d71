"""The streams of each platform: what is asked for, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.sources.webhooks.gaps import azure, circleci, github, gitlab
from agent.sources.webhooks.gaps.look import Subject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config.settings import WebhookSettings
    from agent.sources.webhooks.gaps.values import Stream

# The second group is read only if a rule is about the project: the platform itself does not call these deployments.
_STREAMS: dict[str, tuple[dict[str, Stream], dict[str, Stream]]] = {
    "github": ({"deployments": github.deployments}, {"workflow runs": github.workflow_runs}),
    "gitlab": ({"deployments": gitlab.deployments}, {"pipelines": gitlab.pipelines}),
    "circleci": ({}, {"pipelines": circleci.pipelines}),
    "azure_devops": ({"releases": azure.releases}, {"runs": azure.runs}),
}
PLATFORMS = frozenset(_STREAMS)


def stream_of(subject: Subject) -> Stream:
    """The stream of a subject of :func:`subjects`."""
    always, by_rule = _STREAMS[subject.hook.platform]
    return (always | by_rule)[subject.stream]


def subjects(hooks: Sequence[WebhookSettings]) -> list[Subject]:
    """Everything that is asked for: hooks with a token and projects to repair."""
    found = []
    for hook in hooks:
        if hook.api_token is None or hook.platform not in _STREAMS:
            continue
        for project in hook.repair:
            always, by_rule = _STREAMS[hook.platform]
            has_rule = any(rule.project.match(project) is not None for rule in hook.rules)
            names = [*always, *(by_rule if has_rule else ())]
            found += [Subject(hook, project, name) for name in names]
    return found
