"""What the readers of several platforms do alike: rules, what is not wanted, times, addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.model.git import branch_name, without_credentials
from agent.model.required import why_no_event
from agent.model.status import Provider, known_words
from agent.sources.webhooks import times
from agent.sources.webhooks.values import Ended, Ignored, filled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.settings import WebhookRule, WebhookSettings
    from agent.model.part import Part

# What .NET writes for a time that is not known.
_NO_TIME = "0001-01-01"


def by_rule(
    hook: WebhookSettings, project: str, names: tuple[str, ...], report: Mapping[str, str], start: str = ""
) -> Ended | Ignored:
    """The end of a run that is a deployment only if a rule has one of its names."""
    rule = hook.rule_of(project, *names)
    if rule is None:
        return Ignored(f"no [[webhook.rule]] of {hook.name} matches {' or '.join(names)} of {project}")
    return ended(hook, project, report, rule, start)


def ended(
    hook: WebhookSettings, project: str, report: Mapping[str, str], rule: WebhookRule | None, start: str = ""
) -> Ended | Ignored:
    """The end of a deployment, with what the rule says about it, unless its project or environment is not wanted."""
    fields = dict(report)
    if rule is not None:
        fields["environment"] = rule.environment
        fields["repo_url"] = fields.get("repo_url") or rule.repo_url
        fields["branch"] = fields.get("branch") or rule.branch
    if hook.refuses_project(project):
        return Ignored(f"project {project} is not in projects of the webhook")
    if hook.refuses_environment(environment := fields.get("environment", "")):
        return Ignored(f"environment {environment or '(none)'} is not in environments of the webhook")
    if problem := _problem(fields):
        advice = f"give what it lacks in a [[webhook.rule]] of {hook.name} for {project}"
        return Ignored(f"the event has {problem}; {advice}", lacks=True)
    if fields["status"].lower() not in known_words(Provider(fields["provider"])):
        fields["status"] = "unknown"  # a word that the platform introduced later
    for name in ("repo_url", "logs_url"):
        fields[name] = without_credentials(fields.get(name, ""))
    return Ended(filled(fields), start)


def _problem(fields: Mapping[str, str]) -> str | None:
    """Why the report cannot become an event; None if it can."""
    branch = branch_name(fields.get("branch"), commit=fields.get("commit_hash", ""))
    return why_no_event(fields.get("repo_url"), fields.get("environment"), branch)


def moment(part: Part, path: str) -> int | None:
    """The time at a path (UTC ms); None if it is missing. Raises :class:`ValueError` for anything else."""
    return None if part.text(path).startswith(_NO_TIME) else times.moment(part, path)


def time(part: Part, path: str) -> str:
    """The time at a path as RFC 3339; "" if it is missing."""
    return times.written(moment(part, path))
