"""From a build and the rule that it matched to the deployment events, or to the reason why there is none.

A rule for whole builds gives one event for a build, a rule for stages one for each stage that matches and ran, and a
rule with ``checkouts = "each"`` one for each repository. Everything comes from the build as it was kept, so the same
build and rule give the same events at any time.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from agent.config.rules import MaskedParameterError, Options, fields_of
from agent.deployments import pulls, stages
from agent.deployments import repository as scm
from agent.model import event as events
from agent.model.build import Build, Reported
from agent.model.event import DeploymentEvent, InvalidEventError
from agent.model.git import branch_name, without_credentials
from agent.model.names import environment_of_name
from agent.model.status import Provider, Status, normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config.rules import Match, Rule, Template
    from agent.deployments.pulls import Pulls
    from agent.deployments.repository import Source
    from agent.model.build import Stage

# Where a field came from that the build itself reported.
SAID = "the build's own report"


@dataclass(frozen=True)
class Derivation:
    """One event of a build, or the ``reason`` why it cannot be made: what is missing and what helps.

    ``origins`` says for each field in words where its value came from. ``other_id`` is the id of a stage's event as
    long as its environment cannot be told.
    """

    deployment_id: str
    event: DeploymentEvent | None
    reason: str | None
    origins: dict[str, str]
    other_id: str | None = None

    def renamed(self, deployment_id: str) -> Derivation:
        """The same under another id."""
        event = self.event and events.renamed(self.event, deployment_id)
        return dataclasses.replace(self, deployment_id=events.limited_id(deployment_id), event=event)


def deployment_id(build: Build) -> str:
    """The id under which this build is known, whether or not its events can be derived."""
    return events.build_deployment_id(build.controller, build.job, build.number)


def derive(build: Build, match: Match, options: Options) -> list[Derivation]:
    """The events of a final build; never raises for what a build or a template may contain."""
    rule = match.rule
    units = _units(build, rule, options)
    if isinstance(units, str):
        return [Derivation(deployment_id(build), None, units, {})]
    each = rule.checkouts == "each" and not (build.reported and build.reported.repo_url)
    sources = scm.sources(build, repository=rule.repository, libraries=options.libraries, each=each)
    pulled = _pulls(build, sources)
    names = _names(sources)
    ids, others = _Ids(deployment_id(build)), _Ids(deployment_id(build))
    return [
        _derivation(_draft(build, match, options, unit, source), unit, name, pulled, (ids, others))
        for unit in units
        for source, name in zip(sources, names, strict=True)
    ]


def derive_reported(
    build: Build, match: Match, options: Options, reports: Sequence[Reported], *, several: bool
) -> list[tuple[Reported, Derivation]]:
    """The events of a build that reported itself, with the report that each is of.

    ``several``: it deployed to several environments, which are part of the ids then.
    """
    return [
        (said, each.renamed(events.part_deployment_id(each.deployment_id, said.environment or "")) if several else each)
        for said in reports
        for each in derive(replace(build, reported=said), match, options)
    ]


def to_json(build: Build) -> str:
    """What is kept with a row so that its event can be derived again."""
    return msgspec.json.encode(build).decode()


def from_json(source: str) -> Build:
    """The build of :func:`to_json`. Raises :class:`msgspec.MsgspecError` for anything else."""
    return msgspec.json.decode(source, type=Build)


def reported_in(source: str | None) -> Reported | None:
    """What the build of a row reported of itself, as it was kept with the row."""
    return None if source is None else from_json(source).reported


# ---- what there is an event of: the whole build, or each of some stages


@dataclass(frozen=True)
class _Unit:
    """The build, or one of its stages. Times are UTC milliseconds."""

    status: Status
    started_at: int
    ended_at: int
    logs_url: str
    origins: dict[str, str]
    stage: str | None = None
    groups: dict[str, str] = field(default_factory=dict)


def _units(build: Build, rule: Rule, options: Options) -> list[_Unit] | str:
    """The units of a build; or the reason why the rule wants no event of a build whose stages could not be read."""
    if build.reported is not None and build.reported.stage is not None:
        return [_reported_stage(build, build.reported.stage, options)]
    if rule.stage is None or build.reported is not None:
        return [_whole(build, options, "controller, job and number")]
    if build.stages is None:
        missing = f"the stages of the build could not be read: {build.stages_missing or 'nobody asked for them'}"
        if rule.without_stages == "none":
            advice = (
                f'without_stages = "build" in the rule for job = "{rule.job.text}" makes one event of the whole build'
            )
            return f"{missing}; {advice}, then replay"
        return [_whole(build, options, f"controller, job and number; the whole build: {missing}")]
    units = list[_Unit]()
    for stage in build.stages:
        groups = rule.stage.match(stage.name)
        if groups is not None and (result := stages.result_of(stage)) is not None:
            units.append(_staged(build, stage, result, groups, options))
    return units


def _whole(build: Build, options: Options, identity: str) -> _Unit:
    status, origin = _status(build.result, f"result {build.result}", options)
    origins = {
        "deployment_id": identity,
        "status": origin,
        "start_time": "the build's timestamp",
        "end_time": "the build's timestamp and duration",
        "logs_url": "the build's page",
    }
    return _Unit(status, build.started_at, build.ended_at, build.url, origins)


def _reported_stage(build: Build, stage: str, options: Options) -> _Unit:
    """A stage that reported itself; ``build`` has the stage's times and result then."""
    whole = _whole(build, options, f"controller, job and number; stage {stage}")
    origins = whole.origins | dict.fromkeys(("start_time", "end_time"), SAID)
    return dataclasses.replace(whole, origins=origins, stage=stage)


