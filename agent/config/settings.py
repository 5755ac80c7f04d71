"""The settings. ``agent.config.file`` reads them from a file. All durations are milliseconds."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NoReturn
from urllib.parse import SplitResult, urlsplit

from agent import __version__
from agent.model import times

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date
    from pathlib import Path

    from agent.config.credentials import Token
    from agent.config.rules import Options, Pattern, Rule
    from agent.model.event import CanceledSpelling
    from agent.model.keys import Project

Platform = Literal["github", "gitlab", "argocd", "argo_rollouts", "circleci", "azure_devops"]
_PORTS = {"http": 80, "https": 443}
# For what asks Jenkins for builds: without a controller there is nothing to ask.
NO_CONTROLLER = "no controller is configured: to read builds of a Jenkins, add a [[jenkins]] table"
DEPLOYMENT_PATH = "/api/hooks/v2/deployment"
# The User-Agent of requests. The contact follows if one is configured.
USER_AGENT = f"hivel-jenkins-agent/{__version__}"


@dataclass(frozen=True)
class TlsSettings:
    """PEM files for TLS. None: the system's certificate authorities, and no client certificate."""

    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None  # None: the key is in the file of the certificate

    def context(self) -> ssl.SSLContext:
        """The context of a connection. Raises :class:`ssl.SSLError` and :class:`OSError` for invalid PEM files."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.client_certificate is not None:
            context.load_cert_chain(self.client_certificate, self.client_key, _refuse_passphrase)
        return context


def _refuse_passphrase() -> NoReturn:
    """Else OpenSSL asks for it on the terminal, and a service has none."""
    raise ssl.SSLError("the key has a passphrase; remove it: openssl pkey -in KEY -out KEY")


@dataclass(frozen=True)
class HivelSettings:
    """Where events are sent."""

    url: str
    token: Token
    tls: TlsSettings = TlsSettings()
    user_agent: str = USER_AGENT

    @property
    def deployment_url(self) -> str:
        """The endpoint of the Deployment Events API v2 (Hivel's page, section 3)."""
        return self.url + DEPLOYMENT_PATH


@dataclass(frozen=True)
class JenkinsSettings:
    """One controller. ``url`` ends with a slash. Without ``username``, requests are anonymous.

    ``roots``: the full names of the folders that are polled; empty: everything.
    """

    name: str
    url: str
    username: str | None
    token: Token | None
    poll_interval_ms: int
    since: str | date
    timeout_ms: int
    concurrency: int = 8
    requests_per_minute: int = 0  # 0: no limit
    tls: TlsSettings = TlsSettings()
    user_agent: str = USER_AGENT
    roots: tuple[str, ...] = ()

    @property
    def outermost_roots(self) -> tuple[str, ...]:
        """The roots without duplicates and without roots inside other roots."""
        unique = tuple(dict.fromkeys(self.roots))
        return tuple(root for root in unique if not any(root.startswith(f"{other}/") for other in unique))

    def covers(self, full_name: str) -> bool:
        """Whether the job is in one of the roots, or there are none."""
        return not self.roots or any(full_name.startswith(f"{root}/") for root in self.roots)

    def report_from(self, now_ms: int) -> int:
        """The time (UTC ms) from which the first poll reports builds."""
        return times.parse_since(self.since, now_ms)


@dataclass(frozen=True)
class DeliverySettings:
    """How events are sent and retried."""

    concurrency: int = 8
    timeout_ms: int = 10_000
    interval_ms: int = 1_000
    backoff_initial_ms: int = 5_000
    backoff_max_ms: int = 900_000
    per_minute: int = 0  # 0: no limit
    max_attempts: int = 0  # 0: no limit
    max_age_ms: int = 0  # 0: no limit
    canceled_spelling: CanceledSpelling = "canceled"


# How the address of a Unix socket begins.
UNIX = "unix:"


@dataclass(frozen=True)
class Address:
    """An address to listen on."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class SocketFile:
    """A Unix socket to listen on. The permissions of the file say who can connect."""

    path: Path

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return True

    def __str__(self) -> str:
        return f"{UNIX}{self.path}"


@dataclass(frozen=True)
class Allowed:
    """What a team may report: patterns for full names of jobs, and for environments as sent. None: any."""

    jobs: tuple[Pattern, ...] | None = None
    environments: tuple[Pattern, ...] | None = None

    def job(self, full_name: str) -> bool:
        """Whether the team may report this job, or this project of another CI system."""
        return self.jobs is None or any(each.match(full_name) is not None for each in self.jobs)

    def environment(self, name: str) -> bool:
        """Whether the team may report deployments to this environment."""
        return self.environments is None or any(each.match(name) is not None for each in self.environments)

    def __str__(self) -> str:
        return f"{_any_or(self.jobs, 'job')}, {_any_or(self.environments, 'environment')}"


def _any_or(patterns: tuple[Pattern, ...] | None, what: str) -> str:
    return f"any {what}" if patterns is None else f"{what}s {' '.join(each.text for each in patterns)}"


@dataclass(frozen=True)
class IntakeSettings:
    """The HTTP intake. ``tokens``: by team; the token of ``token_file`` has no name. Empty: no token is required.

    ``teams``: the teams whose reports are restricted.
    """

    address: Address
    tokens: tuple[tuple[str, Token], ...]
    teams: Mapping[str, Allowed] = field(default_factory=dict)


@dataclass(frozen=True)
class NotifySettings:
    """Where notifications are sent: to a ``command`` (argv), or else to ``url``, which is a secret.

    A condition is reported after ``after_ms``, and again every ``repeat_ms``; 0: not again. ``timeout_ms``: limit of
    each attempt.
    """

    command: tuple[str, ...] = ()
    url: Token | None = None
    after_ms: int = 900_000
    repeat_ms: int = 86_400_000
    timeout_ms: int = 30_000
    tls: TlsSettings = TlsSettings()


@dataclass(frozen=True)
class ProxySettings:
    """A reverse proxy that authenticates users: it sends their names in ``user_header``.

    The header counts only in requests with the ``secret``; None: in all requests over a Unix socket. ``operators`` may
    act, all other users may view.
    """

    user_header: str
    secret: Token | None
    operators: frozenset[str] = frozenset()


@dataclass(frozen=True)
class WebSettings:
    """The pages. ``prefix``: empty, or a path such as ``/hivel`` without a trailing slash.

    ``hosts``: further host names of the pages, besides loopback and the listen address. A password or token that is
    not configured is None: no user can log in with it.
    """

    address: Address | SocketFile
    prefix: str = ""
    hosts: tuple[str, ...] = ()
    password: Token | None = None
    view_password: Token | None = None
    token: Token | None = None
    view_token: Token | None = None
    proxy: ProxySettings | None = None


@dataclass(frozen=True)
class WebhookRule:
    """Which runs of a platform are deployments that the platform does not call deployments, and to which environment.

    ``project``: the repository or project, such as ``group/shop``. ``name``: the workflow, job, pipeline or stage.
    ``repo_url`` and ``branch``: for events that have none.
    """

    project: Pattern
    name: Pattern
    environment: str
    repo_url: str = ""
    branch: str = ""


@dataclass(frozen=True)
class WebhookSettings:
    """One platform that sends webhooks to ``/v1/hooks/<name>``.

    ``secrets``: any of them is accepted, so that a secret can be replaced. ``projects`` and ``environments``: only
    these are deployments; None: all of them. ``rules``: for events without an environment. ``transient``: ephemeral
    environments count too. ``self_heal`` and ``partial``: these syncs of Argo CD count too. ``pages_url``: the base of
    links to the platform's pages, for platforms that do not send them (Argo CD). ``api_url`` and ``api_token``: for the
    repair of gaps. ``repair``: the full names of the projects that are asked for missed deployments.
    """

    name: str
    platform: Platform
    secrets: tuple[Token, ...]
    projects: tuple[Pattern, ...] | None = None
    environments: tuple[Pattern, ...] | None = None
    rules: tuple[WebhookRule, ...] = ()
    transient: bool = False
    self_heal: bool = False
    partial: bool = False
    pages_url: str = ""
    api_url: str = ""
    api_token: Token | None = None
    repair: tuple[str, ...] = ()
    tls: TlsSettings = TlsSettings()

    def refuses_project(self, project: str) -> bool:
        """Whether deployments of this project are not wanted."""
        return self.projects is not None and not any(each.match(project) is not None for each in self.projects)

    def is_only_project(self, project: str) -> bool:
        """Whether ``projects`` is this one name."""
        return [each.text for each in self.projects or ()] == [project]

    def refuses_environment(self, environment: str) -> bool:
        """Whether deployments to this environment are not wanted."""
        return self.environments is not None and not any(
            each.match(environment) is not None for each in self.environments
        )

    def rule_of(self, project: str, *names: str) -> WebhookRule | None:
        """The first rule for a workflow, job, pipeline or stage with one of these names; None without a rule."""
        for rule in self.rules:
            if rule.project.match(project) is not None and any(rule.name.match(name) is not None for name in names):
                return rule
        return None

    def environment_of(self, project: str, *names: str) -> str:
        """The environment of the rule for these names; "" without a rule."""
        rule = self.rule_of(project, *names)
        return "" if rule is None else rule.environment


@dataclass(frozen=True)
class WebhooksSettings:
    """The listener for webhooks, and the platforms. Without an ``address``, nothing listens."""

    address: Address | None
    hooks: tuple[WebhookSettings, ...] = ()


@dataclass(frozen=True)
class PostgresqlSettings:
    """The PostgreSQL database with the outbox. The URL contains no password."""

    url: str
    password: Token | None = None
    tls: TlsSettings = TlsSettings()


@dataclass(frozen=True)
class Example:
    """A build, and the deployments that the rules should derive from it: for each one the fields that matter.

    ``place``: where it is in the file, for people. ``stages`` are the names of the stages that succeeded.
    """

    place: str
    job: str
    result: str = "SUCCESS"
    parameters: Mapping[str, str] = field(default_factory=dict)
    repository: str | None = None
    branch: str | None = None
    stages: tuple[str, ...] = ()
    expect: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class Settings:
    """All settings."""

    file: Path
    hivel: HivelSettings
    controllers: tuple[JenkinsSettings, ...]
    rules: tuple[Rule, ...]
    options: Options
    outbox: Path
    delivery: DeliverySettings
    keep_delivered_ms: int = 30 * 86_400_000
    keep_deployments_ms: int = 400 * 86_400_000
    keep_ids_ms: int = 3650 * 86_400_000
    max_size_bytes: int = 0  # 0: no limit
    postgresql: PostgresqlSettings | None = None  # None: the outbox is the file
    lease_ms: int = 15_000
    monitoring: Address | None = None  # None: off
    silent_after_ms: int = 14 * 86_400_000  # 0: silent jobs are not reported
    silent_least: int = 5
    hold_for_ms: int = 3_600_000
    spool: Path | None = None
    intake: IntakeSettings | None = None  # None: off
    notify: NotifySettings | None = None  # None: off
    web: WebSettings | None = None  # None: off
    webhooks: WebhooksSettings | None = None  # None: off
    examples: tuple[Example, ...] = ()

    def allowed(self, team: str) -> Allowed:
        """What a team may report. The default is everything."""
        return (self.intake.teams if self.intake is not None else {}).get(team, Allowed())

    def may_report(self, team: str, project: Project) -> bool:
        """Whether a team may report builds of a project."""
        return not project.reuses_numbers or self.allowed(team).job(project.name)

    def roots_elsewhere(self, controller: str, full_name: str) -> tuple[str, ...]:
        """The roots of the controller if the job is outside of them; otherwise empty."""
        found = next((each for each in self.controllers if each.name == controller), None)
        return () if found is None or found.covers(full_name) else found.roots


def controllers_at(controllers: Iterable[JenkinsSettings], url: str) -> list[JenkinsSettings]:
    """The controllers that an address can be of, the closest ones: by host, port and path, else by less.

    Jenkins shows addresses by its own setting, which can differ from the one that the agent uses. Raises
    :class:`ValueError` if the address is not valid.
    """
    address = urlsplit(url)
    port = _port(address)
    same_host = [each for each in controllers if urlsplit(each.url).hostname == address.hostname]
    same_port = [each for each in same_host if _port(urlsplit(each.url)) == port]
    same_path = [each for each in same_port if f"{address.path}/".startswith(urlsplit(each.url).path)]
    # One Jenkins can be below the path of another one.
    longest = sorted(same_path, key=lambda each: len(urlsplit(each.url).path), reverse=True)[:1]
    return longest or same_port or same_host


def controller_of(controllers: Sequence[JenkinsSettings], url: str) -> JenkinsSettings | None:
    """The controller of a build's address, else the only controller. None if there are several, or none."""
    try:
        found = controllers_at(controllers, url)
    except ValueError:  # such as an incomplete IPv6 address
        return None
    found = found or list(controllers)
    return found[0] if len(found) == 1 else None


def _port(address: SplitResult) -> int | None:
    return address.port or _PORTS.get(address.scheme)
