"""The settings: one TOML file, tokens from files, the environment or systemd's credentials.

Everything is checked when it is read, so that a mistake stops the agent before it does anything; every error
names the file and the key.
"""

from __future__ import annotations

import os
import re
import ssl
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from agent.config.credentials import Token, TokenError, find_controllers_token, find_token, variable_of
from agent.config.paths import DEFAULT_CONFIG, DEFAULT_OUTBOX, DEFAULT_SPOOL
from agent.config.rules import (
    DEFAULT_ENVIRONMENT,
    STAGE_ENVIRONMENT,
    Options,
    Pattern,
    Rule,
    Template,
    UrlForm,
    default_rules,
)
from agent.config.settings import (
    USER_AGENT,
    Address,
    Allowed,
    DeliverySettings,
    HivelSettings,
    IntakeSettings,
    JenkinsSettings,
    Settings,
    TlsSettings,
)
from agent.config.sizes import describe_size, parse_size
from agent.model import times
from agent.model.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable


DEFAULT_PATH = Path(DEFAULT_CONFIG)
# What Jenkins calls the results of builds; the keys of [status].
JENKINS_RESULTS = ("SUCCESS", "UNSTABLE", "FAILURE", "NOT_BUILT", "ABORTED")

KEEP_DEPLOYMENTS = "400d"
# An outbox with less room holds no working day of anybody.
LEAST_SIZE = 10_000_000
LONGEST_CONTACT = 200
NOT_READ = Token.missing(TokenError("only the configuration file was looked at"))

T = TypeVar("T")


class ConfigError(Exception):
    """The configuration is wrong; the message names the file and the key and says what to write."""


# ---- The file as it is written. msgspec checks keys and types; what they mean is checked below.


class _Http(msgspec.Struct, forbid_unknown_fields=True):
    contact: str | None = None


