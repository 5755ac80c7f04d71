"""Facts and deployments as rows of their tables, and back."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from agent.model.build import Build
from agent.model.deployment import Content, Deployment, Name, Scope, State
from agent.model.fact import Fact, Kind, Report
from agent.model.keys import Run
from agent.model.status import Status

if TYPE_CHECKING:
    from agent.model.keys import Project

_ENCODE = msgspec.json.Encoder().encode
_BUILD = msgspec.json.Decoder(Build).decode
_REPORT = msgspec.json.Decoder(Report).decode
_NAMES = msgspec.json.Decoder(tuple[Name, ...]).decode
_NUMBERS = msgspec.json.Decoder(tuple[int, ...]).decode
# Looking up is much faster than calling an enum; and sqlite3 takes long to find out that a member is a string.
_KINDS = {kind.value: kind for kind in Kind}
_STATES = {state.value: state for state in State}
_SCOPES = {scope.value: scope for scope in Scope}
_STATUSES = {status.value: status for status in Status}

# Where something is stored: the number of a project, a run, and the attempt.
Place = tuple[int, str, int]

# ---- facts

FACT_COLUMNS = "project_id, run, attempt, source, kind, received_at, word, started_at, principal, body"
INSERT_FACT = f"INSERT INTO facts ({FACT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608


def fact_row(fact: Fact, project_id: int) -> tuple[object, ...]:
    """The values of ``INSERT_FACT``."""
    run = fact.run
    return (
        project_id,
        run.number,
        run.attempt,
        fact.source,
        fact.kind.value,
        fact.received_at,
        fact.word,
        fact.started_at,
        fact.principal or None,
        _body(fact),
    )


def _body(fact: Fact) -> str | None:
    body, run = fact.body, fact.run
    if body is None or isinstance(body, str):
        return body
    if isinstance(body, Build) and (body.controller, body.job, str(body.number)) == (
        run.project.scope,
        run.project.name,
        run.number,
    ):
        body = msgspec.structs.replace(body, controller="", job="", number=0)
    return _ENCODE(body).decode()


def fact_of(row: tuple[Any, ...], project: Project) -> Fact:
    """The fact of a row of ``FACT_COLUMNS``; one that this version cannot read is unreadable, with its text."""
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
        principal=principal or "",
        body=body,
    )


def _keyed(build: Build, project: Project, number: str) -> Build:
    if build.controller or build.job or build.number or not number.isdecimal():
        return build
    return msgspec.structs.replace(build, controller=project.scope, job=project.name, number=int(number))


# ---- deployments

# What Hivel gets, and when its build ran: NULL where it is as the deployment's own times.
CONTENT_COLUMNS = (
    "status", "environment", "repo_url", "branch", "commit_hash", "first_commit_at", "started_at", "ended_at",
    "build_number", "pr_number", "pr_numbers", "image", "logs_url", "problem",
)  # fmt: skip
KEY_COLUMNS = (
    "project_id", "run", "attempt", "build_started_at", "build_ended_at", "known", "scope", "stage",
    "said_environment", "names", "anchor",
)  # fmt: skip
_INSERTED = (
    *KEY_COLUMNS, "deployment_id", "state", "revision", "sent_revision", *CONTENT_COLUMNS, "created_at", "held_since",
    "next_attempt_at", "attempts", "settled_at", "reason",
)  # fmt: skip
COLUMNS = ", ".join(("id", *_INSERTED))
# Nothing is inserted whose id a deployment has or had; the last value is ``id_hash`` of it.
INSERT_DEPLOYMENT = (
    f"INSERT INTO deployments ({', '.join(_INSERTED)}) SELECT {', '.join('?' for _ in _INSERTED)}"  # noqa: S608
    " WHERE NOT EXISTS (SELECT 1 FROM forgotten WHERE id_hash = ?) ON CONFLICT (deployment_id) DO NOTHING"
)


def deployment_row(deployment: Deployment, project_id: int, now: int) -> tuple[object, ...]:
    """The values of ``INSERT_DEPLOYMENT``. ``now``: when it was made, held or settled, unless it says so itself."""
    name = deployment.deployment_id
    state = deployment.state
    return (
        *key_values(deployment, project_id),
        name,
        state.value,
        deployment.revision,
        deployment.sent_revision,
        *content_values(deployment.content, deployment.run.number),
        deployment.created_at or now,
        held_since(deployment, now),
        deployment.next_attempt_at,
        deployment.attempts,
        settled_at(deployment, now),
        deployment.reason,
        None if name is None else id_hash(name),
    )


def key_values(deployment: Deployment, project_id: int) -> tuple[object, ...]:
    """The values of ``KEY_COLUMNS``."""
    run, content, names = deployment.run, deployment.content, deployment.names
    scope, stage, environment, repository, start, again = names[0]
    started_at, ended_at = deployment.build_started_at, deployment.build_ended_at
    plain = len(names) == 1 and not (repository or start or again)
    return (
        project_id,
        run.number,
        run.attempt,
        None if started_at == content.started_at else started_at,
        None if ended_at == content.ended_at else ended_at,
        1 if deployment.known else 0,
        scope.value,
        stage or None,
        environment or None,
        None if plain else _ENCODE(names).decode(),
        deployment.anchor,
    )


def content_values(content: Content, number: str) -> tuple[object, ...]:
    """The values of ``CONTENT_COLUMNS``. ``number``: of the run."""
    build_number, pr_numbers = content.build_number, content.pr_numbers
    return (
        content.status.value,
        content.environment,
        content.repo_url,
        content.branch,
        content.commit_hash,
        content.first_commit_at,
        content.started_at,
        content.ended_at,
        None if build_number == number else build_number or "",
        content.pr_number,
        _ENCODE(pr_numbers).decode() if pr_numbers else None,
        content.image,
        content.logs_url,
        content.problem,
    )


def held_since(deployment: Deployment, now: int) -> int | None:
    """Since when it is held; as it says, else from now on."""
    if deployment.held_since is None and deployment.state is State.HELD:
        return now
    return deployment.held_since


def settled_at(deployment: Deployment, now: int) -> int | None:
    """When it was settled; as it says, else now."""
    if deployment.settled_at is None and deployment.state not in (State.HELD, State.PENDING):
        return now
    return deployment.settled_at


def content_of(values: tuple[Any, ...], number: str) -> Content:
    """The content of the values of ``CONTENT_COLUMNS``."""
    (
        status, environment, repo_url, branch, commit_hash, first_commit_at, started_at, ended_at,
        build_number, pr_number, pr_numbers, image, logs_url, problem,
    ) = values  # fmt: skip
    return Content(
        status=_STATUSES[status],
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
        number, _, run, attempt, build_started_at, build_ended_at, known, scope, stage, said_environment, names, anchor,
        deployment_id, state, revision, sent_revision, *values,
        created_at, held_since_ms, next_attempt_at, attempts, settled_at_ms, reason,
    ) = row  # fmt: skip
    content = content_of(tuple(values), run)
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
        held_since=held_since_ms,
        next_attempt_at=next_attempt_at,
        attempts=attempts,
        settled_at=settled_at_ms,
        reason=reason,
    )


def id_hash(deployment_id: str) -> bytes:
    """What is kept of the id of a deleted deployment: 12 bytes, enough to tell a hundred million apart."""
    return hashlib.blake2b(deployment_id.encode("utf-8", "surrogatepass"), digest_size=12).digest()
