"""The structure of the configuration file: its tables, their keys, and the defaults."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from agent.config.paths import DEFAULT_OUTBOX, DEFAULT_SPOOL
from agent.config.rules import UrlForm  # noqa: TC001 - msgspec reads it at run time
from agent.config.settings import Platform  # noqa: TC001 - msgspec reads it at run time


class Http(msgspec.Struct):
    """``[http]``."""

    contact: str | None = None


class Hivel(msgspec.Struct):
    """``[hivel]``."""

    url: str
    token_file: str | None = None
    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


class Jenkins(msgspec.Struct):
    """One ``[[jenkins]]``."""

    url: str
    name: str | None = None
    username: str | None = None
    token_file: str | None = None
    poll_interval: str = "15s"
    since: Any = "now"  # text, or a date or time of TOML
    roots: list[str] | None = None
    timeout: str = "30s"
    concurrency: int = 8
    requests_per_minute: int = 1200
    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


class Deployment(msgspec.Struct):
    """One ``[[deployment]]``."""

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


class Example(msgspec.Struct):
    """One ``[[example]]``: a build, and the deployments that the rules should derive from it."""

    job: str
    result: Literal["SUCCESS", "UNSTABLE", "FAILURE", "NOT_BUILT", "ABORTED"] = "SUCCESS"
    parameters: dict[str, str] = {}
    repository: str | None = None
    branch: str | None = None
    stages: list[str] = []
    expect: list[dict[str, str]] = []


class Repositories(msgspec.Struct):
    """``[repositories]``."""

    libraries: list[str] = []
    url_form: UrlForm = "as-is"


class Outbox(msgspec.Struct):
    """``[outbox]``."""

    path: str = DEFAULT_OUTBOX
    keep_delivered: str = "30d"
    keep_deployments: str | None = None
    keep_ids: str = "3650d"
    max_size: str | None = None  # None and "": no limit
    url: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    lease: str = "15s"


class Delivery(msgspec.Struct):
    """``[delivery]``."""

    concurrency: int = 8
    timeout: str = "10s"
    interval: str = "1s"
    backoff_initial: str = "5s"
    backoff_max: str = "15m"
    per_minute: int = 0
    max_attempts: int = 0
    max_age: str | None = None
    canceled_spelling: Literal["canceled", "cancelled"] = "canceled"


class Monitoring(msgspec.Struct):
    """``[monitoring]``."""

    listen: str = "127.0.0.1:9469"
    silent_after: str = "14d"
    silent_least: int = 5


class Hook(msgspec.Struct):
    """``[hook]``."""

    hold_for: str = "1h"
    spool: str = DEFAULT_SPOOL


class Team(msgspec.Struct):
    """One team of ``[intake.teams]``."""

    token_file: str
    jobs: list[str] | None = None
    environments: list[str] | None = None


class Intake(msgspec.Struct):
    """``[intake]``."""

    listen: str = "127.0.0.1:9470"
    token_file: str | None = None
    require_token: bool = True
    teams: dict[str, str | Team] = {}  # a text is the path of the token file


class Proxy(msgspec.Struct):
    """``[web.proxy]``."""

    user_header: str
    secret_file: str | None = None
    operators: list[str] = []


class Web(msgspec.Struct):
    """``[web]``."""

    listen: str = "127.0.0.1:9471"
    prefix: str | None = None
    hosts: list[str] = []
    password_file: str | None = None
    view_password_file: str | None = None
    token_file: str | None = None
    view_token_file: str | None = None
    proxy: Proxy | None = None


class Notify(msgspec.Struct):
    """``[notify]``."""

    command: list[str] | None = None
    url_file: str | None = None
    after: str = "15m"
    repeat: str = "24h"
    timeout: str = "30s"
    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


class Webhooks(msgspec.Struct):
    """``[webhooks]``."""

    listen: str | None = None


class WebhookRule(msgspec.Struct):
    """One ``[[webhook.rule]]``."""

    name: str
    environment: str
    project: str = "**"
    repo_url: str | None = None
    branch: str | None = None


class Webhook(msgspec.Struct):
    """One ``[[webhook]]``."""

    name: str
    platform: Platform
    secret_file: str | None = None
    secret_files: list[str] = []
    projects: list[str] | None = None
    environments: list[str] | None = None
    rule: list[WebhookRule] = []
    transient: bool = False
    self_heal: bool = False
    partial: bool = False
    url: str | None = None
    api_url: str | None = None
    api_token_file: str | None = None
    repair: list[str] = []
    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None


class File(msgspec.Struct):
    """The whole file."""

    hivel: Hivel
    http: Http = msgspec.field(default_factory=Http)
    jenkins: list[Jenkins] = []
    deployment: list[Deployment] = []
    example: list[Example] = []
    environments: dict[str, str] = {}
    status: dict[str, str] = {}
    repositories: Repositories = msgspec.field(default_factory=Repositories)
    outbox: Outbox = msgspec.field(default_factory=Outbox)
    delivery: Delivery = msgspec.field(default_factory=Delivery)
    monitoring: Monitoring = msgspec.field(default_factory=Monitoring)
    hook: Hook = msgspec.field(default_factory=Hook)
    intake: Intake | None = None
    notify: Notify | None = None
    web: Web = msgspec.field(default_factory=Web)
    webhooks: Webhooks = msgspec.field(default_factory=Webhooks)
    webhook: list[Webhook] = []
