"""What is fuzzed: functions of bytes that raise for nothing but a fault of the agent.

Each takes what came from outside as it came, lets the agent do with it what the daemon does, and swallows the errors
that belong to it. Whatever else it raises is a finding.
"""

from __future__ import annotations

import tomllib
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from agent.config.file import ConfigError, load
from agent.config.proxies import Proxies, ProxyError
from agent.config.rules import Options, Pattern, Rule, RuleError, Template
from agent.config.settings import JenkinsSettings, WebhookRule, WebhookSettings
from agent.daemon.hooks import Arrived, store
from agent.delivery.answers import Answer as HivelAnswer
from agent.delivery.answers import classify
from agent.deployments import pulls, stages, urls
from agent.deployments.derive import Rules
from agent.inspect.derived import of_build
from agent.model import git, names, times
from agent.model.part import Part
from agent.model.report import ReportError, decode
from agent.outbox.hooks import Verdict
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.sources.jenkins.answers import Answer, Builds, Computers, Items
from agent.sources.jenkins.errors import JenkinsError
from agent.sources.jenkins.raw import RawBuild, build_of
from agent.sources.reports.spool import Spool
from agent.sources.webhooks.headers import event_of, id_of
from agent.sources.webhooks.listener import decoded, meaning_of, payload_of
from agent.sources.webhooks.platforms import READERS
from agent.sources.webhooks.signatures import is_signed
from agent.sources.webhooks.values import Delivery
from tests.integration.reporting import reports_of, settings_of
from tests.integration.support import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.settings import Settings
    from agent.model.build import Build, Stage
    from agent.sources.reports.accept import Reports

CORPUS = Path(__file__).parent / "corpus"
RULES = Rules(
    (
        Rule(Pattern.parse("deploy/*"), Template.parse("{params.ENVIRONMENT}|{job.environment}")),
        Rule(Pattern.parse("**"), Template.parse("{branch}|production"), stage=Pattern.parse("*"), checkouts="each"),
    ),
    Options(libraries=(Pattern.parse("github.com/acme/*lib*"),), url_form="https"),
    frozenset({"main"}),
)


# ---- reports


@cache
def _settings() -> Settings:
    jenkins = JenkinsSettings("main", "https://jenkins.example.test/", None, None, 15_000, "now", 5_000)
    return settings_of(Path("unused"), jenkins, rules=RULES.rules, options=RULES.options)


class _World:
    """An outbox in memory's place, made anew from time to time: a fault must not hide behind what came before."""

    def __init__(self) -> None:
        self.folder = TemporaryDirectory(prefix="hivel-fuzz-")
        self.clock = FakeClock()
        path = Path(self.folder.name) / "outbox.db"
        self.outbox = SqliteOutbox(path, self.clock)
        self.outbox._connection.execute("PRAGMA synchronous = OFF")
        self.reports: Reports = reports_of(_settings(), self.outbox)
        self.used = 0

    def close(self) -> None:
        self.outbox.close()
        self.folder.cleanup()


_worlds: list[_World] = []


def _world() -> _World:
    if _worlds and _worlds[0].used >= 500:
        _worlds.pop().close()
    if not _worlds:
        _worlds.append(_World())
    _worlds[0].used += 1
    return _worlds[0]


def report(data: bytes) -> None:
    """A report as the intake gets it: refused with a reason, or stored, and its deployments derived and released."""
    world = _world()
    with suppress(ReportError):
        said = decode(data)
        world.reports.take(said, source="intake", at=world.clock.now_ms(), principal="team")
        world.reports.take(said, source="spool", at=world.clock.now_ms())
    assert world.outbox.things_set_aside(1) == [], world.outbox.things_set_aside(1)[0].error
    world.outbox.counts()


def spooled(data: bytes) -> None:
    """A file in the spool folder: taken, or in ``rejected`` with a reason; never left, never read twice."""
    world = _world()
    folder = Path(world.folder.name) / "spool"
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_bytes(data)
    world.clock.advance(s=60)
    Spool(folder, world.reports).take()
    if (folder / "report.json").exists():  # half a report may be written on: it is looked at once more
        world.clock.advance(days=1)
        Spool(folder, world.reports).take()
    assert not (folder / "report.json").exists()
    assert world.outbox.things_set_aside(1) == []


# ---- Jenkins


def _answer(data: bytes) -> Answer:
    return Answer("https://jenkins.example.test/api/json", data, {})


def jobs(data: bytes) -> None:
    """The list of jobs."""
    with suppress(JenkinsError):
        _answer(data).decode(Items)


def builds(data: bytes) -> None:
    """A page of builds, to what would be sent of each."""
    with suppress(JenkinsError):
        content = _answer(data).decode(Builds)
        for raw in [*(content.builds or ()), *(content.all_builds or ())]:
            _derived(_build(raw, content.pull_request_url))


def build(data: bytes) -> None:
    """One build, to what would be sent of it."""
    with suppress(JenkinsError):
        _derived(_build(_answer(data).decode(RawBuild), None))


def _build(raw: RawBuild, page: str | None) -> Build:
    assert raw.phase is not None
    return build_of(raw, controller="main", job="deploy/mb/main", branch_job=True, pull_request_url=page)