def _staged(build: Build, stage: Stage, result: str, groups: dict[str, str], options: Options) -> _Unit:
    name = f"stage {stage.name}"
    said = f"{name}: {stage.status}"
    if result == stages.UNFINISHED:
        status, origin = Status.UNKNOWN, f"{said} although the build is final -> {Status.UNKNOWN}"
    else:
        status, origin = _status(result, said, options)
    logs_url = _stage_page(build, stage)
    origins = {
        "deployment_id": f"controller, job and number; {name}",
        "status": origin,
        "start_time": name if stage.started_at else f"the build's timestamp; {name} tells no start",
        "end_time": name if stage.ended_at else f"the build's end; {name} tells none",
        "logs_url": f"the page of {name}" if logs_url else "the build's page",
    }
    return _Unit(
        status,
        stage.started_at or build.started_at,
        stage.ended_at or build.ended_at,
        logs_url or build.url,
        origins,
        stage.name,
        groups,
    )


def _status(result: str | None, said: str, options: Options) -> tuple[Status, str]:
    """The status and where it came from. ``said``: the word that Jenkins used for the result, and of what."""
    word = (result or "").upper()
    if (mapped := options.status_map.get(word)) is not None:
        told = "" if said == f"result {result}" else f" ({said})"
        return mapped, f"mapped by [status]: {word} -> {mapped}{told}"
    status = normalise(Provider.JENKINS, result)
    return status, f"{said if result else 'no result'} -> {status}"


def _stage_page(build: Build, stage: Stage) -> str | None:
    """The stage's page as an address; the plugin tells ``/job/shop/7/…`` without the root of the controller."""
    try:
        path = urlsplit(build.url).path
        if urlsplit(stage.url).scheme in ("http", "https"):
            return without_credentials(stage.url)
    except ValueError:  # half an IPv6 address
        return None
    start = path.find("/job/")
    if start < 0 or not stage.url.startswith(path[start:]):
        return None
    return build.url.removesuffix(path[start:]) + stage.url if build.url.endswith(path[start:]) else None


# ---- the fields of one event


@dataclass
class _Draft:
    """An event in the making: ``fields`` for :func:`agent.model.event.completed` but for id and pull requests."""

    rule: Rule
    fields: dict[str, Any]
    origins: dict[str, str]
    reason: str | None = None
    missing: str = ""

    @property
    def environment(self) -> str | None:
        """As it can be part of an id."""
        environment = self.fields.get("environment")
        return environment if isinstance(environment, str) and not events.excess("", environment) else None


@dataclass
class _Fields:
    """What templates can read, and where each of it came from."""

    build: Build
    values: dict[str, str]
    words: dict[str, str]

    def render(self, template: Template) -> tuple[str | None, str]:
        """The text and in words where it came from. Raises :class:`agent.config.rules.MaskedParameterError`."""
        masked = self.build.masked_parameters
        alternative = template.choose(self.values, masked)
        if alternative is None:
            return None, ""
        words = list(dict.fromkeys(self._origin(name) for name in fields_of(alternative)))
        if not words:
            return template.render(self.values, masked), "the rule's literal"
        whole = alternative.startswith("{") and alternative.find("}") == len(alternative) - 1
        origin = ", ".join(words)
        return template.render(self.values, masked), origin if whole else f'the rule\'s "{alternative}": {origin}'

    def _origin(self, name: str) -> str:
        return self.words.get(name) or f"parameter {name.removeprefix('params.')}"


