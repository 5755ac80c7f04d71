"""The verbs of ``hivel-agent``; each reads its arguments and calls one function elsewhere.

Exit codes: 0 done, 1 something failed or (`once`, `check`) needs a person, 2 configuration or command line wrong.
"""

from __future__ import annotations

import sqlite3
import sys
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from agent import __version__
from agent.config.file import DEFAULT_PATH, ConfigError, find_file, load
from agent.model.times import Clock, parse_since
from agent.outbox.sqlite.connection import AlreadyRunningError, OutboxError, in_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.rules import Pattern
    from agent.config.settings import Settings
    from agent.inspect.explain import Preview
    from agent.outbox.sqlite.store import Outbox, Selection

# Jenkins' clock may be ahead of this one: a preview shows what just ended there all the same.
FUTURE_MS = 24 * 3_600_000
CONFIG_HELP = f"Configuration file. Default: $HIVEL_AGENT_CONFIG, else {DEFAULT_PATH}."


def main() -> NoReturn:
    """The console script: errors of configuration and outbox are one line on standard error."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except ConfigError as error:
        click.echo(f"hivel-agent: {error}", err=True)
        code = 2
    except (OutboxError, AlreadyRunningError) as error:
        click.echo(f"hivel-agent: {error}", err=True)
        code = 1
    except sqlite3.Error as error:
        click.echo(f"hivel-agent: {in_words(error, 'of this configuration')}", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def verb_with_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb ``--config`` and call it with the :class:`Settings` as its first argument."""

    @click.option("--config", "config", type=click.Path(path_type=Path), help=CONFIG_HELP)
    @click.pass_context
    @wraps(function)
    def wrapper(context: click.Context, /, config: Path | None, **arguments: Any) -> Any:
        return function(load(find_file(config or context.obj)), **arguments)

    return wrapper


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines instead of text.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--config", type=click.Path(path_type=Path), help=CONFIG_HELP)
@click.version_option(__version__, prog_name="hivel-agent")
@click.pass_context
def cli(context: click.Context, config: Path | None) -> None:
    """Send every Jenkins deployment to Hivel, once, whatever fails on either side.

    The agent polls Jenkins for finished builds, keeps an event for each deployment in a durable
    outbox, and delivers it to Hivel's Deployment Events API.

    \b
    Try it without Jenkins or Hivel:   hivel-agent demo
    Look before you start it:          hivel-agent --config agent.toml check
    Start it:                          hivel-agent --config agent.toml run

    Exit codes: 0 done; 1 something failed (once and check: also when something is failed or paused);
    2 the configuration or the command line is wrong.
    """
    context.obj = config


@cli.command()
@click.option(
    "--log-format",
    type=click.Choice(["logfmt", "json"]),
    default="logfmt",
    show_default=True,
    help="One line for each thing that matters: key=value for people and journald, or JSON.",
)
@verb_with_settings
def run(settings: Settings, *, log_format: str) -> None:
    """Poll and deliver until SIGTERM or SIGINT: the daemon. SIGHUP makes it read the configuration anew.

    \b
    Example: hivel-agent run --config /etc/hivel-agent/config.toml
    """
    from agent.daemon import logs, service  # noqa: PLC0415 - heavy, and not needed by the other verbs

    logs.configure(as_json=log_format == "json")
    service.run(settings, Clock())


@cli.command()
@json_option
@verb_with_settings
def once(settings: Settings, *, as_json: bool) -> None:
    """Poll each controller once, deliver what is due, and exit. For cron, and for trying things.

    Exits with 1 when a poll failed, an event is failed or the delivery is paused. Events that wait for
    Hivel to come back are no failure: the next run delivers them.

    \b
    Example: */5 * * * * hivel-agent once --config /etc/hivel-agent/config.toml
    """
    from agent.cli import show  # noqa: PLC0415
    from agent.daemon import logs, service  # noqa: PLC0415 - heavy, and not needed by the other verbs

    logs.configure(quiet=True)
    report = service.once(settings, Clock())
    show.as_json(report) if as_json else show.once(report)
    sys.exit(1 if report.needs_attention else 0)


@cli.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def emit(arguments: tuple[str, ...]) -> None:
    """Report the deployment of the build that runs this command. See: hivel-agent emit --help

    \b
    Example: hivel-agent emit --status "$RESULT" --environment production
    """
    from agent.sources.reports.emit import main as report  # noqa: PLC0415

    report(list(arguments))


