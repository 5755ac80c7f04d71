"""``outbox copy``: moves an outbox to another engine. ``outbox unmark``: takes that back."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import with_settings
from agent.cli.output import console, escape
from agent.config.outbox import wrong_url
from agent.outbox import tables
from agent.outbox.engines import require_psycopg, server_of
from agent.outbox.postgresql.server import Server

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from agent.config.settings import Settings
    from agent.outbox.tables import Progress, Source, Target

_PLACE = "URL|PATH"
_ANY_URL = re.compile(r"\w+:/")
_NOT_HERE = "must not contain a password: others can see it; use ~/.pgpass or PGPASSFILE"
# A line of progress after so many rows.
_LINE = 250_000
_from = click.option("--from", "source", metavar=_PLACE, help="Default: the outbox of the configuration.")


@click.group("outbox")
def command() -> None:
    """Move the outbox between a file and PostgreSQL."""


@command.command("copy")
@click.option("--to", "target", metavar=_PLACE, required=True, help="An empty database, or a file that does not exist.")
@_from
@with_settings
def copy(settings: Settings, *, target: str, source: str | None) -> None:
    """Copy everything in the outbox to an empty database of PostgreSQL, or to a new file.

    Stop all agents first. Repeat the command if it was interrupted: it continues where it was. The original is marked
    as moved, so that no agent sends its events again. hivel-agent outbox unmark takes this back.

    \b
    Example: hivel-agent outbox copy --to postgresql://agent@db.example.com/hivel
    """
    servers = (_server(settings, source), _server(settings, target))
    if servers == (None, None):
        raise click.UsageError("one of both must be a database; to move a file, stop the agent and use mv")
    with ExitStack() as opened:
        whence: Source = opened.enter_context(_reading(settings, source, servers[0]))
        where: Target = opened.enter_context(_writing(target, servers[1]))
        copied = tables.copy(whence, where, _Told()).rows
    if not copied:
        console().print(f"{escape(whence.name)} was copied to {escape(where.name)} before, or is empty")
        return
    others = sum(copied.values()) - copied.get("deployments", 0) - copied.get("facts", 0)
    console().print(
        f"copied {copied.get('deployments', 0)} deployments, {copied.get('facts', 0)} facts and {others} other rows to"
        f" {escape(target)}; {escape(whence.name)} is marked as moved"
    )


@command.command("unmark")
@_from
@click.option("--yes", is_flag=True, help="Also if the copy is complete. No agent may have worked on it.")
@with_settings
def unmark(settings: Settings, *, source: str | None, yes: bool) -> None:
    """Use an outbox again that was marked as moved by `outbox copy`.

    Delete the copy afterwards. If an agent has worked on the copy, copy it back instead.

    \b
    Example: hivel-agent outbox unmark --from /var/lib/hivel-agent/outbox.db
    """
    server = _server(settings, source)
    if server is None:
        from agent.outbox.sqlite.tables import unmark as unmark_file  # noqa: PLC0415 - only the engine that is used

        path = settings.outbox if source is None else Path(source)
        unmark_file(path, confirmed=yes)
        console().print(f"{escape(str(path))} can be used again")
        return
    from agent.outbox.postgresql.tables import unmark as unmark_server  # noqa: PLC0415

    unmark_server(server, confirmed=yes)
    console().print(f"{escape(server.name)} can be used again")


class _Told:
    """Prints how far the copy is, from time to time."""

    def __init__(self) -> None:
        self._told: int | None = None

    def __call__(self, progress: Progress) -> None:
        rows = sum(progress.rows.values())
        if self._told is None:
            self._told = rows
        if rows - self._told >= _LINE:
            self._told = rows
            click.echo(f"{rows} rows are copied; now {progress.table}", err=True)


def _reading(settings: Settings, source: str | None, server: Server | None) -> AbstractContextManager[Source]:
    if server is None:
        from agent.outbox.sqlite.tables import reading  # noqa: PLC0415 - only the engines that are used are loaded

        return reading(settings.outbox if source is None else Path(source).absolute())
    from agent.outbox.postgresql.tables import reading as reading_server  # noqa: PLC0415

    return reading_server(server)


def _writing(target: str, server: Server | None) -> AbstractContextManager[Target]:
    if server is None:
        from agent.outbox.sqlite.tables import writing  # noqa: PLC0415

        return writing(Path(target).absolute())
    from agent.outbox.postgresql.tables import writing as writing_server  # noqa: PLC0415

    return writing_server(server)


def _server(settings: Settings, place: str | None) -> Server | None:
    """The server of a URL, or that of the configuration; None: it is a path.

    The database of the configuration is used with its password and TLS files, any other with those of libpq.
    """
    if place is None or (settings.postgresql is not None and place == settings.postgresql.url):
        return server_of(settings)
    if _ANY_URL.match(place) is None:
        return None
    if (problem := wrong_url(place, _NOT_HERE)) is not None:
        raise click.UsageError(f"the URL {problem}")
    require_psycopg()
    return Server(place)
