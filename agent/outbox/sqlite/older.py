"""Converts a row of the tables of versions 1 to 5 into today's deployment and facts.

Those versions stored an event with its id and payload. Its build is encoded in the id (see ``older_ids``). Until
delivery it is also in ``source``, the JSON of the build, or of a build that was constructed from a report.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec

from agent.model import fact as facts
from agent.model.build import Build, Stage
from agent.model.deployment import Content, Deployment, Name, Scope, State
from agent.model.event import DeploymentEvent
from agent.model.fact import Kind, Report, word_of
from agent.model.keys import JENKINS, Run, jenkins_run, run_of_id
from agent.model.status import Provider, Status, normalise
from agent.outbox.sqlite.older_ids import behind_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.model.fact import Fact
    from agent.outbox.sqlite.older_ids import OldIds, OldKey

# Times of Jenkins and of this machine that differ by less count as equal, because Jenkins' clock is read in seconds.
_SAME_CLOCK_MS = 60_000
_REPOSITORY = re.compile(r"(?:[a-z+]+://)?(?:[^/@]*@)?(?P<host>[^/:]+)(?::\d+)?[/:](?P<path>.+?)(?:\.git)?/*", re.I)
_EVENT = msgspec.json.Decoder(DeploymentEvent).decode
_STATES = {state.value: state for state in (State.PENDING, State.HELD, State.DELIVERED, State.FAILED)}


class UnsoundError(ValueError):
    """A row that no version of the agent writes: the file is damaged."""


class OldRow(NamedTuple):
    """A row of ``events``. ``started_at``: start of the build.

    ``reported``: None if a poll found it; otherwise the stage that sent the report, empty for a whole build.
    """

    id: int
    deployment_id: str
    state: str
    payload: str | None
    source: str | None
    started_at: int
    created_at: int
    next_attempt_at: int
    attempts: int
    settled_at: int | None
    reason: str | None
    reported: str | None

    @classmethod
    def of(cls, values: tuple[object, ...]) -> Self:
        """A row from these values. Raises :class:`UnsoundError` if their types are wrong."""
        try:
            return msgspec.convert(values, cls)
        except msgspec.ValidationError as error:
            raise UnsoundError(f"event {values[0]} is not valid: {error}") from error


class Said(msgspec.Struct, frozen=True):
    """What a build reported about itself, as in a ``source``."""

    stage: str | None = None
    environment: str | None = None
    repo_url: str | None = None
    branch: str | None = None
    commit_hash: str | None = None
    image: str | None = None
    logs_url: str | None = None
    pr_number: str | None = None
    pr_numbers: tuple[int, ...] = ()


class Source(msgspec.Struct, frozen=True):
    """The JSON in ``source``.

    ``early``: result and times come from the report and are not final. Early releases of version 3 did not store it.
    """

    controller: str
    job: str
    number: int
    started_at: int
    ended_at: int
    url: str = ""
    result: str | None = None
    stages: tuple[Stage, ...] | None = None
    reported: Said | None = None
    early: bool = False


_SOURCE = msgspec.json.Decoder(Source).decode
_NOT_POLLED = ("reported", "early")
_MADE_UP = {"controller", "job", "number", "url", "result", "started_at", "ended_at", *_NOT_POLLED}


class Converted(NamedTuple):
    """The result of a conversion. ``wanted``: a build that sent a report and that no poll has read."""

    deployment: Deployment
    facts: tuple[Fact, ...] = ()
    wanted: bool = False


class Older:
    """Converts rows. ``clocks_ahead``: how far the controllers' clocks are ahead of this machine's (ms)."""

    def __init__(self, ids: OldIds, clocks_ahead: Mapping[str, int]) -> None:
        self._ids = ids
        self._ahead = {name: ahead for name, ahead in clocks_ahead.items() if abs(ahead) > _SAME_CLOCK_MS}

    def convert(self, row: OldRow) -> Converted:
        """Convert one row. Raises :class:`UnsoundError`."""
        event, source = _event_of(row), _source_of(row)
        if source is None:
            return Converted(self._without_source(row, event))
        said = self._facts(row, source)
        is_final = said[-1].kind is Kind.FINAL
        return Converted(_with_source(row, event, source, said), said, wanted=not is_final)

    def _facts(self, row: OldRow, source: Source) -> tuple[Fact, ...]:
        """The facts of the build: its report, and what a poll read."""
        final = _final_build(row, source)
        run = jenkins_run(source.controller, source.job, source.number)
        at = row.created_at + self._ahead.get(source.controller, 0)
        found = list[facts.Fact]()
        if source.reported is not None or final is None:
            # A report of a build that a poll has read was attributed to it, even if it arrived late.
            said = _report(source, alone=final is None)
            found.append(facts.report(run, said, source="emit", at=min(at, source.ended_at)))
        if final is not None:
            found.append(facts.final(run, final, at=max(at, source.ended_at)))
        return tuple(found)

    def _without_source(self, row: OldRow, event: DeploymentEvent | None) -> Deployment:
        """For delivered deployments and for reports of other systems, only the event is stored."""
        content, known = _content(row, event, None), row.reported is None
        key = None if event is None else self._key(row, event, content)
        if key is None:
            run, name = run_of_id(row.deployment_id), Name(Scope.WHOLE)
        else:
            run = jenkins_run(key.controller, key.job, key.number)
            name = _name(row, key.behind, content, None)
        return _deployment(row, run, name, content, known=known, anchor=word_of("id", row.deployment_id))

    def _key(self, row: OldRow, event: DeploymentEvent, content: Content) -> OldKey | None:
        return self._ids.read(
            row.deployment_id,
            event.build_number,
            url=event.logs_url,
            parts=partial(_parts, row, content),
            started_at=row.started_at,
        )


def _event_of(row: OldRow) -> DeploymentEvent | None:
    if row.payload is None:
        return None
    try:
        event = _EVENT(row.payload)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise UnsoundError(f"event {row.id} cannot be read: {error}") from error
    if event.deployment_id != row.deployment_id:
        raise UnsoundError(f"event {row.id} has the payload of another event")
    return event


def _source_of(row: OldRow) -> Source | None:
    """None also if the JSON is not a build: older versions could not derive anything from it either."""
    try:
        return None if row.source is None else _SOURCE(row.source)
    except msgspec.ValidationError:
        return None
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise UnsoundError(f"the build of event {row.id} cannot be read: {error}") from error


def _final_build(row: OldRow, source: Source) -> Build | None:
    """The build as a poll read it. None for one constructed from a report: it has only key, result and times."""
    if source.early or row.state == State.HELD or (source.reported and source.reported.stage) or row.source is None:
        return None
    fields = msgspec.json.decode(row.source)
    if row.reported is not None and fields.keys() <= _MADE_UP:
        return None
    try:
        return msgspec.convert({name: value for name, value in fields.items() if name not in _NOT_POLLED}, Build)
    except msgspec.ValidationError as error:
        raise UnsoundError(f"the build of event {row.id} is not valid: {error}") from error


def _report(source: Source, *, alone: bool) -> Report:
    """The report in a ``source``. If it had no times, both are the time of receipt.

    ``alone``: there is no final fact, so result and times are those of the report.
    """
    said = source.reported or Said()
    return Report(
        provider=JENKINS,
        status=source.result if alone else None,
        stage=said.stage,
        environment=said.environment,
        repo_url=said.repo_url,
        branch=said.branch,
        commit_hash=said.commit_hash,
        image=said.image,
        logs_url=said.logs_url,
        pr_number=said.pr_number,
        pr_numbers=said.pr_numbers,
        build_number=str(source.number),
        url=source.url or None,
        started_at=source.started_at if alone and source.started_at != source.ended_at else None,
        ended_at=source.ended_at if alone else None,
    )


# ---- the deployment


def _with_source(row: OldRow, event: DeploymentEvent | None, source: Source, said: tuple[Fact, ...]) -> Deployment:
    content = _content(row, event, source)
    run = jenkins_run(source.controller, source.job, source.number)
    base = f"{source.controller}:{source.job}#{source.number}"
    behind = behind_id(row.deployment_id, base, partial(_parts, row, content, source), row.started_at)
    name = _name(row, behind or "", content, source)
    times = (source.started_at, source.ended_at)
    return _deployment(row, run, name, content, known=said[-1].kind is Kind.FINAL, anchor=said[0].word, times=times)


def _deployment(
    row: OldRow,
    run: Run,
    name: Name,
    content: Content,
    *,
    known: bool,
    anchor: int,
    times: tuple[int, int] | None = None,
) -> Deployment:
    state = _state(row)
    held = state is State.HELD
    started_at, ended_at = times or (row.started_at, max(row.started_at, content.ended_at))
    return Deployment(
        number=row.id,
        run=run,
        build_started_at=started_at,
        build_ended_at=ended_at,
        known=known,
        names=(name,),
        anchor=anchor,
        deployment_id=None if held else row.deployment_id,
        state=state,
        sent_revision=1 if state is State.DELIVERED else None,
        content=content,
        created_at=row.created_at,
        held_since=row.created_at if held else None,
        next_attempt_at=row.next_attempt_at,
        attempts=row.attempts,
        settled_at=None if state in (State.HELD, State.PENDING) else _first(row.settled_at, row.created_at),
        reason=row.reason,
    )


def _first(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _state(row: OldRow) -> State:
    state = _STATES.get(row.state)
    if state is None:
        raise UnsoundError(f"event {row.id} has an unknown state")
    # A deployment without content is never sent.
    return State.FAILED if state is State.PENDING and row.payload is None else state


def _moment(text: str) -> int:
    """The time in an event, which always has a zone."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _content(row: OldRow, event: DeploymentEvent | None, source: Source | None) -> Content:
    if event is not None:
        try:
            started_at, ended_at = _moment(event.start_time), _moment(event.end_time)
        except ValueError as error:
            raise UnsoundError(f"event {row.id} has an invalid time: {error}") from error
        return Content(
            status=event.status,
            started_at=started_at,
            ended_at=ended_at,
            environment=event.environment,
            repo_url=event.repo_url,
            branch=event.branch,
            commit_hash=event.commit_hash,
            build_number=event.build_number,
            pr_number=event.pr_number,
            pr_numbers=event.pr_numbers or (),
            image=event.image,
            logs_url=event.logs_url,
        )
    problem = row.reason or "the event could not be created"
    if source is None:
        return Content(status=Status.UNKNOWN, started_at=row.started_at, ended_at=row.started_at, problem=problem)
    said = source.reported or Said()
    return Content(
        status=normalise(Provider.JENKINS, source.result),
        started_at=source.started_at,
        ended_at=source.ended_at,
        environment=said.environment,
        repo_url=said.repo_url,
        branch=said.branch,
        commit_hash=said.commit_hash,
        build_number=str(source.number),
        image=said.image,
        logs_url=said.logs_url or source.url or None,
        problem=problem,
    )