@cli.command()
@json_option
@verb_with_settings
def status(settings: Settings, *, as_json: bool) -> None:
    """Show outbox, delivery and controllers at a glance.

    \b
    Example: hivel-agent status --json | jq .events.pending
    """
    from agent.cli import show  # noqa: PLC0415
    from agent.inspect import status as report  # noqa: PLC0415

    with _existing_outbox(settings) as outbox:
        value = report.status(settings, outbox)
    show.as_json(value) if as_json else show.status(value)


@cli.group()
def queue() -> None:
    """Look at the events in the outbox.

    \b
    Example: hivel-agent queue list --state failed
    """


@queue.command("list")
@click.option("--state", type=click.Choice(["pending", "held", "delivered", "failed"]), help="Only this state.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@json_option
@verb_with_settings
def queue_list(settings: Settings, *, state: str | None, limit: int, as_json: bool) -> None:
    """List events, the newest first.

    \b
    Example: hivel-agent queue list --state failed --limit 20
    """
    from agent.cli import show  # noqa: PLC0415
    from agent.outbox.sqlite.store import State  # noqa: PLC0415

    with _existing_outbox(settings) as outbox:
        rows = outbox.rows(State(state) if state else None, limit)
    show.as_json([show.event_view(row) for row in rows]) if as_json else show.events(rows)


@queue.command("show")
@click.argument("id")
@json_option
@verb_with_settings
def queue_show(settings: Settings, *, id: str, as_json: bool) -> None:  # noqa: A002 - click's name for ID
    """Show one event with every attempt. ID: its number in the list, or its deployment_id.

    \b
    Example: hivel-agent queue show 'main:deploy/shop#12'
    """
    from agent.cli import show  # noqa: PLC0415

    with _existing_outbox(settings) as outbox:
        row = outbox.find(id)
        if row is None:
            raise click.ClickException(f"there is no event {id!r}; see: hivel-agent queue list")
        attempts = outbox.attempts(row)
    show.as_json(show.detail_view(row, attempts)) if as_json else show.event(row, attempts)


@cli.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--failed", is_flag=True, help="Failed events.")
@click.option("--all-delivered", is_flag=True, help="Delivered events too; needs --since.")
@click.option("--since", help="Only events enqueued since then: 24h, 2026-01-31, 2026-01-31T18:00:00Z.")
@click.option("--until", help="Only events enqueued before then.")
@click.option("--job", help='Only events of jobs that match: "deploy/**" or "re:…".')
@click.option("--environment", help="Only events of this environment.")
@click.option("--error", help="Only events whose reason contains this text.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@verb_with_settings
def replay(
    settings: Settings, *, ids: tuple[str, ...], yes: bool, as_json: bool, job: str | None, **filters: Any
) -> None:
    """Send events again that failed, or delivered ones that are asked for.

    A failed event is derived anew by today's rules from what is kept with it: mend the rule, then replay.
    What --failed and --all-delivered choose is counted first, and sent after a yes. The daemon, or the next
    `once`, sends what is pending again. Exits with 1 when one could not be replayed.

    \b
    Examples: hivel-agent replay --failed --yes
              hivel-agent replay 17 'main:deploy/shop#12'
              hivel-agent replay --failed --job 'deploy/**' --error 'no branch'
              hivel-agent replay --all-delivered --since 2026-01-31 --environment production
    """
    from agent.cli import show  # noqa: PLC0415
    from agent.ingest import replay as replaying  # noqa: PLC0415

    with _existing_outbox(settings) as outbox:
        if ids:
            if job or any(filters.values()):
                raise click.UsageError("either IDs or --failed / --all-delivered with filters, not both")
            chosen = _numbers(outbox, ids)
        else:
            chosen = replaying.choose(outbox, _selection(outbox.clock.now_ms(), **filters), _pattern("--job", job))
            _confirm(len(chosen), yes=yes)
        outcomes = replaying.replay(outbox, settings, chosen)
    show.as_json(outcomes) if as_json else show.outcomes(outcomes)
    sys.exit(0 if all(outcome.replayed for outcome in outcomes) else 1)


def _numbers(outbox: Outbox, ids: tuple[str, ...]) -> list[int]:
    rows = {name: outbox.find(name) for name in ids}
    unknown = [name for name, row in rows.items() if row is None]
    if unknown:
        raise click.ClickException(f"there is no event {', '.join(map(repr, unknown))}; nothing was replayed")
    return list(dict.fromkeys(row.id for row in rows.values() if row is not None))


def _selection(
    now_ms: int, *, failed: bool, all_delivered: bool, since: str | None, until: str | None,
    environment: str | None, error: str | None,
) -> Selection:  # fmt: skip
    from agent.outbox.sqlite.store import Selection, State  # noqa: PLC0415

    if not failed and not all_delivered:
        raise click.UsageError("say what to replay: IDs, --failed, or --all-delivered --since …")
    if all_delivered and since is None:
        raise click.UsageError("--all-delivered needs --since: everything that was ever sent is rarely meant")
    return Selection(
        states=(*([State.FAILED] if failed else []), *([State.DELIVERED] if all_delivered else [])),
        since=None if since is None else _moment("--since", since, now_ms),
        until=None if until is None else _moment("--until", until, now_ms),
        environment=environment,
        error=error,
    )


def _pattern(option: str, text: str | None) -> Pattern | None:
    from agent.config.rules import Pattern, RuleError  # noqa: PLC0415

    try:
        return None if text is None else Pattern.parse(text)
    except RuleError as error:
        raise click.UsageError(f"{option}: {error}") from None


def _confirm(count: int, *, yes: bool) -> None:
    """Say how many it would be; go on only after a yes."""
    if yes or count == 0:
        return
    told = f"{count} event(s) would be sent again"
    if not sys.stdin.isatty():
        raise click.ClickException(f"{told}; repeat the command with --yes to do it")
    click.confirm(f"{told}. Do it?", abort=True, err=True)


@cli.command()
@click.option("--offline", is_flag=True, help="Only configuration, tokens and outbox: no network.")
@json_option
@verb_with_settings
def check(settings: Settings, *, offline: bool, as_json: bool) -> None:
    """Check the configuration, each Jenkins, and Hivel, and say what to mend. No event is sent.

    \b
    Example: hivel-agent check --config /etc/hivel-agent/config.toml
    """
    from agent.cli import show  # noqa: PLC0415
    from agent.daemon import logs  # noqa: PLC0415
    from agent.inspect.check import Level  # noqa: PLC0415
    from agent.inspect.check import check as look  # noqa: PLC0415

    logs.configure(quiet=True)
    findings = look(settings, Clock(), offline=offline)
    show.as_json(findings) if as_json else show.findings(findings)
    sys.exit(1 if any(finding.level is Level.ERROR for finding in findings) else 0)


@cli.command()
@click.option("--folder", type=click.Path(path_type=Path), default=DEFAULT_PATH.parent, show_default=True,
              help="Where the files are written.")  # fmt: skip
@click.option("--hivel-url", help="Hivel's address: https://app.hivel.ai or https://app.hivel.in.")
@click.option("--hivel-token-file", type=click.Path(path_type=Path), help="File with Hivel's API key.")
@click.option("--jenkins-url", help="Address of Jenkins.")
@click.option("--jenkins-name", help="Name of this Jenkins in every deployment_id.")
@click.option("--username", help="User in Jenkins; an empty one asks anonymously.")
@click.option("--jenkins-token-file", type=click.Path(path_type=Path), help="File with its API token.")
@click.option("--since", help="What the first poll reports: now, 7d, 2026-01-31.")
@click.option("--job", "jobs", multiple=True, help="Pattern of jobs that deploy; may be given several times.")
@click.option("--no-test", is_flag=True, help="Ask neither Jenkins nor Hivel.")
@click.option("--force", is_flag=True, help="Write over a configuration that is there.")
def init(folder: Path, *, no_test: bool, force: bool, **given: Any) -> None:
    """Write a configuration: ask for what it needs, test it live, and show what would be sent.

    What no option says is asked for on a terminal. Tokens are read from files, from HIVEL_API_TOKEN and
    JENKINS_API_TOKEN, or typed in hidden; they are written with mode 0600.

    \b
    Example: hivel-agent init
             hivel-agent init --folder ~/agent --jenkins-url https://jenkins.example.com --username hivel-agent \\
               --jenkins-token-file jenkins.token --hivel-token-file hivel.token --job 'deploy/**'
    """
    from agent.cli import init as beginning  # noqa: PLC0415
    from agent.cli import show  # noqa: PLC0415
    from agent.daemon import logs  # noqa: PLC0415

    logs.configure(quiet=True)
    interactive = sys.stdin.isatty()
    try:
        answers = beginning.ask(beginning.Given(**given), interactive=interactive)
        settings, findings = beginning.try_out(answers, Clock(), offline=no_test)
        show.findings(findings)
        if not beginning.usable(findings) and not (interactive and click.confirm("Write it all the same?", err=True)):
            raise click.ClickException("nothing was written; mend it, or write it with --no-test")
        written = beginning.write(answers, folder, force=force)
    except beginning.InitError as error:
        raise click.ClickException(str(error)) from None
    if not no_test:
        show.preview(_preview(settings, "7d"))
    show.written(written)


def _preview(settings: Settings, since: str) -> Preview:
    from agent.inspect import explain as explaining  # noqa: PLC0415
    from agent.sources.jenkins.client import JenkinsClient  # noqa: PLC0415
    from agent.sources.jenkins.history import Span  # noqa: PLC0415

    now = Clock().now_ms()
    return explaining.preview(settings, JenkinsClient, Span(_moment("--since", since, now), now + FUTURE_MS))


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that lets a shell complete verbs and options.

    \b
    Example: hivel-agent completion bash > /etc/bash_completion.d/hivel-agent
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    complete = get_completion_class(shell)
    if complete is None:
        raise click.ClickException(f"no completion for {shell}")
    click.echo(complete(cli, {}, "hivel-agent", "_HIVEL_AGENT_COMPLETE").source())


@cli.command()
@click.option("--since", default="7d", show_default=True, help="Builds that ended since then: 7d, 2026-01-31.")
@json_option
@verb_with_settings
def preview(settings: Settings, *, since: str, as_json: bool) -> None:
    """Show what the rules would send, without storing or sending anything.

    Jobs that match no rule are listed by name, so that a missing rule is seen.

    \b
    Example: hivel-agent preview --since 24h
    """
    from agent.cli import show  # noqa: PLC0415
    from agent.daemon import logs  # noqa: PLC0415

    logs.configure(quiet=True)
    result = _preview(settings, since)
    show.as_json(result) if as_json else show.preview(result)
    sys.exit(1 if result.problems else 0)


@cli.command()
@click.argument("build_url")
@json_option
@verb_with_settings
def explain(settings: Settings, *, build_url: str, as_json: bool) -> None:
    """Explain why one build did or did not become an event.

    Which rule matched, where every field came from, and what the outbox knows of it.

    \b
    Example: hivel-agent explain http://jenkins.example.com/job/deploy/job/shop/12/
    """
    from agent.cli import show  # noqa: PLC0415
    from agent.daemon import logs  # noqa: PLC0415
    from agent.inspect import explain as explaining  # noqa: PLC0415
    from agent.outbox.sqlite.store import Outbox  # noqa: PLC0415
    from agent.sources.jenkins.client import JenkinsClient  # noqa: PLC0415

    logs.configure(quiet=True)
    outbox = Outbox(settings.outbox, Clock()) if settings.outbox.exists() else None
    try:
        result = explaining.explain(settings, outbox, JenkinsClient, build_url)
    except explaining.ExplainError as error:
        raise click.UsageError(str(error)) from None
    finally:
        if outbox is not None:
            outbox.close()
    show.as_json(result) if as_json else show.explanation(result)


@cli.command()
@click.option("--since", required=True, help="Builds that ended since then: 30d, 2026-01-31, 2026-01-31T18:00:00Z.")
@click.option("--until", help="Builds that ended before then. Default: now.")
@click.option("--job", help='Only jobs that match: "deploy/**" or "re:…".')
@click.option("--dry-run", is_flag=True, help="Only say what would be reported.")
@json_option
@verb_with_settings
def backfill(
    settings: Settings, *, since: str, until: str | None, job: str | None, dry_run: bool, as_json: bool
) -> None:
    """Report builds of the past that the rules make deployments.

    What was reported before is not reported again. Interrupted, the same command goes on where it was. It may run
    beside the daemon, which then delivers; otherwise `hivel-agent once` does.

    \b
    Example: hivel-agent backfill --since 2026-01-01 --job 'deploy/**' --dry-run
    """
    from agent.cli import show  # noqa: PLC0415
    from agent.daemon import logs  # noqa: PLC0415
    from agent.outbox.sqlite.store import Outbox  # noqa: PLC0415
    from agent.sources.jenkins import backfill as filling  # noqa: PLC0415
    from agent.sources.jenkins.client import JenkinsClient  # noqa: PLC0415
    from agent.sources.jenkins.history import Span  # noqa: PLC0415

    logs.configure(quiet=True)
    clock = Clock()
    now = clock.now_ms()
    pattern = _pattern("--job", job)
    span = Span(_moment("--since", since, now), _moment("--until", until, now) if until else now + FUTURE_MS)
    words = f"since {since}, until {until or 'now'}, job {job or '**'}"
    request = filling.Request(span, words, pattern, dry_run)
    with Outbox(settings.outbox, clock) as outbox, show.progress(hidden=as_json) as progress:
        report = filling.backfill(settings, outbox, JenkinsClient, request, progress)
    show.as_json(report) if as_json else show.backfill(report, dry_run=dry_run)
    sys.exit(1 if report.problems else 0)


def _moment(option: str, text: str, now_ms: int) -> int:
    try:
        return parse_since(text, now_ms)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None


def _existing_outbox(settings: Settings) -> Outbox:
    """Open the outbox, but do not make one: it would belong to whoever looked first, not to the service."""
    from agent.outbox.sqlite.store import Outbox  # noqa: PLC0415

    if not settings.outbox.exists():
        raise OutboxError(f"there is no outbox {settings.outbox} yet; hivel-agent run or once makes it")
    return Outbox(settings.outbox, Clock())


@cli.command()
def demo() -> None:
    """Show the main job with a local Jenkins and a local Hivel, in about ten seconds.

    Builds are found, events wait while Hivel is down, all are delivered, and a restart sends nothing twice.
    Exits with 0 only if all of this was true.

    \b
    Example: hivel-agent demo
    """
    from agent.sandbox.demo import run_demo  # noqa: PLC0415

    sys.exit(0 if run_demo() else 1)


@cli.group()
def sandbox() -> None:
    """Local stand-ins to try a configuration with, before it touches production.

    \b
    Example: hivel-agent sandbox hivel --port 8090
    """


def listen_options(port: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--host``, ``--port``, ``--token`` of a sandbox."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
            click.option("--port", default=port, show_default=True, help="Port to listen on; 0 takes a free one."),
            click.option("--token", default="sandbox-token", show_default=True, help="The token to accept."),
        ):
            function = option(function)
        return function

    return add


@sandbox.command("hivel")
@listen_options(8090)
@click.option("--db", type=click.Path(path_type=Path), help="Keep received events in this file; default: in memory.")
@click.option("--strict", is_flag=True, help="Answer 409 to every second POST of a deployment_id, identical or not.")
@click.option("--fault", help='Misbehave from the start, as in POST /_faults: \'{"kind": "status", "status": 503}\'.')
def sandbox_hivel(host: str, port: int, token: str, db: Path | None, fault: str | None, *, strict: bool) -> None:
    """A local Hivel: the Deployment Events API v2, and a page that shows what arrived.

    \b
    Example: hivel-agent sandbox hivel --port 8090
    Then:    open http://127.0.0.1:8090/ and set [hivel] url = "http://127.0.0.1:8090"
    Break it: curl -X POST -H 'Content-Type: application/json' \\
                -d '{"kind": "status", "status": 503, "seconds": 30}' http://127.0.0.1:8090/_faults
    """
    import msgspec  # noqa: PLC0415

    from agent.sandbox.hivel import Fault, LocalHivel  # noqa: PLC0415

    hivel = LocalHivel(token, db=db, strict=strict)
    if fault is not None:
        try:
            hivel.fault(msgspec.json.decode(fault, type=Fault))
        except msgspec.MsgspecError as error:
            raise click.UsageError(f"--fault: {error}") from None
    _serve(hivel.app, host, port, f"local Hivel, token {token}")


@sandbox.command("jenkins")
@listen_options(8091)
@click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Recorded answers.")
@click.option("--every", default=0.0, help="Start a build, and finish the one before, every so many seconds.")
def sandbox_jenkins(host: str, port: int, token: str, folder: Path | None, every: float) -> None:
    """A local Jenkins that serves recorded jobs and builds. Its user is hivel-agent.

    \b
    Example: hivel-agent sandbox jenkins --port 8091 --every 5
    """
    from agent.sandbox.jenkins import LocalJenkins  # noqa: PLC0415

    jenkins = LocalJenkins.from_folder(folder, token=token) if folder else LocalJenkins.recorded(token=token)
    if every > 0:
        _repeat(every, jenkins.play)
    _serve(jenkins.app, host, port, f"local Jenkins, user {jenkins.username}, token {token}")


def _repeat(seconds: float, action: Callable[[], None]) -> None:
    import threading  # noqa: PLC0415

    def repeat() -> None:
        while not threading.Event().wait(seconds):
            action()

    threading.Thread(target=repeat, daemon=True).start()


def _serve(app: Any, host: str, port: int, what: str) -> None:
    from agent.sandbox.server import serve  # noqa: PLC0415

    try:
        serve(app, host, port, announce=lambda url: click.echo(f"{what}: {url}/  (Ctrl-C ends it)"))
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from None
