"""Loading the settings: one TOML file, and tokens from files, the environment or systemd's credentials.

Everything is checked while it is read, so that an error stops the agent before it does anything. All errors are
reported at once, each with file, line and key.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agent.config import outbox, shape
from agent.config.credentials import variable_of
from agent.config.paths import DEFAULT_CONFIG
from agent.config.positions import Positions, tables_of
from agent.config.problems import ConfigError, Problem, Problems
from agent.config.reading import ReadError, read_text
from agent.config.rules import DEFAULT_ENVIRONMENT, STAGE_ENVIRONMENT, Options, Rule, Template, default_rules
from agent.config.settings import (
    USER_AGENT,
    Address,
    Allowed,
    DeliverySettings,
    Example,
    HivelSettings,
    IntakeSettings,
    JenkinsSettings,
    NotifySettings,
    Settings,
)
from agent.config.tables import Team
from agent.config.values import Values
from agent.config.web import web
from agent.config.webhooks import webhooks
from agent.model import times
from agent.model.status import Status

if TYPE_CHECKING:
    from agent.config import tables

__all__ = ["DEFAULT_PATH", "ConfigError", "find_file", "load", "rules_text", "with_rules"]

DEFAULT_PATH = Path(DEFAULT_CONFIG)
# The results of builds in Jenkins; the keys of [status].
JENKINS_RESULTS = ("SUCCESS", "UNSTABLE", "FAILURE", "NOT_BUILT", "ABORTED")

# What an example can expect of a deployment: fields of the event, and why there can be no event.
EXPECTED = ("status", "environment", "repo_url", "branch", "pr_number", "image", "reason")
LONGEST_CONTACT = 200
LONGEST_NOTIFYING_MS = 300_000
_PLACE_IN_TOML = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
# The beginning of tomllib's messages, and the usual cause.
_TOML_ADVICE = {
    "Invalid value": 'write text in straight quotes: key = "text"',
    "Unescaped '\\' in a string": "write each backslash twice, or write the text in single quotes",
    "Cannot overwrite a value": "the key is set twice",
    "Cannot declare ('jenkins',) twice": "write [[jenkins]] for several tables with this name",
    "Cannot declare ('deployment',) twice": "write [[deployment]] for several tables with this name",
    "Cannot declare ('webhook',) twice": "write [[webhook]] for several tables with this name",
}


def find_file(given: Path | None) -> Path:
    """``--config FILE``, else ``$HIVEL_AGENT_CONFIG``, else ``/etc/hivel-agent/config.toml``."""
    if given is not None:
        return given
    return Path(os.environ.get("HIVEL_AGENT_CONFIG") or DEFAULT_PATH)


def load(path: Path, *, tokens: bool = True) -> Settings:
    """Read and check the configuration. Raises :class:`ConfigError` with all errors.

    ``tokens`` False: tokens are not read. Use these settings only to check the file.
    """
    text = _read(path)
    document = _document(path, text)
    problems = Problems(path, Positions(text))
    settings = _settings(path, shape.decode(document, problems), Values(path, problems, tokens=tokens))
    problems.raise_if_any()
    return settings


def rules_text(path: Path) -> str:
    """The ``[[deployment]]`` tables of the file as they are written. Raises :class:`ConfigError`."""
    return tables_of(_read(path), "deployment")


def with_rules(path: Path, rules: str) -> Settings:
    """The configuration with other rules. ``rules`` is TOML with nothing but ``[[deployment]]`` tables.

    No token is read. Raises :class:`ConfigError`; lines are those of ``rules``, whose name is ``rules``.
    """
    own = Path("rules")
    tried = _document(own, rules)
    problems = Problems(own, Positions(rules))
    for key in tried:
        if key != "deployment":
            problems.note(key, "only [[deployment]] tables can be tried here")
    document = _document(path, _read(path)) | {"deployment": tried.get("deployment", [])}
    settings = _settings(path, shape.decode(document, problems), Values(path, problems, tokens=False))
    problems.raise_if_any()
    return settings


def _settings(path: Path, raw: tables.File, check: Values) -> Settings:
    agent = _user_agent(check, raw.http)
    hivel = HivelSettings(
        url=check.url("hivel.url", raw.hivel.url).rstrip("/"),
        token=check.token("hivel", raw.hivel.token_file, "HIVEL_API_TOKEN", "hivel-token"),
        tls=check.tls("hivel", raw.hivel),
        user_agent=agent,
    )
    return Settings(
        file=path,
        hivel=hivel,
        controllers=_controllers(check, raw.jenkins, agent),
        rules=tuple(_rule(check, f"deployment[{i}]", table) for i, table in enumerate(raw.deployment))
        or default_rules(),
        options=_options(check, raw),
        outbox=check.path("outbox.path", raw.outbox.path),
        delivery=_delivery(check, raw.delivery),
        keep_delivered_ms=check.duration("outbox.keep_delivered", raw.outbox.keep_delivered),
        keep_deployments_ms=outbox.keep_deployments(check, raw.outbox),
        keep_ids_ms=check.duration("outbox.keep_ids", raw.outbox.keep_ids),
        postgresql=outbox.postgresql(check, raw.outbox),
        lease_ms=outbox.lease(check, raw.outbox.lease),
        max_size_bytes=outbox.max_size(check, raw.outbox.max_size),
        monitoring=check.address("monitoring.listen", raw.monitoring.listen),
        silent_after_ms=_silent_after(check, raw.monitoring),
        silent_least=check.number("monitoring.silent_least", raw.monitoring.silent_least, 2, 50),
        hold_for_ms=check.duration("hook.hold_for", raw.hook.hold_for),
        spool=check.path("hook.spool", raw.hook.spool) if raw.hook.spool else None,
        intake=None if raw.intake is None else _intake(check, raw.intake),
        notify=None if raw.notify is None else _notify(check, raw.notify),
        web=web(check, raw.web),
        webhooks=webhooks(check, raw.webhooks, raw.webhook),
        examples=tuple(_example(check, i, table) for i, table in enumerate(raw.example)),
    )


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except FileNotFoundError:
        named = " (it is the value of HIVEL_AGENT_CONFIG)" if os.environ.get("HIVEL_AGENT_CONFIG") == str(path) else ""
        words = f'the file does not exist{named}; to create it, run "hivel-agent init", or give a file with --config'
        raise _about_file(path, None, words) from None
    except ReadError as error:
        words = error.problem if error.line is not None else f"cannot be read: {error.problem}"
        raise _about_file(path, error.line, words) from error


def _document(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        message = str(error)
        place = _PLACE_IN_TOML.search(message)
        words = message if place is None else message[: place.start()]
        line = None if place is None else int(place[1] or text.rstrip().count("\n") + 1)
        advice = next((f"; {advice}" for beginning, advice in _TOML_ADVICE.items() if words.startswith(beginning)), "")
        raise _about_file(path, line, f"not valid TOML: {words}{advice}") from None


def _about_file(path: Path, line: int | None, words: str) -> ConfigError:
    return ConfigError.of([Problem(path, line, "", words)])


def _user_agent(check: Values, raw: tables.Http) -> str:
    if raw.contact is None:
        return USER_AGENT
    contact = raw.contact.strip()
    usable = bool(contact) and contact.isascii() and contact.isprintable() and not set(contact) & set("()\\")
    if not usable or len(contact) > LONGEST_CONTACT:
        check.note(
            "http.contact",
            f"{raw.contact!r} cannot be sent in a header; write an address or a URL with at most {LONGEST_CONTACT} "
            "ASCII characters, without parentheses and backslashes",
        )
        return USER_AGENT
    return f"{USER_AGENT} ({contact})"


def _roots(check: Values, key: str, names: list[str]) -> tuple[str, ...]:
    for name in names:
        if not name.isprintable() or not all(part.strip() for part in name.split("/")):
            check.note(
                key,
                f"{name!r} is not the full name of a folder; write it like platform/services, not as URL",
            )
    return tuple(names)


def _controllers(check: Values, raw: list[tables.Jenkins], user_agent: str) -> tuple[JenkinsSettings, ...]:
    controllers = tuple(_controller(check, f"jenkins[{i}]", table, user_agent) for i, table in enumerate(raw))
    names = [controller.name for controller in controllers]
    for i, name in enumerate(names):
        if name in names[:i]:
            check.note(f"jenkins[{i}].name", f"another controller has the name {name!r}; give each its own name")
        if (variable := variable_of(name)) in os.environ and variable in map(variable_of, names[:i]):
            check.note(f"jenkins[{i}].name", f"{variable} would be the token of two controllers; use token_file")
    return controllers


def _controller(check: Values, key: str, raw: tables.Jenkins, user_agent: str) -> JenkinsSettings:
    url = check.url(f"{key}.url", raw.url).rstrip("/") + "/"
    name = raw.name if raw.name is not None else urlsplit(url).netloc or key
    if not name or not name.isprintable() or "#" in name:
        check.note(f"{key}.name", f"{name!r}: a name cannot be empty or contain # (it is part of every deployment_id)")
    token = None
    if raw.username is not None:
        token = check.controllers_token(key, raw.token_file, name)
    elif raw.token_file is not None:
        check.note(f"{key}.username", "is missing; set the user of the token")
    return JenkinsSettings(
        name=name,
        url=url,
        username=raw.username,
        token=token,
        poll_interval_ms=check.duration(f"{key}.poll_interval", raw.poll_interval),
        since=_since(check, f"{key}.since", raw.since),
        timeout_ms=check.duration(f"{key}.timeout", raw.timeout),
        concurrency=check.number(f"{key}.concurrency", raw.concurrency, 1, 64),
        requests_per_minute=check.number(f"{key}.requests_per_minute", raw.requests_per_minute, 0, 1_000_000),
        tls=check.tls(key, raw),
        user_agent=user_agent,
        roots=_roots(check, f"{key}.roots", raw.roots or []),
    )


def _since(check: Values, key: str, raw: Any) -> str | date:
    if not isinstance(raw, str | date):
        check.note(key, f"{raw!r} is not now, a duration, or a date or time")
        return ""
    check.parse(key, lambda: times.parse_since(raw, 0), 0)
    return raw


def _rule(check: Values, key: str, raw: tables.Deployment) -> Rule:
    job = check.pattern(f"{key}.job", raw.job)
    stage = check.pattern(f"{key}.stage", raw.stage)
    if job is None or (stage is None and raw.stage is not None):
        return default_rules()[0]  # templates can use groups of the invalid pattern
    stage_groups = () if stage is None else ("stage", *stage.expression.groupindex)
    groups = (*job.expression.groupindex, *stage_groups)
    default = STAGE_ENVIRONMENT if "environment" in stage_groups else DEFAULT_ENVIRONMENT
    environment = default if raw.environment is None else raw.environment
    return Rule(
        job=job,
        environment=check.parse(
            f"{key}.environment", lambda: Template.parse(environment, groups), Template(environment, ())
        ),
        repo_url=check.template(f"{key}.repo_url", raw.repo_url, groups),
        branch=check.template(f"{key}.branch", raw.branch, groups),
        image=check.template(f"{key}.image", raw.image, groups),
        repository=check.pattern(f"{key}.repository", raw.repository),
        checkouts=raw.checkouts,
        stage=stage,
        attempts=raw.attempts,
        without_stages=raw.without_stages,
    )


def _example(check: Values, index: int, raw: tables.Example) -> Example:
    key = f"example[{index}]"
    if not raw.job.strip("/"):
        check.note(f"{key}.job", "is empty; write the full name of a job, such as deploy/shop")
    for i, expected in enumerate(raw.expect):
        for name in expected:
            if name not in EXPECTED:
                check.note(
                    f"{key}.expect", f"number {i + 1} has the unknown field {name}; known: {', '.join(EXPECTED)}"
                )
    return Example(
        place=f"[[example]] number {index + 1}",
        job=raw.job,
        result=raw.result,
        parameters=raw.parameters,
        repository=raw.repository,
        branch=raw.branch,
        stages=tuple(raw.stages),
        expect=tuple(raw.expect),
    )


def _options(check: Values, raw: tables.File) -> Options:
    """The options that apply to the events of all rules."""
    statuses = {}
    for result, status in raw.status.items():
        key = f"status.{result}"
        if result not in JENKINS_RESULTS:
            check.note(key, f"is not a result of Jenkins; use {', '.join(JENKINS_RESULTS)}")
        elif status not in list(Status):
            check.note(key, f"{status!r} is not a status; use {', '.join(Status)}")
        else:
            statuses[result] = Status(status)
    environments: dict[str, str] = {}
    for name, environment in raw.environments.items():
        if not environment.strip():
            check.note(f"environments.{name}", "is empty; write the environment's name")
        if name.strip().lower() in environments:
            check.note(f"environments.{name}", "is set twice; the keys of this table are not case-sensitive")
        environments[name.strip().lower()] = environment.strip()
    libraries = [
        check.pattern(f"repositories.libraries[{i}]", text) for i, text in enumerate(raw.repositories.libraries)
    ]
    return Options(
        status_map=statuses,
        environment_map=environments,
        libraries=tuple(pattern for pattern in libraries if pattern is not None),
        url_form=raw.repositories.url_form,
    )


def _intake(check: Values, raw: tables.Intake) -> IntakeSettings:
    address = check.address("intake.listen", raw.listen)
    if address is None:
        check.note("intake.listen", "is empty; to turn the intake off, remove the whole table [intake]")
        address = Address("", 0)
    if not raw.require_token:
        if not address.is_loopback:
            check.note("intake.require_token", f"must be true, because {address} is not a loopback address")
        return IntakeSettings(address, ())
    teams = {name: Team(team) if isinstance(team, str) else team for name, team in raw.teams.items()}
    tokens = [(name, check.token_file(_key_of_token(raw, name), team.token_file)) for name, team in teams.items()]
    own = check.optional_token("intake", raw.token_file, "HIVEL_AGENT_INTAKE_TOKEN", "intake-token")
    if own is None and not tokens:
        check.note(
            "intake.token_file",
            "no token: set a file here or in [intake.teams], or the environment variable HIVEL_AGENT_INTAKE_TOKEN, or "
            "systemd's credential intake-token",
        )
    allowed = {name: _allowed(check, f"intake.teams.{name}", team) for name, team in teams.items()}
    return IntakeSettings(address, (*((("", own),) if own else ()), *tokens), allowed)


def _notify(check: Values, raw: tables.Notify) -> NotifySettings:
    settings = NotifySettings(
        after_ms=check.duration("notify.after", raw.after),
        repeat_ms=check.duration("notify.repeat", raw.repeat) if raw.repeat else 0,
        timeout_ms=check.duration("notify.timeout", raw.timeout),
        tls=check.tls("notify", raw),
    )
    if settings.timeout_ms > LONGEST_NOTIFYING_MS:
        check.note("notify.timeout", f"{raw.timeout!r} is longer than 5m")
    if raw.command is not None:
        if raw.url_file is not None:
            check.note("notify.url_file", "cannot be set together with command; choose one of them")
        if not raw.command or not raw.command[0].startswith("/") or any("\0" in each for each in raw.command):
            example = '["/usr/local/bin/notify", "--urgent"]'
            check.note("notify.command", f"must be a list that starts with the full path of a program: {example}")
        return replace(settings, command=tuple(raw.command))
    url = check.secret_url("notify.url_file", raw.url_file, "HIVEL_AGENT_NOTIFY_URL", "notify-url")
    if url is None:
        check.note(
            "notify.command",
            "no command and no URL: set command or url_file, or the environment variable HIVEL_AGENT_NOTIFY_URL, or "
            "systemd's credential notify-url",
        )
    return replace(settings, url=url)


def _key_of_token(raw: tables.Intake, team: str) -> str:
    return f"intake.teams.{team}" + ("" if isinstance(raw.teams[team], str) else ".token_file")


def _allowed(check: Values, key: str, team: Team) -> Allowed:
    return Allowed(
        jobs=check.patterns(f"{key}.jobs", team.jobs),
        environments=check.patterns(f"{key}.environments", team.environments),
    )


def _silent_after(check: Values, raw: tables.Monitoring) -> int:
    return check.duration("monitoring.silent_after", raw.silent_after) if raw.silent_after else 0


def _delivery(check: Values, raw: tables.Delivery) -> DeliverySettings:
    settings = DeliverySettings(
        concurrency=check.number("delivery.concurrency", raw.concurrency, 1, 256),
        timeout_ms=check.duration("delivery.timeout", raw.timeout),
        interval_ms=check.duration("delivery.interval", raw.interval),
        backoff_initial_ms=check.duration("delivery.backoff_initial", raw.backoff_initial),
        backoff_max_ms=check.duration("delivery.backoff_max", raw.backoff_max),
        per_minute=check.number("delivery.per_minute", raw.per_minute, 0, 1_000_000),
        max_attempts=check.number("delivery.max_attempts", raw.max_attempts, 0, 1_000_000),
        max_age_ms=0 if raw.max_age is None else check.duration("delivery.max_age", raw.max_age),
        canceled_spelling=raw.canceled_spelling,
    )
    if settings.backoff_max_ms < settings.backoff_initial_ms:
        check.note("delivery.backoff_max", "is shorter than backoff_initial")
    return settings