# ---- the part of the build


def _parts(row: OldRow, content: Content, source: Source | None = None) -> list[str]:
    """What may follow the build's id in the id of its deployment."""
    found = [content.environment, row.reported]
    if row.reported is None and content.repo_url and (repository := _REPOSITORY.fullmatch(content.repo_url)):
        host, path = repository["host"].lower(), repository["path"]
        found += [path, f"{host}/{path}"]
    if source is not None:
        found += [source.reported.environment] if source.reported else []
        found += [stage.name for stage in source.stages or ()]
    return list(dict.fromkeys(part for part in found if part))


def _name(row: OldRow, behind: str, content: Content, source: Source | None) -> Name:
    """The name by which a stored deployment is recognised when the build is derived again."""
    said = None if source is None else source.reported or Said()
    if row.reported is None:
        return _name_by_rule(behind.removeprefix(":"), content, source) if behind else Name(Scope.WHOLE)
    if not row.reported:
        # For a delivered event it is unknown whether the build named its environment. Assume that it did.
        environment = behind.removeprefix(":") or content.environment if said is None else said.environment
        return Name(Scope.WHOLE, environment=environment or "")
    environment = content.environment if said is None else said.environment
    started_at, ended_at = (content.started_at, content.ended_at) if source is None else (
        source.started_at, source.ended_at
    )  # fmt: skip
    start = started_at if started_at != ended_at else 0
    return Name(Scope.STAGE, row.reported, environment or "", start=start)


