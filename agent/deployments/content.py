"""Builds the content of each part of a build, field by field, and records where each field came from.

A rule for whole builds produces one part, a rule for stages one for each matching stage that ran, and a rule with
``checkouts = "each"`` one for each repository. Reported values override those from the build's JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from agent.config.rules import MaskedParameterError, fields_of, valueless_of, without_value
from agent.deployments import pulls, reported, stages
from agent.deployments import repository as scm
from agent.deployments.attempts import each_attempt, last_attempts
from agent.deployments.checkouts import Wanted
from agent.deployments.reported import SAID
from agent.deployments.urls import https_form, path_of, plain
from agent.model import event as events
from agent.model.deployment import Content, Name, Scope, event_of
from agent.model.event import InvalidEventError
from agent.model.fact import Report
from agent.model.git import branch_name, without_credentials
from agent.model.keys import JENKINS
from agent.model.names import environment_in_name, environment_of_name
from agent.model.required import excess
from agent.model.status import Provider, Status, normalise, parse_word

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agent.config.rules import Match, Options, Rule, Template
    from agent.deployments.attempts import Attempt
    from agent.deployments.pulls import Pulls
    from agent.deployments.repository import Source
    from agent.model.build import Build, Stage

NOTHING_SAID = Report(provider=JENKINS)
# Hivel's words for results, translated into Jenkins'.
_RESULTS = {"FAILED": "FAILURE", "CANCELED": "ABORTED", "CANCELLED": "ABORTED", "UNKNOWN": ""}


@dataclass(frozen=True)
class Found:
    """One part of a build: its name, its content, and the origin of each field, for people.

    ``suffixes``: candidates for the rest of the id after the build's id, most preferred first.
    """

    name: Name
    content: Content
    origins: dict[str, str]
    suffixes: tuple[tuple[str, ...], ...] = ((),)


@dataclass(frozen=True)
class Basis:
    """The input for the parts of one build: ``build`` as far as polls know it, its rule, and its report.

    ``left_out``: why a reported value does not count, for people, by field.
    """

    build: Build
    match: Match
    options: Options
    said: Report = NOTHING_SAID
    left_out: dict[str, str] = field(default_factory=dict)

    def wanted(self) -> Wanted:
        """The conditions that select the application's repository."""
        said, rule = self.said, self.match.rule
        url = (said.repo_url or "") if "repo_url" in said.given else ""
        return Wanted(self.options.libraries, rule.repository, url, tuple(_named(self)))

    def sources(self, *, each: bool = False) -> list[Source]:
        """Where the build's code comes from."""
        return scm.sources(self.build, wanted=self.wanted(), each=each)

    def weighed(self) -> Basis:
        """The same with only the values of the report that count."""
        if not reported.tells_place(self.said):
            return self
        said, left_out = reported.counted(self.said, self.sources()[0], self.wanted())
        return replace(self, said=said, left_out=left_out)


# ---- the parts


def of_rule(basis: Basis) -> list[Found]:
    """The parts that the rule derives from a finished build; none if it selects stages and none of them ran."""
    basis = basis.weighed()
    build, rule = basis.build, basis.match.rule
    units = _units(build, rule, basis.options)
    if isinstance(units, str):
        unit = _whole(build, basis.options, "controller, job and number")
        content = Content(status=unit.status, started_at=unit.started_at, ended_at=unit.ended_at, problem=units)
        return [Found(Name(Scope.WHOLE), content, {})]
    sources = basis.sources(each=rule.checkouts == "each" and not basis.said.repo_url)
    names, again = _repository_names(sources), _Counter()
    found = []
    for unit in units:
        for source, repository in zip(sources, names, strict=True):
            content, origins = _content(basis, unit, source, alone=len(sources) == 1)
            scope = Scope.RULE if unit.stage is not None or repository else Scope.WHOLE
            name = Name(scope, unit.stage or "", repository=repository)
            name = name._replace(again=again.count(name))
            found.append(Found(name, content, origins, _suffixes(unit.stage, content.environment, repository)))
    return found


def of_whole(basis: Basis) -> tuple[Content, dict[str, str]]:
    """The content for a report about a whole build."""
    basis = basis.weighed()
    unit = _whole(basis.build, basis.options, "controller, job and number")
    return _content(basis, unit, basis.sources()[0], alone=True)