class _Hivel(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    token_file: str | None = None
    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


class _Jenkins(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    name: str | None = None
    username: str | None = None
    token_file: str | None = None
    poll_interval: str = "15s"
    since: Any = "now"  # text, or a date or time of TOML's own
    roots: list[str] | None = None
    timeout: str = "30s"
    concurrency: int = 8
    requests_per_minute: int = 1200
    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


class _Deployment(msgspec.Struct, forbid_unknown_fields=True):
    job: str
    environment: str | None = None
    repo_url: str | None = None
    branch: str | None = None
    image: str | None = None
    repository: str | None = None
    checkouts: Literal["one", "each"] = "one"
    stage: str | None = None
    attempts: Literal["last", "each"] = "last"
    without_stages: Literal["build", "none"] = "build"


class _Repositories(msgspec.Struct, forbid_unknown_fields=True):
    libraries: list[str] = []
    url_form: UrlForm = "as-is"


class _Outbox(msgspec.Struct, forbid_unknown_fields=True):
    path: str = DEFAULT_OUTBOX
    keep_delivered: str = "30d"
    keep_deployments: str | None = None
    keep_ids: str = "3650d"
    max_size: str | None = None  # "" too is no limit


class _Delivery(msgspec.Struct, forbid_unknown_fields=True):
    concurrency: int = 8
    timeout: str = "10s"
    interval: str = "1s"
    backoff_initial: str = "5s"
    backoff_max: str = "15m"
    per_minute: int = 0
    max_attempts: int = 0
    max_age: str | None = None
    canceled_spelling: Literal["canceled", "cancelled"] = "canceled"


class _Monitoring(msgspec.Struct, forbid_unknown_fields=True):
    listen: str = "127.0.0.1:9469"
    silent_after: str = "14d"
    silent_least: int = 5


class _Hook(msgspec.Struct, forbid_unknown_fields=True):
    hold_for: str = "1h"
    spool: str = DEFAULT_SPOOL


class _Team(msgspec.Struct, forbid_unknown_fields=True):
    token_file: str
    jobs: list[str] | None = None
    environments: list[str] | None = None


class _Intake(msgspec.Struct, forbid_unknown_fields=True):
    listen: str = "127.0.0.1:9470"
    token_file: str | None = None
    require_token: bool = True
    teams: dict[str, str | _Team] = {}  # a text is the token's file


class _File(msgspec.Struct, forbid_unknown_fields=True):
    hivel: _Hivel
    http: _Http = msgspec.field(default_factory=_Http)
    jenkins: list[_Jenkins] = []
    deployment: list[_Deployment] = []
    environments: dict[str, str] = {}
    status: dict[str, str] = {}
    repositories: _Repositories = msgspec.field(default_factory=_Repositories)
    outbox: _Outbox = msgspec.field(default_factory=_Outbox)
    delivery: _Delivery = msgspec.field(default_factory=_Delivery)
    monitoring: _Monitoring = msgspec.field(default_factory=_Monitoring)
    hook: _Hook = msgspec.field(default_factory=_Hook)
    intake: _Intake | None = None


def find_file(given: Path | None) -> Path:
    """``--config FILE``, else ``$HIVEL_AGENT_CONFIG``, else ``/etc/hivel-agent/config.toml``."""
    if given is not None:
        return given
    return Path(os.environ.get("HIVEL_AGENT_CONFIG") or DEFAULT_PATH)


def load(path: Path, *, tokens: bool = True) -> Settings:
    """Read and check the configuration. Raises :class:`ConfigError`.

    ``tokens`` False: no token is looked for; these settings are good for a look at the file and nothing else.
    """
    raw = _read(path)
    check = _Checker(path, tokens=tokens)
    agent = _user_agent(check, raw.http)
    controllers = tuple(_controller(check, f"jenkins[{i}]", table, agent) for i, table in enumerate(raw.jenkins))
    if not controllers:
        raise check.error("[[jenkins]]", "no controller is named; one table per Jenkins is needed")
    names = [controller.name for controller in controllers]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise check.error(f"jenkins[{i}].name", f"{name!r} is the name of another controller; give each its own")
        if (variable := variable_of(name)) in os.environ and variable in map(variable_of, names[:i]):
            raise check.error(f"jenkins[{i}].name", f"{variable} is the token of two controllers; use token_file")
    return Settings(
        file=path,
        hivel=HivelSettings(
            url=check.url("hivel.url", raw.hivel.url).rstrip("/"),
            token=check.token("hivel", raw.hivel.token_file, "HIVEL_API_TOKEN", "hivel-token"),
            tls=_tls(check, "hivel", raw.hivel),
            user_agent=agent,
        ),
        controllers=controllers,
        rules=tuple(_rule(check, f"deployment[{i}]", table) for i, table in enumerate(raw.deployment))
        or default_rules(),
        options=_options(check, raw),
        outbox=check.path("outbox.path", raw.outbox.path),
        delivery=_delivery(check, raw.delivery),
        keep_delivered_ms=check.duration("outbox.keep_delivered", raw.outbox.keep_delivered),
        keep_deployments_ms=_keep_deployments(check, raw.outbox),
        keep_ids_ms=check.duration("outbox.keep_ids", raw.outbox.keep_ids),
        max_size_bytes=check.size("outbox.max_size", raw.outbox.max_size, LEAST_SIZE) if raw.outbox.max_size else 0,
        monitoring=check.address("monitoring.listen", raw.monitoring.listen),
        silent_after_ms=_silent_after(check, raw.monitoring),
        silent_least=check.number("monitoring.silent_least", raw.monitoring.silent_least, 2, 50),
        hold_for_ms=check.duration("hook.hold_for", raw.hook.hold_for),
        spool=check.path("hook.spool", raw.hook.spool) if raw.hook.spool else None,
        intake=None if raw.intake is None else _intake(check, raw.intake),
    )


def _read(path: Path) -> _File:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file; write one with `hivel-agent init`, or name another with --config"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return msgspec.toml.decode(text, type=_File)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_in_words(str(error))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path}: no valid TOML: {error}") from None


def _in_words(problem: str) -> str:
    """msgspec's ``Object contains unknown field `x` - at `$.hivel` `` with the key first."""
    message, _, place = problem.partition(" - at ")
    key = place.strip("`").removeprefix("$").removeprefix(".")
    if unknown := re.fullmatch(r"Object contains unknown field `(.+)`", message):
        return f"{_join(key, unknown[1])}: unknown key"
    if missing := re.fullmatch(r"Object missing required field `(.+)`", message):
        return f"{_join(key, missing[1])}: this key is required"
    for type_name, words in {"str": "text in quotes", "int": "a whole number", "object": "a table"}.items():
        message = message.replace(f"`{type_name}`", words)
    return f"{key}: {message}"


def _join(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key


class _Checker:
    """Turns what a value's meaning is wrong about into an error that names file and key."""

    def __init__(self, file: Path, *, tokens: bool) -> None:
        self._file = file
        self._tokens = tokens

    def error(self, key: str, problem: str) -> ConfigError:
        return ConfigError(f"{self._file}: {key}: {problem}")

    def parse(self, key: str, parser: Callable[[], T]) -> T:
        try:
            return parser()
        except (ValueError, TokenError) as error:
            raise self.error(key, str(error)) from error

    def duration(self, key: str, text: str) -> int:
        value = self.parse(key, lambda: times.parse_duration(text))
        if value <= 0:
            raise self.error(key, f"{text!r} must be longer than nothing")
        return value

    def number(self, key: str, value: int, least: int, most: int) -> int:
        if not least <= value <= most:
            raise self.error(key, f"{value} is not between {least} and {most}")
        return value

    def size(self, key: str, text: str, least: int) -> int:
        """Bytes."""
        value = self.parse(key, lambda: parse_size(text))
        if value < least:
            raise self.error(key, f"{text!r} is less than {describe_size(least)}")
        return value

    def path(self, key: str, text: str) -> Path:
        if not text:
            raise self.error(key, "is empty; a path is needed")
        return self._file.parent / text

    def url(self, key: str, text: str) -> str:
        try:
            parts = urlsplit(text)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if "@" in text:  # looked for first: the messages below repeat the text
            raise self.error(key, "holds credentials (or an @ for another reason); they belong into a token file")
        if not usable or not text.isprintable() or " " in text:
            raise self.error(key, f"{text!r} is no URL; write it like https://host or http://host:8080/jenkins/")
        if "?" in text or "#" in text:
            raise self.error(key, f"{text!r} must end with the path: no ? and no #")
        return text

    def address(self, key: str, text: str) -> Address | None:
        """``127.0.0.1:9469``, ``[::1]:9469``; None for an empty text, which turns the listener off."""
        if not text:
            return None
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise self.error(key, f'{text!r} is no address; write it like 127.0.0.1:9469, or "" for none')
        return Address(host, int(port))

    def file(self, key: str, text: str | None) -> Path | None:
        """A file that can be read, or None where none is named."""
        if text is None:
            return None
        path = self.path(key, text)
        try:
            path.open("rb").close()
        except OSError as error:
            raise self.error(key, f"cannot read {path}: {error.strerror}") from error
        return path

    def token(self, table: str, token_file: str | None, variable: str, credential: str) -> Token:
        token = self.optional_token(table, token_file, variable, credential)
        if token is None:
            raise self.error(
                f"{table}.token_file",
                f"no token: name a file here, or set {variable}, or give systemd the credential {credential}",
            )
        return token

    def controllers_token(self, table: str, token_file: str | None, controller: str) -> Token:
        """A token that cannot be read is a trouble of its controller alone, and may be there later."""
        key = f"{table}.token_file"
        path = None if token_file is None else self.path(key, token_file)
        if not self._tokens:
            return NOT_READ
        try:
            token = find_controllers_token(path, controller)
        except TokenError as error:
            return Token.missing(error)
        except ValueError as error:
            raise self.error(key, str(error)) from error
        if token is None:
            raise self.error(
                key,
                "no token: name a file here, or set JENKINS_API_TOKEN, or give systemd the credential jenkins-token "
                f"(for this controller alone: {variable_of(controller)}, jenkins-token.{controller})",
            )
        return token

    def token_file(self, key: str, text: str) -> Token:
        path = self.path(key, text)
        return self.parse(key, lambda: Token.from_file(path)) if self._tokens else NOT_READ

    def optional_token(self, table: str, token_file: str | None, variable: str, credential: str) -> Token | None:
        key = f"{table}.token_file"
        path = None if token_file is None else self.path(key, token_file)
        return self.parse(key, lambda: find_token(path, variable, credential)) if self._tokens else NOT_READ

    def pattern(self, key: str, text: str | None) -> Pattern | None:
        if text == "":
            raise self.error(key, 'is empty; "**" matches everything')
        return None if text is None else self.parse(key, lambda: Pattern.parse(text))

    def patterns(self, key: str, texts: list[str] | None) -> tuple[Pattern, ...] | None:
        if texts is None:
            return None
        if not texts or "" in texts:
            raise self.error(key, 'is empty; take it away, or write "**", to allow everything')
        return self.parse(key, lambda: tuple(map(Pattern.parse, texts)))

    def template(self, key: str, text: str | None, groups: tuple[str, ...]) -> Template | None:
        return None if text is None else self.parse(key, lambda: Template.parse(text, groups))


def _user_agent(check: _Checker, raw: _Http) -> str:
    if raw.contact is None:
        return USER_AGENT
    contact = raw.contact.strip()
    usable = bool(contact) and contact.isascii() and contact.isprintable() and not set(contact) & set("()\\")
    if not usable or len(contact) > LONGEST_CONTACT:
        raise check.error(
            "http.contact",
            f"{raw.contact!r} cannot be said in a header; write an address or a URL in at most {LONGEST_CONTACT} ASCII "
            "characters without brackets ( ) and backslashes",
        )
    return f"{USER_AGENT} ({contact})"


def _roots(check: _Checker, key: str, names: list[str]) -> tuple[str, ...]:
    for name in names:
        if not name.isprintable() or not all(part.strip() for part in name.split("/")):
            raise check.error(
                key, f"{name!r} is no full name of a folder; write it like services or platform/services, without URL"
            )
    return tuple(names)


def _controller(check: _Checker, key: str, raw: _Jenkins, user_agent: str) -> JenkinsSettings:
    url = check.url(f"{key}.url", raw.url).rstrip("/") + "/"
    name = raw.name if raw.name is not None else urlsplit(url).netloc
    if not name or not name.isprintable() or "#" in name:
        raise check.error(f"{key}.name", f"{name!r}: a name is text without # (it is part of every deployment_id)")
    if raw.username is None:
        if raw.token_file is not None:
            raise check.error(f"{key}.username", "is missing; the token belongs to a user")
        token = None
    else:
        token = check.controllers_token(key, raw.token_file, name)
    if not isinstance(raw.since, str | date):
        raise check.error(f"{key}.since", f"{raw.since!r} is neither now nor a duration nor a date or time")
    check.parse(f"{key}.since", lambda: times.parse_since(raw.since, 0))
    return JenkinsSettings(
        name=name,
        url=url,
        username=raw.username,
        token=token,
        poll_interval_ms=check.duration(f"{key}.poll_interval", raw.poll_interval),
        since=raw.since,
        timeout_ms=check.duration(f"{key}.timeout", raw.timeout),
        concurrency=check.number(f"{key}.concurrency", raw.concurrency, 1, 64),
        requests_per_minute=check.number(f"{key}.requests_per_minute", raw.requests_per_minute, 0, 1_000_000),
        tls=_tls(check, key, raw),
        user_agent=user_agent,
        roots=_roots(check, f"{key}.roots", raw.roots or []),
    )


def _tls(check: _Checker, key: str, raw: _Hivel | _Jenkins) -> TlsSettings:
    settings = TlsSettings(
        ca_file=check.file(f"{key}.ca_file", raw.ca_file),
        client_certificate=check.file(f"{key}.client_certificate", raw.client_certificate),
        client_key=check.file(f"{key}.client_key", raw.client_key),
    )
    if settings.client_key is not None and settings.client_certificate is None:
        raise check.error(f"{key}.client_certificate", "is missing; the key belongs to a certificate")
    named = [name for name in ("ca_file", "client_certificate", "client_key") if getattr(raw, name) is not None]
    if named:
        try:
            settings.context()
        except (ssl.SSLError, OSError) as error:
            files = ", ".join(str(getattr(settings, name)) for name in named)
            raise check.error(f"{key}.{', '.join(named)}", f"not usable as PEM ({files}): {error}") from error
    return settings


def _rule(check: _Checker, key: str, raw: _Deployment) -> Rule:
    if not raw.job:
        raise check.error(f"{key}.job", 'is empty; "**" matches every job')
    job = check.parse(f"{key}.job", lambda: Pattern.parse(raw.job))
    stage = check.pattern(f"{key}.stage", raw.stage)
    stage_groups = () if stage is None else ("stage", *stage.expression.groupindex)
    groups = (*job.expression.groupindex, *stage_groups)
    default = STAGE_ENVIRONMENT if "environment" in stage_groups else DEFAULT_ENVIRONMENT
    environment = default if raw.environment is None else raw.environment
    return Rule(
        job=job,
        environment=check.parse(f"{key}.environment", lambda: Template.parse(environment, groups)),
        repo_url=check.template(f"{key}.repo_url", raw.repo_url, groups),
        branch=check.template(f"{key}.branch", raw.branch, groups),
        image=check.template(f"{key}.image", raw.image, groups),
        repository=check.pattern(f"{key}.repository", raw.repository),
        checkouts=raw.checkouts,
        stage=stage,
        attempts=raw.attempts,
        without_stages=raw.without_stages,
    )


def _options(check: _Checker, raw: _File) -> Options:
    """What holds for the events of all rules."""
    statuses = {}
    for result, status in raw.status.items():
        if result not in JENKINS_RESULTS:
            raise check.error(f"status.{result}", f"is no result of Jenkins; there are {', '.join(JENKINS_RESULTS)}")
        if status not in list(Status):
            raise check.error(f"status.{result}", f"{status!r} is no status; there are {', '.join(Status)}")
        statuses[result] = Status(status)
    environments: dict[str, str] = {}
    for name, environment in raw.environments.items():
        if not environment.strip():
            raise check.error(f"environments.{name}", "is empty; write the environment's name")
        if name.strip().lower() in environments:
            raise check.error(f"environments.{name}", "is there already; upper and lower case are the same here")
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


def _intake(check: _Checker, raw: _Intake) -> IntakeSettings:
    address = check.address("intake.listen", raw.listen)
    if address is None:
        raise check.error("intake.listen", "is empty; take the whole table [intake] away to have no intake")
    if not raw.require_token:
        if not address.is_loopback:
            raise check.error("intake.require_token", f"only a loopback address may do without; {address} is none")
        return IntakeSettings(address, ())
    teams = {name: _Team(team) if isinstance(team, str) else team for name, team in raw.teams.items()}
    tokens = [(name, check.token_file(_key_of_token(raw, name), team.token_file)) for name, team in teams.items()]
    own = check.optional_token("intake", raw.token_file, "HIVEL_AGENT_INTAKE_TOKEN", "intake-token")
    if own is None and not tokens:
        raise check.error(
            "intake.token_file",
            "no token: name a file here or in [intake.teams], or set HIVEL_AGENT_INTAKE_TOKEN, or give systemd the "
            "credential intake-token",
        )
    allowed = {name: _allowed(check, f"intake.teams.{name}", team) for name, team in teams.items()}
    return IntakeSettings(address, (*((("", own),) if own else ()), *tokens), allowed)


def _key_of_token(raw: _Intake, team: str) -> str:
    return f"intake.teams.{team}" + ("" if isinstance(raw.teams[team], str) else ".token_file")


def _allowed(check: _Checker, key: str, team: _Team) -> Allowed:
    return Allowed(
        jobs=check.patterns(f"{key}.jobs", team.jobs),
        environments=check.patterns(f"{key}.environments", team.environments),
    )


def _silent_after(check: _Checker, raw: _Monitoring) -> int:
    return check.duration("monitoring.silent_after", raw.silent_after) if raw.silent_after else 0


def _keep_deployments(check: _Checker, raw: _Outbox) -> int:
    """Not set, it is never shorter than keep_delivered."""
    delivered = check.duration("outbox.keep_delivered", raw.keep_delivered)
    if raw.keep_deployments is None:
        return max(times.parse_duration(KEEP_DEPLOYMENTS), delivered)
    deployments = check.duration("outbox.keep_deployments", raw.keep_deployments)
    if deployments < delivered:
        raise check.error("outbox.keep_deployments", "is shorter than keep_delivered")
    return deployments


def _delivery(check: _Checker, raw: _Delivery) -> DeliverySettings:
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
        raise check.error("delivery.backoff_max", "is shorter than backoff_initial")
    return settings