def _name_by_rule(behind: str, content: Content, source: Source | None) -> Name:
    """The name of one of several deployments that a rule derived from a build: by stage, by repository, or both."""
    repository = _repository_at_end(behind, content.repo_url)
    if repository:
        behind = behind[: -len(repository)].removesuffix(":")
    if not behind:
        return Name(Scope.RULE, repository=repository)
    stages = () if source is None else tuple(stage for stage in source.stages or () if stage.started_at)
    place = _stage_of(behind, content, stages)
    if place is None:
        environment, _, stage = behind.partition(":")
        return Name(Scope.RULE, stage if environment == content.environment else behind, repository=repository)
    name = stages[place].name
    again = sum(stage.name == name for stage in stages[:place])
    return Name(Scope.RULE, name, repository=repository, again=again)


def _repository_at_end(behind: str, repo_url: str | None) -> str:
    url = re.sub(r"(\.git)?/*\Z", "", repo_url or "").lower()
    places = [place.end() for place in re.finditer(r"\A|:", behind)]
    return next((behind[n:] for n in places if "/" in behind[n:] and url.endswith(behind[n:].lower())), "")


def _stage_of(behind: str, content: Content, stages: tuple[Stage, ...]) -> int | None:
    """The stage from which a rule derived this deployment, as far as id, times and environment show."""
    named = [n for n, stage in enumerate(stages) if _names(behind, stage.name)]
    timed = [n for n, stage in enumerate(stages) if _is_at(stage, content)]
    both = [n for n in timed if n in named]
    wordy = [n for n, stage in enumerate(stages) if _tells(stage.name, behind.partition(":")[0])]
    for found in (both, timed, named, wordy):
        if len(found) == 1:
            return found[0]
    return next((found[0] for found in (both, named) if found), None)


def _names(behind: str, stage: str) -> bool:
    return (
        behind == stage or behind.endswith(f":{stage}") or re.search(rf":{re.escape(stage)}:\d+\Z", behind) is not None
    )


def _is_at(stage: Stage, content: Content) -> bool:
    return content.problem is None and (stage.started_at, stage.ended_at) == (content.started_at, content.ended_at)


def _tells(stage: str, environment: str) -> bool:
    """Whether a stage name implies this environment, for example ``Deploy to prod`` and ``production``."""
    words = re.split(r"[^0-9a-z]+", stage.lower())
    said = environment.lower()
    return said in stage.lower() or any(len(word) >= 3 and said.startswith(word) for word in words)
