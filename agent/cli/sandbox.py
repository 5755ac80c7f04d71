"""``sandbox``: a local Hivel and a local Jenkins."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from agent.sandbox.hivel import Fault, LocalHivel
from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp


@click.group("sandbox")
def command() -> None:
    """Local stand-ins to try a configuration with, before it touches production.

    \b
    Example: hivel-agent sandbox hivel --port 8090
    """


def listen_options(port: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--host``, ``--port``, ``--token``."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
            click.option("--port", default=port, show_default=True, help="Port to listen on; 0 takes a free one."),
            click.option("--token", default="sandbox-token", show_default=True, help="The token to accept."),
        ):
            function = option(function)
        return function

    return add


@command.command("hivel")
@listen_options(8090)
@click.option("--db", type=click.Path(path_type=Path), help="Keep received events in this file; default: in memory.")
@click.option("--strict", is_flag=True, help="Answer 409 to every second POST of a deployment_id, identical or not.")
@click.option("--fault", help='Misbehave from the start, as in POST /_faults: \'{"kind": "status", "status": 503}\'.')
def hivel(host: str, port: int, token: str, db: Path | None, fault: str | None, *, strict: bool) -> None:
    """A local Hivel: the Deployment Events API v2, and a page that shows what arrived.

    \b
    Example: hivel-agent sandbox hivel --port 8090
    Then:    open http://127.0.0.1:8090/ and set [hivel] url = "http://127.0.0.1:8090"
    Break it: curl -X POST -H 'Content-Type: application/json' \\
                -d '{"kind": "status", "status": 503, "seconds": 30}' http://127.0.0.1:8090/_faults
    """
    local = LocalHivel(token, db=db, strict=strict)
    if fault is not None:
        try:
            local.fault(msgspec.json.decode(fault, type=Fault))
        except msgspec.MsgspecError as error:
            raise click.UsageError(f"--fault: {error}") from None
    _serve(local.app, host, port, f"local Hivel, token {token}")


@command.command("jenkins")
@listen_options(8091)
@click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Recorded answers.")
@click.option("--every", default=0.0, help="Start a build, and finish the one before, every so many seconds.")
def jenkins(host: str, port: int, token: str, folder: Path | None, every: float) -> None:
    """A local Jenkins that serves recorded jobs and builds. Its user is hivel-agent.

    \b
    Example: hivel-agent sandbox jenkins --port 8091 --every 5
    """
    local = LocalJenkins.from_folder(folder, token=token) if folder else LocalJenkins.recorded(token=token)
    if every > 0:
        _repeat(every, local.play)
    _serve(local.app, host, port, f"local Jenkins, user {local.username}, token {token}")


def _repeat(seconds: float, action: Callable[[], None]) -> None:
    def repeat() -> None:
        while not threading.Event().wait(seconds):
            action()

    threading.Thread(target=repeat, daemon=True).start()


def _serve(app: ASGIApp, host: str, port: int, what: str) -> None:
    try:
        serve(app, host, port, announce=lambda url: click.echo(f"{what}: {url}/  (Ctrl-C ends it)"))
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from None
