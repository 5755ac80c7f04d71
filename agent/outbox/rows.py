"""Facts and deployments as rows of tables, and back: the same columns in every engine. No SQL."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from agent.model.build import Build
from agent.model.deployment import Content, Deployment, Name, Scope, State
from agent.model.fact import Fact, Kind, Report
from agent.model.keys import JENKINS, Run
from agent.model.status import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.model.keys import Project

_ENCODE = msgspec.json.Encoder().encode
_BUILD = msgspec.json.Decoder(Build).decode
_REPORT = msgspec.json.Decoder(Report).decode
_NAMES = msgspec.json.Decoder(tuple[Name, ...]).decode
_NUMBERS = msgspec.json.Decoder(tuple[int, ...]).decode
# A dict lookup is much faster than calling an enum. In the other direction, ``_value_`` is used because ``value`` is a
# function call, and because sqlite3 is slow to see that an enum member is a string.
_KINDS = {kind.value: kind for kind in Kind}
_STATES = {state.value: state for state in State}
_SCOPES = {scope.value: scope for scope in Scope}
_HELD, _SETTLED = State.HELD, {State.DELIVERED, State.FAILED, State.DISCARDED}
STATUSES = {status.value: status for status in Status}

# Where something is stored: project number, run, attempt.
Place = tuple[int, str, int]

# ---- facts

FACT_COLUMNS = "project_id, run, attempt, source, kind, received_at, word, started_at, principal, body"


def fact_row(fact: Fact, project_id: int) -> tuple[object, ...]:
    """The values of ``FACT_COLUMNS``."""
    run = fact.run
    return (
        project_id,
        run.number,
        run.attempt,
        fact.source,
        fact.kind._value_,
        fact.received_at,
        fact.word,
        fact.started_at,
        fact.principal,
        _body(fact),
    )


def _body(fact: Fact) -> str | None:
    body, run = fact.body, fact.run
    if body is None or isinstance(body, str):
        return body
    if isinstance(body, Build) and _is_keyed(body, run):
        body = msgspec.structs.replace(body, controller="", job="", number=0)
    return _ENCODE(body).decode()


def _is_keyed(build: Build, run: Run) -> bool:
    """Whether the key of the fact identifies the build."""
    project = run.project
    if project.provider != JENKINS:
        return False
    return build.job == project.name and build.controller == project.scope and str(build.number) == run.number


def fact_of(row: tuple[Any, ...], project: Project) -> Fact:
    """The fact of a row of ``FACT_COLUMNS``. If this version cannot read it, the fact is UNREADABLE, with its text."""
    _, number, attempt, source, kind, received_at, word, started_at, principal, text = row
    body: Build | Report | str | None = text
    known = _KINDS.get(kind, Kind.UNREADABLE)
    try:
        if text is None:
            pass
        elif known is Kind.FINAL:
            body = _keyed(_BUILD(text), project, number)
        elif known is Kind.REPORT:
            body = _REPORT(text)
    except msgspec.MsgspecError:
        known = Kind.UNREADABLE
    return Fact(
        run=Run(project, number, attempt),
        source=source,
        kind=known,
        received_at=received_at,
        word=word,
        started_at=started_at,
        principal=principal,
        body=body,
    )


def _keyed(build: Build, project: Project, number: str) -> Build:
    if build.controller or build.job or build.number or project.provider != JENKINS or not number.isdecimal():
        return build
    return msgspec.structs.replace(build, controller=project.scope, job=project.name, number=int(number))


# ---- deployments

GIVEN = (
    "project_id", "run", "anchor", "deployment_id", "created_at", "next_attempt_at", "status", "environment",
    "repo_url", "branch", "commit_hash", "first_commit_at", "started_at", "ended_at", "pr_number", "image", "logs_url",
)  # fmt: skip
# The values that these columns have in most new rows.
USUALLY: dict[str, str | int | None] = {
    "build_number": None,
    "pr_numbers": None,
    "problem": None,
    "attempt": 1,
    "known": 1,
    "scope": Scope.WHOLE.value,
    "state": State.PENDING.value,
    "revision": 1,
    "build_started_at": None,
    "build_ended_at": None,
    "stage": None,
    "said_environment": None,
    "names": None,
    "sent_revision": None,
    "held_since": None,
    "settled_at": None,
    "reason": None,
    "attempts": 0,
}
INSERTED = (*GIVEN, *USUALLY)
COLUMNS = ", ".join(("id", *INSERTED))
# The content of the event.
CONTENT_COLUMNS = (*GIVEN[6:], "build_number", "pr_numbers", "problem")
# What a change of facts rewrites. Delivery writes the rest.
REWRITTEN = (
    "project_id", "run", "attempt", "build_started_at", "build_ended_at", "known", "scope", "stage", "said_environment",
    "names", "anchor", "deployment_id", "state", "revision", *CONTENT_COLUMNS, "held_since", "next_attempt_at",
    "settled_at", "reason",
)  # fmt: skip


def deployment_row(deployment: Deployment, project_id: int, now: int) -> tuple[object, ...]:
    """The values of ``COLUMNS`` without the number. ``now``: default for creation, hold and settlement times."""
    run, content, names, state = deployment.run, deployment.content, deployment.names, deployment.state
    scope, stage, environment, repository, start, again = names[0]
    number, build_number, pr_numbers = run.number, content.build_number, content.pr_numbers
    started_at, ended_at = deployment.build_started_at, deployment.build_ended_at
    held_since, settled_at = deployment.held_since, deployment.settled_at
    return (
        project_id,
        number,
        deployment.anchor,
        deployment.deployment_id,
        deployment.created_at or now,
        deployment.next_attempt_at,
        content.status._value_,
        content.environment,
        content.repo_url,
        content.branch,
        content.commit_hash,
        content.first_commit_at,
        content.started_at,
        content.ended_at,
        content.pr_number,
        content.image,
        content.logs_url,
        None if build_number == number else build_number or "",
        _ENCODE(pr_numbers).decode() if pr_numbers else None,
        content.problem,
        run.attempt,
        1 if deployment.known else 0,
        scope._value_,
        state._value_,
        deployment.revision,
        None if started_at == content.started_at else started_at,
        None if ended_at == content.ended_at else ended_at,
        stage or None,
        environment or None,
        _ENCODE(names).decode() if repository or start or again or len(names) > 1 else None,
        deployment.sent_revision,
        now if held_since is None and state is _HELD else held_since,
        now if settled_at is None and state in _SETTLED else settled_at,
        deployment.reason,
        deployment.attempts,
    )


def deployment_columns(deployment: Deployment, project_id: int, now: int) -> dict[str, object]:
    """The same as a dict by column name."""
    return dict(zip(INSERTED, deployment_row(deployment, project_id, now), strict=True))


def content_of(values: Sequence[Any], number: str) -> Content:
    """The content from values of ``CONTENT_COLUMNS``. ``number``: the run's number."""
    (
        status, environment, repo_url, branch, commit_hash, first_commit_at, started_at, ended_at, pr_number, image,
        logs_url, build_number, pr_numbers, problem,
    ) = values  # fmt: skip
    return Content(
        status=STATUSES[status],
        started_at=started_at,
        ended_at=ended_at,
        environment=environment,
        repo_url=repo_url,
        branch=branch,
        commit_hash=commit_hash,
        first_commit_at=first_commit_at,
        build_number=number if build_number is None else build_number or None,
        pr_number=pr_number,
        pr_numbers=() if pr_numbers is None else _NUMBERS(pr_numbers),
        image=image,
        logs_url=logs_url,
        problem=problem,
    )