def _template_fields(build: Build, match: Match, unit: _Unit, source: Source) -> _Fields:
    values = {f"params.{name}": value for name, value in build.parameters.items()} | {
        "job": build.job,
        "job.environment": environment_of_name(build.job),
        "number": str(build.number),
        "repo_url": source.repo_url or "",
        "branch": source.branch or "",
        "commit": source.commit or "",
    }
    words = {"job": "job name", "job.environment": "job name", "number": "build number"} | source.origins
    for name in match.groups:
        words[name] = f"job name ({name} of the rule's pattern)"
    values |= match.groups  # the rule's own names win
    if unit.stage is not None:
        words |= dict.fromkeys(("stage", *unit.groups), f"stage {unit.stage}")
        values |= {"stage": unit.stage} | unit.groups
    return _Fields(build, values, words)


def _draft(build: Build, match: Match, options: Options, unit: _Unit, source: Source) -> _Draft:
    """Everything but the id; with the reason when a template reads what nobody may know."""
    rule = match.rule
    fields = _template_fields(build, match, unit, source)
    draft = _Draft(rule, {}, dict(unit.origins), missing="" if source.repo_url else source.origins.get("repo_url", ""))
    draft.origins |= {"event_type": "the API's only one", "build_number": "build number"}
    draft.fields = {
        "status": unit.status,
        "started_at": unit.started_at,
        "ended_at": unit.ended_at,
        "commit_hash": source.commit,
        "build_number": str(build.number),
        "logs_url": unit.logs_url,
    }
    if source.commit:
        draft.origins["commit_hash"] = source.origins["commit"]
    said = build.reported or Reported()
    try:
        if said.branch:
            fields.values["branch"] = said.branch
        else:
            _fill_branch(draft, fields, match, unit, source)
        if not said.repo_url:
            _fill_repository(draft, fields, options, source)
        if not said.environment:
            _fill_environment(draft, fields, options)
        if rule.image is not None and not said.image:
            draft.fields["image"], draft.origins["image"] = fields.render(rule.image)
    except MaskedParameterError as error:
        draft.reason = str(error)
    _fill_reported(draft, said, options)
    return draft


def _fill_reported(draft: _Draft, said: Reported, options: Options) -> None:
    """What the build said of itself goes before what a rule or its JSON tells."""
    for name in ("branch", "repo_url", "environment", "commit_hash", "image", "logs_url"):
        if value := getattr(said, name):
            draft.fields[name], draft.origins[name] = value, SAID
    if said.branch:
        draft.fields["branch"] = branch_name(said.branch)
    if said.repo_url:
        draft.fields["repo_url"] = written_repo_url(said.repo_url, options)
    if said.environment:
        draft.fields["environment"] = written_environment(said.environment, options)


def written_repo_url(repo_url: str, options: Options) -> str:
    """The URL as it is sent: without credentials, in the form that ``[repositories]`` wants."""
    bare = without_credentials(repo_url)
    return scm.https_form(bare) if options.url_form == "https" else bare


def written_environment(environment: str, options: Options) -> str:
    """The name as it is sent: by ``[environments]``."""
    return options.environment_map.get(environment.strip().lower(), environment)


def _fill_branch(draft: _Draft, fields: _Fields, match: Match, unit: _Unit, source: Source) -> None:
    """First of all, because the other templates may read what the branch's template made."""
    branch, origin = source.branch, source.origins.get("branch", "")
    if draft.rule.branch is not None:
        rendered, origin = fields.render(draft.rule.branch)
        branch = branch_name(rendered) if rendered else None
        if "branch" not in match.groups and "branch" not in unit.groups:
            fields.values["branch"] = branch or ""
            fields.words["branch"] = origin
    draft.fields["branch"], draft.origins["branch"] = branch, origin


def _fill_repository(draft: _Draft, fields: _Fields, options: Options, source: Source) -> None:
    repo_url, origin = source.repo_url, source.origins.get("repo_url", "")
    if draft.rule.repo_url is not None:
        repo_url, origin = fields.render(draft.rule.repo_url)
    if repo_url:
        bare, written = without_credentials(repo_url), written_repo_url(repo_url, options)
        repo_url, origin = written, origin if written == bare else f"{origin}; in https form"
    draft.fields["repo_url"], draft.origins["repo_url"] = repo_url, origin


