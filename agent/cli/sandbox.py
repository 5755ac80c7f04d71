"""``sandbox``: a local Hivel, a local Jenkins, and the APIs of platforms."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from agent.cli.values import duration
from agent.sandbox.hivel import Fault, LocalHivel
from agent.sandbox.jenkins import LocalJenkins, ReplicatedJenkins
from agent.sandbox.jenkins.local import wall_clock_ms
from agent.sandbox.platforms import LocalPlatform
from agent.sandbox.platforms.local import KINDS
from agent.sandbox.platforms.playing import Playing
from agent.sandbox.server import serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp

    from agent.config.settings import Platform


@click.group("sandbox")
def command() -> None:
    """Run a local Jenkins, a local Hivel or the API of a platform to try a configuration.

    \b
    Example: hivel-agent sandbox hivel --port 8090
    """


# The longest time that a thread can wait on all platforms.
_SECONDS = click.FloatRange(0, 86_400)


def _not_empty(_context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("is empty", param=parameter)
    return value


def listen_options(port: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--host``, ``--port``, ``--token``."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
            click.option(
                "--port",
                default=port,
                show_default=True,
                type=click.IntRange(0, 65_535),
                help="Port to listen on. 0: any free port.",
            ),
            click.option(
                "--token",
                default="sandbox-token",
                show_default=True,
                callback=_not_empty,
                help="Accepted token.",
            ),
        ):
            function = option(function)
        return function

    return add


@command.command("hivel")
@listen_options(8090)
@click.option("--db", type=click.Path(path_type=Path), help="Store received events in this file. [default: in memory]")
@click.option("--strict", is_flag=True, help="Answer 409 to every repeated POST of a deployment_id.")
@click.option(
    "--fault", help='Inject a fault at the start, as POST /_faults does: \'{"kind": "status", "status": 503}\'.'
)
def hivel(host: str, port: int, token: str, db: Path | None, fault: str | None, *, strict: bool) -> None:
    """Run a local Hivel: the Deployment Events API v2, and a page with the received events.

    \b
    Example: hivel-agent sandbox hivel --port 8090
    Then:    open http://127.0.0.1:8090/ and set [hivel] url = "http://127.0.0.1:8090"
    Fault:   curl -X POST -H 'Content-Type: application/json' \\
                -d '{"kind": "status", "status": 503, "seconds": 30}' http://127.0.0.1:8090/_faults
    """
    try:
        local = LocalHivel(token, db=db, strict=strict)
    except OSError as error:
        raise click.ClickException(f"cannot store events in {db}: {error.strerror}") from None
    if fault is not None:
        try:
            local.fault(msgspec.json.decode(fault, type=Fault))
        except msgspec.MsgspecError as error:
            raise click.UsageError(f"--fault: {error}") from None
    _serve(local.app, host, port, f"local Hivel, token {token}")


@command.command("jenkins")
@listen_options(8091)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with recorded answers. [default: the recordings in the package]",
)
@click.option(
    "--every", default=0.0, type=_SECONDS, help="Interval in seconds: start a build and finish the previous one."
)
@click.option("--replicas", default=1, type=click.IntRange(1, 10), help="Number of replicas, as in CloudBees CI HA.")
@click.option("--lag", help="Delay of the last replica behind the first, such as 6s; at most 10m. [default: 0s]")
@click.option("--sticky", is_flag=True, help="Clients with cookies stay with their replica. [default: any replica]")
@click.option(
    "--failover",
    default=0.0,
    type=_SECONDS,
    help="Interval in seconds: restart the next replica.",
)
def jenkins(
    *, host: str, port: int, token: str, folder: Path | None, every: float,
    replicas: int, lag: str | None, failover: float, sticky: bool,
) -> None:  # fmt: skip
    """Run a local Jenkins with recorded jobs and builds. Its user is hivel-agent.

    With several replicas, any replica can answer the request for the list of jobs, with its delay. Requests for one job
    or for the executors, with tree=, are answered for all replicas. When a replica ends, another one continues its
    running builds.

    \b
    Example: hivel-agent sandbox jenkins --port 8091 --every 5
    Several: hivel-agent sandbox jenkins --every 5 --replicas 2 --lag 6s --failover 60
    """

    def make(now_ms: Callable[[], int] = wall_clock_ms) -> LocalJenkins:
        options: dict[str, Any] = {"token": token, "now_ms": now_ms}
        return LocalJenkins.from_folder(folder, **options) if folder else LocalJenkins.recorded(**options)

    if replicas == 1 and (lag or sticky or failover):
        raise click.UsageError("--lag, --sticky and --failover require --replicas 2 or more")
    local: LocalJenkins | ReplicatedJenkins
    if replicas == 1:
        local = one = make()
        play = one.play
    else:
        lag_ms = duration("--lag", lag or "0s", most_ms=600_000)
        lags = [lag_ms * index // (replicas - 1) for index in range(replicas)]
        local = several = ReplicatedJenkins(make, lags, sticky=sticky)
        play = partial(several.change, LocalJenkins.play)
        if failover > 0:
            _repeat(failover, several.fail_over)
    if every > 0:
        _repeat(every, play)
    what = "local Jenkins" if replicas == 1 else f"local Jenkins of {replicas} replicas"
    _serve(local.app, host, port, f"{what}, user {local.username}, token {token}")


@command.command("platform")
@click.argument("kind", type=click.Choice(KINDS))
@listen_options(8092)
@click.option("--project", default="acme/shop", show_default=True, callback=_not_empty, help="Name of its project.")
@click.option(
    "--deployments", default=5, show_default=True, type=click.IntRange(0, 10_000),
    help="Number of deployments that ended during the last hour. Their webhooks were lost.",
)  # fmt: skip
@click.option(
    "--every", default=0.0, type=_SECONDS, help="Interval in seconds: start a deployment and finish the previous one."
)
@click.option("--send", metavar="URL", help="Address of the agent's webhook: send the webhooks of what finishes.")
@click.option(
    "--secret", default="sandbox-secret", show_default=True, callback=_not_empty, help="Secret of the webhooks."
)
@click.option(
    "--lose", default=0, type=click.IntRange(0), help="Lose the webhooks of every Nth deployment. [default: none]"
)
def platform(
    *, kind: Platform, host: str, port: int, token: str, project: str, deployments: int, every: float,
    send: str | None, secret: str, lose: int,
) -> None:  # fmt: skip
    """Run the API of a platform with the deployments of one project, to try gap repair.

    KIND is the platform of a [[webhook]]. --send also sends webhooks.

    \b
    Example: hivel-agent sandbox platform github --port 8092
    Then:    set api_url = "http://127.0.0.1:8092" and repair = ["acme/shop"] in [[webhook]]
    Losing:  hivel-agent sandbox platform github --every 5 --lose 2 --send http://127.0.0.1:9472/v1/hooks/github
    """
    if (send or lose) and not every:
        raise click.UsageError("--send and --lose require --every: webhooks are sent when a deployment finishes")
    local = LocalPlatform(kind, token=token, secret=secret)
    playing = Playing(local, project, url=send, lose=lose, tell=click.echo)
    playing.begin(deployments, wall_clock_ms())
    if every > 0:
        _repeat(every, lambda: playing.play(wall_clock_ms()))
    _serve(local.app, host, port, f"API of {kind}, token {token}")


def _repeat(seconds: float, action: Callable[[], None]) -> None:
    def repeat() -> None:
        while not threading.Event().wait(seconds):
            action()

    threading.Thread(target=repeat, daemon=True).start()


def _serve(app: ASGIApp, host: str, port: int, what: str) -> None:
    try:
        serve(app, host, port, announce=lambda url: click.echo(f"{what}: {url}/  (stop with Ctrl-C)"))
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from None
