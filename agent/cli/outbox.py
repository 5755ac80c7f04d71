"""``outbox copy``: moves an outbox to another engine."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from agent.cli.options import with_settings
from agent.cli.output import console, escape
from agent.outbox import tables
from agent.outbox.engines import require_psycopg, server_of
from agent.outbox.postgresql.server import Server, is_postgresql

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from agent.config.settings import Settings
    from agent.outbox.tables import Source, Target

_PLACE = "URL|PATH"


@click.group("outbox")
def command() -> None:
    """Copy the outbox between a file and PostgreSQL."""


@command.command("copy")
@click.option("--to", "target", metavar=_PLACE, required=True, help="An empty database, or a file that does not exist.")
@click.option("--from", "source", metavar=_PLACE, help="The outbox to copy. Default: that of the configuration.")
@with_settings
def copy(settings: Settings, *, target: str, source: str | None) -> None:
    """Copy everything in the outbox to an empty database of PostgreSQL, or to a new file.

    Stop all agents first. The copy becomes visible as a whole when it is complete; an interrupted one leaves nothing
    behind, and the same command starts again. The original does not change. Do not start an agent on it afterwards:
    both would send the same events.

    \b
    Example: hivel-agent outbox copy --to postgresql://agent@db.example.com/hivel
    """
    with ExitStack() as opened:
        whence: Source = opened.enter_context(_reading(settings, source))
        where: Target = opened.enter_context(_writing(settings, target))
        copied = tables.copy(whence, where)
    console().print(
        f"copied {copied['deployments']} deployments, {copied['facts']} facts and"
        f" {sum(copied.values()) - copied['deployments'] - copied['facts']} other rows to {escape(target)}"
    )


def _reading(settings: Settings, source: str | None) -> AbstractContextManager[Source]:
    server = server_of(settings) if source is None else _server(settings, source)
    if server is None:
        from agent.outbox.sqlite.tables import reading  # noqa: PLC0415 - only the engines that are used are loaded

        return reading(settings.outbox if source is None else Path(source))
    from agent.outbox.postgresql.tables import reading as reading_server  # noqa: PLC0415

    return reading_server(server)


def _writing(settings: Settings, target: str) -> AbstractContextManager[Target]:
    server = _server(settings, target)
    if server is None:
        from agent.outbox.sqlite.tables import writing  # noqa: PLC0415

        return writing(Path(target))
    from agent.outbox.postgresql.tables import writing as writing_server  # noqa: PLC0415

    return writing_server(server)


def _server(settings: Settings, place: str) -> Server | None:
    """The server of a URL; None: it is a path.

    The database of the configuration is used with its password and TLS files, any other with those of libpq.
    """
    if settings.postgresql is not None and place == settings.postgresql.url:
        return server_of(settings)
    if not is_postgresql(place):
        return None
    if urlsplit(place).password is not None or "password=" in urlsplit(place).query:
        raise click.UsageError("the URL must not contain a password: others can see it; use ~/.pgpass or PGPASSFILE")
    require_psycopg()
    return Server(place)
