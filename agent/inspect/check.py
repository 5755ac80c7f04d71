"""``check``: find what is wrong. Sends requests to Jenkins and Hivel, changes nothing, and sends no event."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING

from agent.config.proxies import Proxies, ProxyError
from agent.config.rules import default_rules, first_match
from agent.config.sizes import describe_size
from agent.inspect.coverage import unmatched
from agent.inspect.expressions import busy
from agent.inspect.findings import CONFIGURATION, HIVEL, Finding, Level, subject_of
from agent.inspect.folders import cannot_make, spool
from agent.inspect.notifications import notifications
from agent.inspect.pages import pages
from agent.inspect.plugins import missing_plugins
from agent.inspect.probes import probe_hivel, probe_jenkins
from agent.inspect.suspicious import suspicious, unusable_proxies
from agent.inspect.webhooks import webhooks
from agent.outbox.engines import engine_of, is_shared, name_of
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import DamagedError, OlderOutboxError, OutboxError

if TYPE_CHECKING:
    from pathlib import Path

    from agent.config.problems import ConfigError
    from agent.config.settings import JenkinsSettings, Settings
    from agent.inspect.probes import JenkinsProbe
    from agent.model.times import Clock


# With less free space, storing the result of a poll can fail.
LEAST_FREE = 1024 * 1024


def check(settings: Settings, clock: Clock, *, offline: bool = False) -> list[Finding]:
    """Check everything. Raises nothing: each problem is a finding that says what to do. ``offline``: no requests."""
    findings = config_only(settings)
    findings += [finding for path in _token_files(settings) if (finding := _permissions(path))]
    findings += [
        Finding(Level.ERROR, subject_of(controller), controller.token.problem)
        for controller in settings.controllers
        if offline and controller.token is not None and controller.token.problem is not None
    ]
    findings += _teams(settings)
    findings += notifications(settings)
    findings += pages(settings)
    findings += webhooks(settings)
    findings += [Finding(Level.ERROR if each.endless else Level.WARNING, "rules", str(each)) for each in busy(settings)]
    findings.append(
        _shared_outbox(settings, clock) if is_shared(settings) else _outbox(settings, clock, thoroughly=not offline)
    )
    findings += spool(settings.spool)
    routes = _routes(settings)
    findings += routes
    if offline:
        return findings
    unusable = {finding.subject for finding in routes if finding.level is Level.ERROR}
    return findings + _answers(settings, clock, unusable)


def _answers(settings: Settings, clock: Clock, unusable: set[str]) -> list[Finding]:
    """The answers of Jenkins and Hivel. ``unusable``: subjects that cannot be reached because of their proxy."""
    findings: list[Finding] = []
    listed: list[str] | None = []
    for controller in settings.controllers:
        findings += _overlaps(controller)
        if subject_of(controller) in unusable:
            listed = None
            continue
        probe = probe_jenkins(controller)
        findings += _controller(settings, controller, probe)
        if probe.snapshot is None or probe.snapshot.unread:
            listed = None  # a rule can match jobs that could not be listed
        elif listed is not None:
            listed += [job.full_name for job in probe.snapshot.jobs]
        if probe.snapshot is not None:
            findings += missing_plugins(settings.rules, controller, probe.snapshot.jobs)
    if listed and settings.rules != default_rules():
        findings += unmatched(settings.rules, listed)
    if HIVEL not in unusable:
        findings.append(asyncio.run(_hivel(settings, clock)))
    return findings


def config_only(settings: Settings) -> list[Finding]:
    """Findings about the configuration file. Sends no request and reads no other file."""
    return [complete(settings), *_without_controller(settings), *suspicious(settings)]


def complete(settings: Settings) -> Finding:
    """The finding for a configuration without errors."""
    return Finding(Level.OK, CONFIGURATION, f"{settings.file} is valid; {len(settings.rules)} rule(s)")


def _without_controller(settings: Settings) -> list[Finding]:
    """Where deployments come from if no Jenkins is polled."""
    if settings.controllers:
        return []
    doors = [name for name, there in (("[intake]", settings.intake), ("[[webhook]]", settings.webhooks)) if there]
    words = f"no controller is configured, so no Jenkins is polled; deployments come from {' and '.join(doors)}"
    if doors:
        return [Finding(Level.OK, CONFIGURATION, words)]
    words = (
        "no controller is configured, and neither [intake] nor [[webhook]]: only emit on this machine and the spool "
        "folder report deployments; add one of these tables, or [[jenkins]]"
    )
    return [Finding(Level.WARNING, CONFIGURATION, words)]


def unusable(error: ConfigError) -> list[Finding]:
    """One error for each problem of a configuration that is not valid."""
    messages = [str(problem) for problem in error.problems] or [str(error)]
    return [Finding(Level.ERROR, CONFIGURATION, message) for message in messages]


def _routes(settings: Settings) -> list[Finding]:
    """Proxies that the environment sets for Jenkins and Hivel; empty if there are none."""
    proxies = Proxies()
    findings = list(unusable_proxies(proxies))
    urls = {HIVEL: settings.hivel.deployment_url, **{subject_of(each): each.url for each in settings.controllers}}
    for subject, url in urls.items():
        try:
            route = proxies.route(url)
        except ProxyError as error:
            findings.append(Finding(Level.ERROR, subject, str(error)))
        else:
            if route.reason is not None:
                findings.append(Finding(Level.OK, subject, f"requests go {route}"))
    return findings


def _overlaps(controller: JenkinsSettings) -> list[Finding]:
    """Warnings about roots that have no effect."""
    outermost, found = controller.outermost_roots, []
    for place, root in enumerate(controller.roots):
        outer = next((each for each in outermost if root.startswith(f"{each}/")), None)
        if outer is not None:
            words = f"roots: {root} is inside {outer}; remove one of them"
        elif root in controller.roots[:place]:
            words = f"roots: {root} is listed twice"
        else:
            continue
        found.append(Finding(Level.WARNING, subject_of(controller), words))
    return found


def _token_files(settings: Settings) -> list[Path]:
    """The token files of the configuration. systemd protects its credential files itself."""
    reporting = () if settings.intake is None else (token for _, token in settings.intake.tokens)
    tokens = [settings.hivel.token, *(c.token for c in settings.controllers if c.token), *reporting]
    if settings.postgresql is not None and settings.postgresql.password is not None:
        tokens.append(settings.postgresql.password)
    if settings.notify is not None and settings.notify.url is not None:
        tokens.append(settings.notify.url)
    for hook in () if settings.webhooks is None else settings.webhooks.hooks:
        tokens += [*hook.secrets, *([] if hook.api_token is None else [hook.api_token])]
    by_systemd = os.environ.get("CREDENTIALS_DIRECTORY")
    there = {token.path for token in tokens if token.path is not None and token.problem is None}
    return sorted(path for path in there if str(path.parent) != by_systemd)


def _teams(settings: Settings) -> list[Finding]:
    """What each team may report; empty without [intake.teams]."""
    names = [] if settings.intake is None else [team for team, _ in settings.intake.tokens if team]
    return [Finding(Level.OK, "intake", f"the team {name} may report {settings.allowed(name)}") for name in names]


def _permissions(path: Path) -> Finding | None:
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
        return Finding(Level.WARNING, str(path), f"other users can read this token; run: chmod 600 {path}")
    return None


def _outbox(settings: Settings, clock: Clock, *, thoroughly: bool) -> Finding:
    if not os.path.lexists(settings.outbox):
        return _missing_outbox(settings.outbox)
    try:
        with SqliteOutbox(settings.outbox, clock) as outbox:
            counts, size = outbox.counts(), outbox.size()
            problem = outbox.find_damage() if thoroughly else None
            outbox.try_writing()
    except OutboxError as error:
        # The agent starts anyway: it repairs a damaged outbox and converts an older one.
        level = Level.WARNING if isinstance(error, DamagedError | OlderOutboxError) else Level.ERROR
        return Finding(level, "outbox", str(error))
    if problem is not None:
        return Finding(Level.ERROR, "outbox", f"{settings.outbox} is damaged ({problem}); restart the agent")
    if (free := _free_bytes(settings.outbox)) < LEAST_FREE:
        room = f"only {free // 1024} KB are free on the disk of {settings.outbox}; free some space"
        return Finding(Level.ERROR, "outbox", room)
    if 0 < settings.max_size_bytes <= size:
        full = f"it takes {describe_size(size)}, [outbox] max_size is {describe_size(settings.max_size_bytes)}"
        return Finding(Level.WARNING, "outbox", f"{settings.outbox} is full: {full}; no new events are stored")
    told = f"{settings.outbox} can be written; {counts.pending} pending, {counts.failed} failed"
    return Finding(Level.WARNING if counts.failed else Level.OK, "outbox", told)


def _free_bytes(path: Path) -> int:
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def _shared_outbox(settings: Settings, clock: Clock) -> Finding:
    try:
        with closing(engine_of(settings, clock).open()) as outbox:
            counts = outbox.counts()
            outbox.try_writing()
    except OutboxError as error:
        return Finding(Level.ERROR, "outbox", str(error))
    told = f"{name_of(settings)} can be written; {counts.pending} pending, {counts.failed} failed"
    return Finding(Level.WARNING if counts.failed else Level.OK, "outbox", told)


def _missing_outbox(path: Path) -> Finding:
    """``check`` does not create the outbox: it would belong to the user of ``check``, not to the service."""
    if (problem := cannot_make(path)) is not None:
        words = f"{problem}; correct [outbox] path or the owner, or run this command as the user of the service"
        return Finding(Level.ERROR, "outbox", words)
    return Finding(Level.OK, "outbox", f"{path} will be created at the first start")


def _controller(settings: Settings, controller: JenkinsSettings, probe: JenkinsProbe) -> list[Finding]:
    subject = subject_of(controller)
    findings = [Finding(each.level, subject, str(each)) for each in probe.problems]
    about, snapshot = probe.about, probe.snapshot
    if about is None or snapshot is None:
        return findings
    jobs = snapshot.jobs
    deploying = sum(first_match(settings.rules, job.full_name) is not None for job in jobs)
    who = "anonymously" if about.anonymous else f"as {about.user}"
    words = (
        f"Jenkins {about.version or '(unknown version)'} at {controller.url}, {who}: "
        f"{len(jobs)} job(s) visible{_where(controller)}, {deploying} of them match a rule"
    )
    findings.insert(0, Finding(Level.OK, subject, words))
    if jobs and not deploying:
        words = "no visible job matches a rule: correct job in [[deployment]]"
        findings.append(Finding(Level.WARNING, subject, words))
    return findings


def _where(controller: JenkinsSettings) -> str:
    roots = controller.outermost_roots
    return f" in {', '.join(roots)}" if roots else ""


async def _hivel(settings: Settings, clock: Clock) -> Finding:
    probe = await probe_hivel(settings.hivel, settings.delivery, clock)
    if probe.problem is not None:
        return Finding(probe.problem.level, HIVEL, str(probe.problem))
    return Finding(
        Level.OK, HIVEL, f"{settings.hivel.deployment_url} answers and accepts the token (no event was sent)"
    )
