"""``support-bundle``: one archive for a bug report."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import BinaryIO

import click

from agent.cli.options import config_option
from agent.config.file import find_file
from agent.daemon import logs
from agent.inspect.bundle import files
from agent.model.times import Clock, rfc3339

FOLDER = "hivel-agent-support"


@click.command("support-bundle")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help=f"Name of the archive. [default: {FOLDER}-TIME.tar.gz in the current folder]",
)
@click.option("--directory", type=click.Path(path_type=Path), help="Create this folder instead of an archive.")
@config_option
@click.pass_context
def command(context: click.Context, config: Path | None, output: Path | None, directory: Path | None) -> None:
    """Collect what a bug report needs in one archive, without secrets.

    It also works if the daemon is down, the outbox is damaged or missing, or the configuration is wrong.
    The archive contains names of hosts, jobs and users, and addresses. Read it before you send it.

    \b
    Example: hivel-agent support-bundle --output bundle.tar.gz
    """
    if output is not None and directory is not None:
        raise click.UsageError("--output and --directory: choose one")
    logs.configure(quiet=True)
    now_ms = Clock().now_ms()
    contents = {
        name: text.encode("utf-8", "backslashreplace") for name, text in files(find_file(config or context.obj)).items()
    }
    target = directory or output or Path(f"{FOLDER}-{rfc3339(now_ms)[:19].replace(':', '-')}.tar.gz")
    try:
        write_folder(target, contents) if directory is not None else write_archive(target, contents, now_ms)
    except FileExistsError as error:
        raise click.ClickException(f"{target} already exists; remove it, or choose another name") from error
    except OSError as error:
        raise click.ClickException(f"cannot write {target}: {error.strerror or error}") from error
    for name, content in contents.items():
        click.echo(f"{name:<14} {len(content):>9} bytes")
    click.echo(
        f"\n{target} is written. Tokens, passwords and secret URLs are replaced by ***.\n"
        "It contains names of hosts, jobs and users, and addresses. Read it before you send it."
    )


def write_archive(path: Path, contents: dict[str, bytes], now_ms: int) -> None:
    """An archive that only its owner can read. Raises :class:`OSError`, also if the file exists."""
    with _new_file(path) as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size, member.mode, member.mtime = len(content), 0o600, now_ms // 1000
            archive.addfile(member, io.BytesIO(content))


def write_folder(path: Path, contents: dict[str, bytes]) -> None:
    """A folder that only its owner can read. Raises :class:`OSError`, also if the folder exists."""
    path.mkdir(mode=0o700)
    for name, content in contents.items():
        with _new_file(path / name) as file:
            file.write(content)


def _new_file(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