def deployment_of(row: tuple[Any, ...], project: Project) -> Deployment:
    """The deployment of a row of ``COLUMNS``. Raises :class:`KeyError` or :class:`msgspec.MsgspecError`."""
    (
        number, _, run, anchor, deployment_id, created_at, next_attempt_at, *values, attempt, known, scope, state,
        revision, build_started_at, build_ended_at, stage, said_environment, names, sent_revision, held_since,
        settled_at, reason, attempts,
    ) = row  # fmt: skip
    content = content_of(values, run)
    return Deployment(
        number=number,
        run=Run(project, run, attempt),
        build_started_at=content.started_at if build_started_at is None else build_started_at,
        build_ended_at=content.ended_at if build_ended_at is None else build_ended_at,
        known=bool(known),
        names=(Name(_SCOPES[scope], stage or "", said_environment or ""),) if names is None else _NAMES(names),
        anchor=anchor,
        deployment_id=deployment_id,
        state=_STATES[state],
        revision=revision,
        sent_revision=sent_revision,
        content=content,
        created_at=created_at,
        held_since=held_since,
        next_attempt_at=next_attempt_at,
        attempts=attempts,
        settled_at=settled_at,
        reason=reason,
    )


def id_hash(deployment_id: str) -> bytes:
    """The hash that is kept of a deleted deployment's id: 12 bytes, enough for a hundred million ids."""
    return hashlib.blake2b(deployment_id.encode("utf-8", "surrogatepass"), digest_size=12).digest()