def of_stage(basis: Basis, times: tuple[int, int]) -> tuple[Content, dict[str, str]]:
    """The content for a stage that sent its own report; ``times``: its start and end (UTC ms)."""
    basis = basis.weighed()
    build, said = basis.build, basis.said
    result = result_of(said)
    status, origin = _status(result, f"{SAID}: {result}", basis.options)
    origins = {
        "deployment_id": f"controller, job and number; stage {said.stage}",
        "status": origin,
        "start_time": SAID if said.started_at is not None else f"the same as the end; {SAID} has no start",
        "end_time": SAID if said.ended_at is not None else f"time of the report; {SAID} has no end",
        "logs_url": "the build's page",
    }
    unit = _Unit(status, *times, build.url, origins, said.stage)
    return _content(basis, unit, basis.sources()[0], alone=True)


def of_report(said: Report, options: Options, times: tuple[int, int]) -> tuple[Content, dict[str, str]]:
    """The content for a run of another CI system, from its report alone. ``times``: its start and end (UTC ms)."""
    content = Content(
        status=_status_of_provider(said),
        started_at=times[0],
        ended_at=times[1],
        environment=written_environment(said.environment, options) if said.environment else None,
        repo_url=written_repo_url(said.repo_url, options) if said.repo_url else None,
        branch=branch_name(said.branch, commit=said.commit_hash or "") if said.branch else None,
        commit_hash=said.commit_hash,
        build_number=said.build_number,
        pr_number=said.pr_number or (str(said.pr_numbers[0]) if said.pr_numbers else None),
        pr_numbers=said.pr_numbers,
        image=said.image,
        logs_url=said.logs_url or said.url,
    )
    declared = content.repo_url and Wanted(options.libraries).is_library(content.repo_url)
    return _checked(content, _declared(content.repo_url) if declared else None), {}


def result_of(said: Report) -> str | None:
    """The reported result in Jenkins' terms."""
    word = (said.status or "").upper()
    return _RESULTS.get(word, word) or None


def _status_of_provider(said: Report) -> Status:
    """The status for the system's word or one of Hivel's four."""
    try:
        return parse_word(Provider(said.provider), said.status or "")
    except ValueError:  # stored before reports were checked for unknown words
        return Status.UNKNOWN


def _named(basis: Basis) -> Iterator[tuple[str, str]]:
    """Revisions named by the report and the rule, each with its origin for people."""
    said, template = basis.said, basis.match.rule.branch
    for name in ("commit_hash", "branch"):
        if name in said.given and (value := getattr(said, name)):
            yield value, SAID
    if template is None:
        return
    fields = _Fields(basis.build, _parameters(basis.build) | _of_job(basis), {})
    try:
        text, _ = fields.render(template)
    except MaskedParameterError:
        return
    if text:
        yield text, f'the rule\'s branch = "{template.text}"'


class _Counter:
    """Counts stages with the same name: 0 for the first."""

    def __init__(self) -> None:
        self._seen: dict[Name, int] = {}

    def count(self, name: Name) -> int:
        self._seen[name] = self._seen.get(name, -1) + 1
        return self._seen[name]


def _suffixes(stage: str | None, environment: str | None, repository: str) -> tuple[tuple[str, ...], ...]:
    """Suffixes for the ids of a build with several parts: the stage's environment, and the repository if needed."""
    behind = (repository,) if repository else ()
    if stage is None:
        return (behind,)
    if environment is None or excess("", environment):
        return ((stage, *behind),)
    return ((environment, *behind), (environment, stage, *behind))


# ---- units: the whole build, or a stage


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
    """The units of a build; or the reason why there is no event, if its stages could not be read."""
    if rule.stage is None:
        return [_whole(build, options, "controller, job and number")]
    if build.stages is None:
        missing = f"the stages of the build could not be read: {build.stages_missing or 'they were not requested'}"
        if rule.without_stages == "none":
            advice = f'set without_stages = "build" in the rule for job = "{rule.job.text}" to report the whole build'
            return f"{missing}; {advice}, then replay"
        return [_whole(build, options, f"controller, job and number; the whole build: {missing}")]
    matching = [stage for stage in build.stages if rule.stage.match(stage.name) is not None]
    ran = each_attempt(matching) if rule.attempts == "each" else last_attempts(matching)
    return [_staged(build, attempt, rule.stage.match(attempt.stage.name) or {}, options) for attempt in ran]


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