def _fill_environment(draft: _Draft, fields: _Fields, options: Options) -> None:
    environment, origin = fields.render(draft.rule.environment)
    if environment and (written := written_environment(environment, options)) != environment:
        environment, origin = written, f"{origin}; by [environments]: {environment} -> {written}"
    draft.fields["environment"], draft.origins["environment"] = environment, origin


# ---- ids, pull requests and the event itself


class _Ids:
    """Gives out the ids of one build's events: none twice, and the same ones each time."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._taken: set[str] = set()

    def give(self, unit: _Unit, environment: str | None, repository: str) -> str:
        """``base``, with the stage's environment and the repository behind it where a build has several events."""
        behind = [repository] if repository else []
        if unit.stage is None:
            choices = [behind]
        elif environment is None:
            choices = [[unit.stage, *behind]]
        else:
            choices = [[environment, *behind], [environment, unit.stage, *behind]]
        for parts in choices:
            if (name := events.part_deployment_id(self._base, *parts)) not in self._taken:
                self._taken.add(name)
                return name
        return self._numbered(choices[-1])

    def _numbered(self, parts: list[str]) -> str:
        """For a stage of a name that the build has more than once: ``:2``, ``:3`` and so on behind it."""
        number = 2
        while (name := events.part_deployment_id(self._base, *parts, str(number))) in self._taken:
            number += 1
        self._taken.add(name)
        return name


def _names(sources: list[Source]) -> list[str]:
    """What tells the repositories of a build's events apart: nothing when there is one, ``acme/shop``, or with host."""
    if len(sources) == 1:
        return [""]
    paths = [scm.path_of(source.repo_url or "") for source in sources]
    return [
        path if paths.count(path) == 1 else scm.plain(source.repo_url or "")
        for path, source in zip(paths, sources, strict=True)
    ]


def _pulls(build: Build, sources: list[Source]) -> Pulls:
    """Pull requests of the build, else of the upstream build that it deploys; change sets name no repository."""
    if (said := build.reported) is not None and (said.pr_number or said.pr_numbers):
        return pulls.Pulls(said.pr_number or str(said.pr_numbers[0]), said.pr_numbers, SAID)
    if len(sources) > 1:
        return pulls.Pulls(origin="left out: the build does not tell which repository they belong to")
    found = pulls.of_build(build)
    holder = scm.holder_of(build)
    if found.numbers or holder is build:
        return found
    above = pulls.of_build(holder)
    if not above.numbers:
        return above
    return pulls.Pulls(above.number, above.numbers, f"{above.origin} of upstream build {holder.job}#{holder.number}")


def _derivation(draft: _Draft, unit: _Unit, repository: str, pulled: Pulls, ids: tuple[_Ids, _Ids]) -> Derivation:
    name = ids[0].give(unit, draft.environment, repository)
    other = None if unit.stage is None else ids[1].give(unit, None, repository)
    origins = draft.origins
    if pulled.origin:
        origins |= dict.fromkeys(("pr_number", "pr_numbers"), pulled.origin)
    event, reason = None, draft.reason
    if reason is None:
        try:
            event = events.completed(
                deployment_id=name, pr_number=pulled.number, pr_numbers=pulled.numbers, **draft.fields
            )
        except InvalidEventError as error:
            reason = _advice(str(error), draft)
    for key in ("commit_hash", "image", "logs_url"):
        if problem := events.excess(key, draft.fields.get(key)):
            origins[key] = f"left out: {problem}"
    if draft.fields["ended_at"] < draft.fields["started_at"]:
        origins["end_time"] = f"the start; {origins['end_time']} would be before it"
    return Derivation(name, event, reason, {key: words for key, words in origins.items() if words}, other)


def _advice(problem: str, draft: _Draft) -> str:
    required = ("repo_url", "environment", "branch")
    where = f'in the rule for job = "{draft.rule.job.text}", then replay'
    if too_long := [key for key in required if f"{key} is " in problem]:
        return f"{problem}; set {' and '.join(too_long)} {where}"
    keys = [key for key in required if f"no {key}" in problem]
    if not keys:
        return problem
    known = f" ({draft.missing})" if draft.missing and "repo_url" in keys else ""
    return f"{problem} in the build{known}; set {' and '.join(keys)} {where}"