def _derived(found: Build) -> None:
    for view in of_build(found, RULES):
        msgspec.json.encode(view)


def executors(data: bytes) -> None:
    """What runs on the executors."""
    with suppress(JenkinsError):
        for each in _answer(data).decode(Computers).executables():
            if each.running and each.url:
                names.build_of_url(each.url)


def overview(data: bytes) -> None:
    """The stages, as pipeline-graph-view tells them."""
    _stages(data, stages.questions_of_overview, stages.stages_of_overview)


def wfapi(data: bytes) -> None:
    """The stages, as pipeline-rest-api tells them."""
    _stages(data, stages.questions_of_wfapi, stages.stages_of_wfapi)


def _stages(data: bytes, questions_of: Callable[..., list[str]], stages_of: Callable[..., tuple[Stage, ...]]) -> None:
    with suppress(JenkinsError, ValueError):
        page = _answer(data).decode(dict)
        for question in questions_of(page, lambda _: True):
            assert question.isdigit()
        for stage in stages_of(page):
            stages.result_of(stage)


# ---- Hivel


def hivel(data: bytes) -> None:
    """An answer of Hivel: the status in the first two bytes, then a line for each header that counts, then the body."""
    status = 100 + int.from_bytes(data[:2], "big") % 500
    head, _, body = data[2:].partition(b"\n\n")
    kind, retry_after, location, *_ = [*head.decode("utf-8", "replace").split("\n"), "", "", ""]
    answer = HivelAnswer(status, body.decode("utf-8", "replace"), kind, retry_after or None, location or None)
    outcome = classify(answer, "main:deploy/shop#1", 1_795_000_000_000)
    assert outcome.reason is None or outcome.reason.strip()


# ---- webhooks

_ANY = WebhookRule(Pattern.parse("**"), Pattern.parse("**"), "production", "https://git.example.test/a/b", "main")
_HOOKS = [WebhookSettings(platform, platform, (), rules=rules) for platform in READERS for rules in ((), (_ANY,))]
_EVENTS = {"github": ("deployment_status", "workflow_run", "ping"), "circleci": ("job-completed", "workflow-completed")}


def delivered(data: bytes) -> None:
    """A body of a webhook with a valid signature, from every platform: stored, ignored or refused, with a reason."""
    world = _world()
    try:
        body = Part(decoded(payload_of(data) if data.startswith(b"payload=") else data), "")
    except ValueError:
        return
    arrived = []
    for hook in _HOOKS:
        for event in _EVENTS.get(hook.platform, ("",)):
            name = id_of(hook.platform, {}, body)
            delivery = Delivery(event or event_of(hook.platform, {}, body), name, body, world.clock.now_ms())
            arrived.append(Arrived(hook, delivery, meaning_of(delivery, hook)))
    for stored in store(world.reports, arrived):
        if isinstance(stored, Exception):
            raise stored
        assert stored.reason or stored.deployment_id or stored.verdict is Verdict.STARTED
    assert world.outbox.things_set_aside(1) == [], world.outbox.things_set_aside(1)[0].error


def headers(data: bytes) -> None:
    """The headers of a request that anybody sent, one in each line: no signature is valid."""
    lines = [line.partition(":") for line in data.decode("latin-1").split("\n")]
    sent = {name.strip().lower(): value.strip() for name, _, value in lines}
    for platform in READERS:
        for secrets in (["s3cr3t of a test"], ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "other"], ["whsec_?", "a:b"]):
            assert not is_signed(platform, secrets, sent, data, 1_795_000_000_000)
        event_of(platform, sent, Part(None, ""))
        assert id_of(platform, sent, Part(None, "")).isprintable()


# ---- texts


def texts(data: bytes) -> None:
    """Addresses, names, times and titles of merges."""
    text = data.decode("utf-8", "replace")
    for read in (
        urls.plain, urls.path_of, urls.https_form, urls.repository_of_page, git.without_credentials, git.branch_name,
        git.is_tag, git.pull_request_of, git.is_commit, names.build_of_url, names.job_path, names.environment_of_name,
        pulls.numbers_of, pulls.of_job, pulls.of_page, times.parse_http_date,
    ):  # fmt: skip
        read(text)
    times.parse_retry_after(text, 1_795_000_000_000)
    for wrong_is_told in (times.parse_moment, times.parse_duration, lambda said: times.parse_since(said, 0)):
        with suppress(ValueError):
            wrong_is_told(text)
    with suppress(RuleError):
        Pattern.parse(text[:200]).match("deploy/shop")
    with suppress(RuleError):
        Template.parse(text)
    with suppress(ProxyError):
        Proxies({"HTTPS_PROXY": text, "NO_PROXY": text}).route("https://[::1]:8443/x")


def configuration(data: bytes) -> None:
    """A configuration file."""
    path = Path(_world().folder.name) / "agent.toml"
    path.write_bytes(data)
    with suppress(ConfigError):
        load(path)
    with suppress(tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        tomllib.loads(data.decode())


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        report,
        spooled,
        delivered,
        headers,
        jobs,
        builds,
        build,
        executors,
        overview,
        wfapi,
        hivel,
        texts,
        configuration,
    )
}