def _staged(build: Build, attempt: Attempt, groups: dict[str, str], options: Options) -> _Unit:
    stage, result = attempt.stage, attempt.result
    name = f"stage {stage.name}"
    said = f"{name}: {stage.status}" + (f" (according to {stage.told_by})" if stage.told_by else "")
    if attempt.of > 1:
        said = f"{said}, the last of {attempt.of} attempts"
    if result == stages.UNFINISHED:
        status, origin = Status.UNKNOWN, f"{said} although the build is final -> {Status.UNKNOWN}"
    else:
        status, origin = _status(result, said, options)
    logs_url = _stage_page(build, stage)
    origins = {
        "deployment_id": f"controller, job and number; {name}",
        "status": origin,
        "start_time": name if stage.started_at else f"the build's timestamp; {name} has no start",
        "end_time": name if stage.ended_at else f"the build's end; {name} has no end",
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
    """The status and its origin. ``said``: what reported the result, with the result in Jenkins' terms."""
    word = (result or "").upper()
    if (mapped := options.status_map.get(word)) is not None:
        told = "" if said == f"result {result}" else f" ({said})"
        return mapped, f"mapped by [status]: {word} -> {mapped}{told}"
    status = normalise(Provider.JENKINS, result)
    return status, f"{said if result else 'no result'} -> {status}"


def _stage_page(build: Build, stage: Stage) -> str | None:
    """The URL of the stage's page; the plugin returns ``/job/shop/7/…`` without the controller's root."""
    try:
        path = urlsplit(build.url).path
        if urlsplit(stage.url).scheme in ("http", "https"):
            return without_credentials(stage.url)
    except ValueError:  # an incomplete IPv6 address
        return None
    start = path.find("/job/")
    if start < 0 or not stage.url.startswith(path[start:]):
        return None
    return build.url.removesuffix(path[start:]) + stage.url if build.url.endswith(path[start:]) else None


# ---- the fields of one event


@dataclass
class _Draft:
    """A content in progress: its ``fields`` without the pull requests."""

    rule: Rule
    fields: dict[str, Any]
    origins: dict[str, str]
    reason: str | None = None
    missing: str = ""


@dataclass
class _Fields:
    """The fields for templates, and the origin of each."""

    build: Build
    values: dict[str, str]
    words: dict[str, str]

    def render(self, template: Template) -> tuple[str | None, str]:
        """The text and its origin, for people. Raises :class:`agent.config.rules.MaskedParameterError`."""
        masked, kinds = self.build.masked_parameters, self.build.parameter_kinds
        alternative = template.choose(self.values, masked, kinds)
        if alternative is None:
            return None, ""
        words = list(dict.fromkeys(self._origin(name) for name in fields_of(alternative)))
        whole = alternative.startswith("{") and alternative.find("}") == len(alternative) - 1
        origin = ", ".join(words) or "literal text of the rule"
        if words and not whole:
            origin = f'the rule\'s "{alternative}": {origin}'
        before = template.alternatives[: template.alternatives.index(alternative)]
        passed_over = [name for each in before for name in valueless_of(fields_of(each), masked)]
        told = [without_value(name, kinds) for name in dict.fromkeys(passed_over)]
        return template.render(self.values, masked, kinds), "; ".join((origin, *told))

    def _origin(self, name: str) -> str:
        return self.words.get(name) or f"parameter {name.removeprefix('params.')}"


def _template_fields(basis: Basis, unit: _Unit, source: Source) -> _Fields:
    build, match = basis.build, basis.match
    values = _parameters(build) | {
        "repo_url": source.repo_url or "",
        "branch": source.branch or "",
        "commit": source.commit or "",
    }
    by_name = "job name" if environment_in_name(build.job) else "default: the job's name contains no environment"
    words = {"job": "job name", "job.environment": by_name, "number": "build number"} | source.origins
    for name in match.groups:
        words[name] = f"job name (group {name} of the rule's pattern)"
    values |= _of_job(basis)
    if unit.stage is not None:
        words |= dict.fromkeys(("stage", *unit.groups), f"stage {unit.stage}")
        values |= {"stage": unit.stage} | unit.groups
    return _Fields(build, values, words)


def _parameters(build: Build) -> dict[str, str]:
    return {f"params.{name}": value for name, value in build.parameters.items()}


def _of_job(basis: Basis) -> dict[str, str]:
    """Fields from the job's name; the rule's own named groups win."""
    build = basis.build
    told = {"job": build.job, "job.environment": environment_of_name(build.job), "number": str(build.number)}
    return told | basis.match.groups


def _draft(basis: Basis, unit: _Unit, source: Source) -> _Draft:
    """Everything but the id. Contains the problem if a template needs a masked parameter."""
    rule, said, options = basis.match.rule, basis.said, basis.options
    fields = _template_fields(basis, unit, source)
    draft = _Draft(rule, {}, dict(unit.origins), missing="" if source.repo_url else source.origins.get("repo_url", ""))
    draft.origins |= {"event_type": "the only event type of the API", "build_number": "build number"}
    draft.fields = {
        "status": unit.status,
        "started_at": unit.started_at,
        "ended_at": unit.ended_at,
        "commit_hash": source.commit,
        "first_commit_at": _first_commit_at(source),
        "build_number": str(basis.build.number),
        "logs_url": unit.logs_url,
    }
    if source.commit:
        draft.origins["commit_hash"] = source.origins["commit"]
    try:
        if said.branch:
            fields.values["branch"] = said.branch
        else:
            _fill_branch(draft, fields, basis.match, unit, source)
        if not said.repo_url:
            _fill_repository(draft, fields, options, source)
        if not said.environment:
            _fill_environment(draft, fields, options)
        if rule.image is not None and not said.image:
            draft.fields["image"], draft.origins["image"] = fields.render(rule.image)
    except MaskedParameterError as error:
        draft.reason = str(error)
    _fill_reported(draft, said, options)
    for name, words in basis.left_out.items():
        draft.origins[name] = "; ".join(filter(None, (draft.origins.get(name), words)))
    _take_out_library(draft, basis.wanted())
    return draft


def _take_out_library(draft: _Draft, wanted: Wanted) -> None:
    """Remove a repository that is declared a library, wherever it came from."""
    repo_url = draft.fields.get("repo_url")
    if repo_url and wanted.is_library(repo_url):
        draft.fields["repo_url"] = None
        draft.missing = draft.origins["repo_url"] = _declared(repo_url)


def _declared(repo_url: str | None) -> str:
    return f"{repo_url} is listed in [repositories] libraries"


def _first_commit_at(source: Source) -> int | None:
    """The time of the oldest new commit (UTC milliseconds)."""
    times = [each.oldest_at for of in (source, *source.others) for each in of.changes if each.oldest_at is not None]
    return min(times, default=None)


def _fill_reported(draft: _Draft, said: Report, options: Options) -> None:
    """Reported values override those from a rule or the build's JSON."""
    for name in ("branch", "repo_url", "environment", "commit_hash", "image", "logs_url"):
        if value := getattr(said, name):
            draft.fields[name], draft.origins[name] = value, reported.origin(said, name)
    if said.branch:
        draft.fields["branch"] = branch_name(said.branch, commit=said.commit_hash or "")
    if said.repo_url:
        draft.fields["repo_url"] = written_repo_url(said.repo_url, options)
    if said.environment:
        draft.fields["environment"] = written_environment(said.environment, options)


def written_repo_url(repo_url: str, options: Options) -> str:
    """The URL as it is sent: without credentials, in the form set in ``[repositories]``."""
    bare = without_credentials(repo_url)
    return https_form(bare) if options.url_form == "https" else bare


def written_environment(environment: str, options: Options) -> str:
    """The environment name as it is sent, after ``[environments]``."""
    return options.environment_map.get(environment.strip().lower(), environment)


def _fill_branch(draft: _Draft, fields: _Fields, match: Match, unit: _Unit, source: Source) -> None:
    """Called first, because other templates may use the branch."""
    branch, origin = source.branch, source.origins.get("branch", "")
    if draft.rule.branch is not None:
        rendered, origin = fields.render(draft.rule.branch)
        branch = rendered if rendered == source.branch else branch_name(rendered, commit=source.commit or "")
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
        repo_url, origin = written, origin if written == bare else f"{origin}; converted to https"
    draft.fields["repo_url"], draft.origins["repo_url"] = repo_url, origin


def _fill_environment(draft: _Draft, fields: _Fields, options: Options) -> None:
    environment, origin = fields.render(draft.rule.environment)
    if environment and (written := written_environment(environment, options)) != environment:
        environment, origin = written, f"{origin}; mapped by [environments]: {environment} -> {written}"
    draft.fields["environment"], draft.origins["environment"] = environment, origin


# ---- pull requests, and the content itself


def _repository_names(sources: list[Source]) -> list[str]:
    """What distinguishes the repositories of a build: nothing for a single one, ``acme/shop``, or with host."""
    if len(sources) == 1:
        return [""]
    paths = [path_of(source.repo_url or "") for source in sources]
    return [
        path if paths.count(path) == 1 else plain(source.repo_url or "")
        for path, source in zip(paths, sources, strict=True)
    ]


def _pulls(build: Build, said: Report, source: Source, *, alone: bool) -> Pulls:
    """Pull requests of the build, else of the builds whose code it deploys; only those of the source's repository."""
    if said.pr_number or said.pr_numbers:
        return pulls.Pulls(said.pr_number or str(said.pr_numbers[0]), said.pr_numbers, SAID)
    if not alone:
        told = _joined([pulls.of_messages(_messages(source))], "merges in the change sets")
        return told or pulls.Pulls(origin="left out: the build does not show which repository they belong to")
    mine = source if source.build is build else scm.NOTHING
    found = pulls.of_build(build, checkouts=mine.checkouts, messages=_messages(mine))
    if found.numbers or source.build is None or source.build is build:
        return found
    held = {
        each.whose: pulls.of_build(each.build or build, checkouts=each.checkouts, messages=_messages(each))
        for each in (source, *source.others)
    }
    telling = {whose: each for whose, each in held.items() if each.numbers}
    words = ", ".join(f"{each.origin}{whose}" for whose, each in telling.items())
    return _joined([each.numbers for each in telling.values()], words) or pulls.Pulls()


def _joined(several: Iterable[Iterable[int]], words: str) -> Pulls | None:
    numbers = tuple(dict.fromkeys(number for each in several for number in each))[: events.MOST_PULL_REQUESTS]
    return pulls.Pulls(str(numbers[0]), numbers, words) if numbers else None


def _messages(source: Source) -> tuple[str, ...]:
    """The messages of all new commits, newest first."""
    return tuple(message for each in source.changes for message in each.messages)


def _content(basis: Basis, unit: _Unit, source: Source, *, alone: bool) -> tuple[Content, dict[str, str]]:
    draft = _draft(basis, unit, source)
    pulled = _pulls(basis.build, basis.said, source, alone=alone)
    origins = draft.origins
    if pulled.origin:
        origins |= dict.fromkeys(("pr_number", "pr_numbers"), pulled.origin)
    content = Content(pr_number=pulled.number, pr_numbers=pulled.numbers, **draft.fields)
    content = _checked(content, draft.reason)
    if content.problem is not None and draft.reason is None:
        content = msgspec.structs.replace(content, problem=_advice(content.problem, draft))
    for key in ("commit_hash", "image", "logs_url"):
        if problem := excess(key, draft.fields.get(key)):
            origins[key] = f"left out: {problem}"
    if content.ended_at < content.started_at:
        origins["end_time"] = f"the same as the start, because {origins['end_time']} would be earlier"
    return content, {key: words for key, words in origins.items() if words}


def _checked(content: Content, problem: str | None = None) -> Content:
    """The content, with ``problem`` set if no event can be created."""
    if problem is None:
        try:
            event_of("", content)
        except InvalidEventError as error:
            problem = str(error)
    return content if problem is None else msgspec.structs.replace(content, problem=problem)


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
