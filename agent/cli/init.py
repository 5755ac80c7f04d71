"""``init``: write a tested configuration, or add a controller to one. All files are written at the end."""

from __future__ import annotations

import grp
import os
import pwd
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.interview import Given, Interview
from agent.cli.options import config_option
from agent.cli.output import console, escape
from agent.cli.questions import Asker, InitError
from agent.config.file import DEFAULT_PATH, ConfigError, find_file, load
from agent.config.paths import WEB_PASSWORD
from agent.config.tables import Intake, Web
from agent.config.writing import (
    HIVEL_TOKEN,
    INTAKE_TOKEN,
    JENKINS_TOKEN,
    NewFile,
    configuration,
    token_file_of,
    with_controller,
    write_all,
)
from agent.daemon import logs
from agent.inspect.folders import closed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config.credentials import Token
    from agent.config.settings import Settings
    from agent.config.writing import Controller, Draft, Written

# systemd's unit passes the token files beside this configuration to the service; the configuration does not name them.
SYSTEM_FILE = DEFAULT_PATH
SERVICE_USER = SERVICE_GROUP = "hivel-agent"
PASSWORD_BYTES = 15
PAGES_URL, INTAKE_URL = f"http://{Web().listen}/", f"http://{Intake().listen}"
OVERWRITE, ADD, QUIT = "o", "a", "q"


@click.command("init")
@config_option
@click.option("--folder", type=click.Path(path_type=Path),
              help=f"Where config.toml and the token files are written.  [default: {DEFAULT_PATH.parent}]")  # fmt: skip
@click.option("--add-controller", is_flag=True, help="Add one more Jenkins to the configuration that exists.")
@click.option("--hivel-url", help="Hivel's address: https://app.hivel.ai or https://app.hivel.in.")
@click.option("--hivel-token-file", type=click.Path(path_type=Path), help="File with Hivel's API key.")
@click.option("--jenkins-url", help="Address of Jenkins; - for none: deployments are reported to the intake.")
@click.option("--jenkins-name", help="Name of this Jenkins in every deployment_id.")
@click.option("--username", help="User in Jenkins; - or an empty one for anonymous access.")
@click.option("--jenkins-token-file", type=click.Path(path_type=Path), help="File with the API token of this user.")
@click.option("--since", help="Which builds the first poll reports: since now, 7d, 2026-01-31.")
@click.option("--contact", help="Address or URL for the User-Agent header.")
@click.option("--job", "jobs", multiple=True, help="Pattern of jobs that deploy; may be given several times.")
@click.option("--environment", help="Environment of these jobs: a name or a template.")
@click.option("--no-test", is_flag=True, help="Send no request to Jenkins or Hivel.")
@click.option("--non-interactive", is_flag=True, help="Ask no question, not even on a terminal.")
@click.option("--force", is_flag=True, help="Overwrite a configuration that exists, after a backup.")
@click.pass_context
def command(
    context: click.Context,
    /,
    config: Path | None,
    folder: Path | None,
    *,
    add_controller: bool,
    no_test: bool,
    non_interactive: bool,
    force: bool,
    **given: Any,
) -> None:
    """Write a configuration: ask for what it needs, check each answer, and show what would be sent.

    Every answer is checked when it is given; after a wrong answer the question is repeated. Options answer questions
    in advance. Tokens are read from files, from HIVEL_API_TOKEN and JENKINS_API_TOKEN, or from a hidden prompt. All
    files are written at the end: tokens with mode 0600, and a backup of each file that is replaced.

    \b
    Examples: hivel-agent init
              hivel-agent init --add-controller
              hivel-agent init --non-interactive --folder ~/agent --jenkins-url https://jenkins.example.com \\
                --jenkins-token-file jenkins.token --hivel-token-file hivel.token --job 'deploy/**'
    """
    logs.configure(quiet=True)
    asker = Asker(interactive=sys.stdin.isatty() and not non_interactive)
    given_file = config or context.obj
    if folder is not None and given_file is not None:
        raise click.UsageError("--folder and --config both name the file; use one of them")
    try:
        file = _place(asker, folder / "config.toml" if folder is not None else find_file(given_file))
        if asker.interactive:
            console().print("Each answer is checked when you give it. Ctrl-C stops; nothing is written before the end.")
        found = _Found.at(file)
        if add_controller or _what_to_do(asker, found, force=force) == ADD:
            _add(asker, Given(**given), found, offline=no_test)
        else:
            _create(asker, Given(**given), found, offline=no_test)
    except (click.Abort, KeyboardInterrupt, EOFError):
        click.echo("\nstopped; nothing was written", err=True)
        raise click.Abort from None


# ---- The existing configuration


class _Found:
    """The existing configuration. ``settings``: its content; ``problem``: why it cannot be used."""

    def __init__(self, file: Path, settings: Settings | None, problem: str | None) -> None:
        self.file = file
        self.settings = settings
        self.problem = problem

    @classmethod
    def at(cls, file: Path) -> _Found:
        """Look for the file, and print what was found."""
        if not os.path.lexists(file):
            console().print(f"no configuration at {escape(str(file))}; it will be written there")
            return cls(file, None, None)
        try:
            settings = load(file, tokens=False)
        except ConfigError as error:
            console().print(f"found {escape(str(file))}, which cannot be used: {escape(str(error), lines=True)}")
            return cls(file, None, str(error))
        names = ", ".join(f"{each.name} ({each.url})" for each in settings.controllers) or "none"
        words = f"Hivel {settings.hivel.url}, Jenkins {names}, {len(settings.rules)} rule(s)"
        console().print(f"found {escape(str(file))}: {escape(words)}")
        return cls(file, settings, None)

    @property
    def exists(self) -> bool:
        """Whether the file exists, usable or not."""
        return self.settings is not None or self.problem is not None


def _place(asker: Asker, file: Path) -> Path:
    """The path of the configuration. A user who cannot write there can choose another folder."""
    file = file.expanduser().absolute()
    while (place := closed(file.parent)) is not None:
        words = f"cannot write to {file.parent}: {place} is not writable for this user"
        if not asker.interactive:
            raise InitError(f"{words}; use sudo, or choose another folder with --folder")
        console().print(escape(f"{words}. Stop with Ctrl-C and use sudo, or choose another folder."))
        folder = click.prompt("Folder", default=str(Path.home() / ".config" / "hivel-agent"), err=True)
        file = Path(folder).expanduser().absolute() / file.name
    return file


def _what_to_do(asker: Asker, found: _Found, *, force: bool) -> str:
    if not found.exists or force:
        return OVERWRITE
    if not asker.interactive:
        raise InitError(
            f"{found.file} exists already; --force overwrites it after a backup, --add-controller adds a Jenkins to it"
        )
    choices = [OVERWRITE, QUIT] if found.settings is None else [ADD, OVERWRITE, QUIT]
    meanings = {ADD: "add a Jenkins to it", OVERWRITE: "write a new one (after a backup)", QUIT: "quit"}
    words = ", ".join(f"{each} = {meanings[each]}" for each in choices)
    chosen = click.prompt(f"What now? {words}", type=click.Choice(choices), default=QUIT, show_choices=False, err=True)
    if chosen == QUIT:
        raise click.Abort
    return str(chosen)


# ---- Writing


def _create(asker: Asker, given: Given, found: _Found, *, offline: bool) -> None:
    draft = Interview(asker, given, offline=offline, known=found.settings).everything()
    _refuse_wrong(asker)
    files = [*_tokens(found.file, draft), *_secret(found.file, WEB_PASSWORD)]
    if not draft.polls:
        files += _secret(found.file, INTAKE_TOKEN)
    text = configuration(draft, token_files=found.file != SYSTEM_FILE)
    files.append(NewFile(found.file.resolve(), text.encode(), 0o640, _owner_of_config(found.file)))
    _show(_written(files))
    if found.settings is not None:
        console().print("settings that init does not ask for are only in the backup; copy them from there if needed")
    _show_next(found.file, polls=draft.polls)


def _add(asker: Asker, given: Given, found: _Found, *, offline: bool) -> None:
    if found.settings is None:
        problem = found.problem or f"{found.file} does not exist; write a configuration first: hivel-agent init"
        raise InitError(f"there is no configuration to add a controller to: {problem}")
    controller = Interview(asker, given, offline=offline).controller(found.settings)
    _refuse_wrong(asker)
    token_file = token_file_of(controller.name)
    files = []
    if controller.token is not None and token_file is not None:
        files.append(_token(found.file.parent / token_file, controller.token))
    named = token_file if found.file != SYSTEM_FILE else None
    target = found.file.resolve()
    there = target.stat()
    text = with_controller(target.read_bytes(), controller, named)
    _refuse_unreadable(found.file, text)
    files.append(NewFile(target, text, there.st_mode & 0o7777, (there.st_uid, there.st_gid)))
    _show(_written(files))
    _show_next(found.file, added=controller)


def _refuse_wrong(asker: Asker) -> None:
    if asker.wrong and not asker.interactive:
        raise InitError(f"nothing was written; correct {', '.join(asker.wrong)}, or skip the checks with --no-test")


def _refuse_unreadable(file: Path, text: bytes) -> None:
    """Check that a table can be appended to the file. It cannot if the file has ``jenkins = [...]``."""
    trial = file.with_name(f".{file.name}.trial")
    try:
        trial.write_bytes(text)
        load(trial, tokens=False)
    except ConfigError as error:
        problem = str(error).replace(str(trial), str(file))
        raise InitError(f"nothing was written: with one more [[jenkins]] table, {problem}") from None
    except OSError as error:
        raise _cannot_write(error) from error
    finally:
        trial.unlink(missing_ok=True)


def _tokens(file: Path, draft: Draft) -> list[NewFile]:
    tokens = ((HIVEL_TOKEN, draft.hivel_token), (JENKINS_TOKEN, draft.controller.token if draft.polls else None))
    return [_token(file.parent / name, token) for name, token in tokens if token is not None]


def _secret(file: Path, name: str) -> list[NewFile]:
    """A new password for the pages, or a new token of the intake, unless the file exists."""
    path = file.parent / name
    if os.path.lexists(path):
        return []
    return [NewFile(path, f"{secrets.token_urlsafe(PASSWORD_BYTES)}\n".encode(), 0o400, _service_user(file))]


def _service_user(file: Path) -> tuple[int, int] | None:
    """Owner of these files: the service reads them itself, because they are not among its credentials."""
    if os.geteuid() != 0 or file != SYSTEM_FILE:
        return None
    try:
        service = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return None
    return service.pw_uid, service.pw_gid


def _token(path: Path, token: Token) -> NewFile:
    return NewFile(path, f"{token.reveal()}\n".encode(), 0o600)


def _owner_of_config(file: Path) -> tuple[int, int] | None:
    """Owner and group of the new files. If root writes them, the group is that of the folder: the service's group."""
    if os.geteuid() != 0:
        return None
    folder = next(each for each in file.parents if each.exists()).stat()
    if file != SYSTEM_FILE or folder.st_gid != 0:
        return folder.st_uid if file != SYSTEM_FILE else 0, folder.st_gid
    try:
        return 0, grp.getgrnam(SERVICE_GROUP).gr_gid
    except KeyError:
        return 0, 0


def _written(files: Sequence[NewFile]) -> list[Written]:
    try:
        files[-1].path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        return write_all(files, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
    except OSError as error:
        raise _cannot_write(error) from error


def _cannot_write(error: OSError) -> InitError:
    return InitError(f"nothing was written: {error.filename or 'a file'}: {error.strerror}")


# ---- Next steps


def _show(files: Sequence[Written]) -> None:
    out = console()
    for file in files:
        backup = "" if file.backup is None else f"; before: {file.backup.name}"
        out.print(f"[green]written[/]  {escape(str(file.path))}  (mode {file.mode:04o}{escape(backup)})")


def _show_next(file: Path, added: Controller | None = None, *, polls: bool = True) -> None:
    out = console()
    out.print("\nNext:")
    lines = _next(file, added)
    if not polls:
        lines.append((f"report to {INTAKE_URL} with the token in {file.parent / INTAKE_TOKEN}", ""))
    width = max(len(line) for line, meaning in lines if meaning)
    for line, meaning in lines:
        out.print(f"  {escape(f'{line:<{width}}' if meaning else line)}" + (f"  # {meaning}" if meaning else ""))


def _next(file: Path, added: Controller | None) -> list[tuple[str, str]]:
    option = "" if file == SYSTEM_FILE else f" --config {file}"
    check = (f"hivel-agent check{option}", "checks everything again")
    status = (f"hivel-agent status{option}", "outbox, delivery, controllers")
    pages = (f"open {PAGES_URL} with the password in {file.parent / WEB_PASSWORD}", "")
    if file != SYSTEM_FILE:
        run = (f"hivel-agent run{option}", "the daemon, until Ctrl-C; its log shows each event" if added is None else
               "restart it if it runs")  # fmt: skip
        return [check, run, status] if added is not None else [check, run, status, pages]
    if added is None:
        log = ("journalctl -u hivel-agent -f", "the log: one line for each event")
        start = ("systemctl enable --now hivel-agent", "starts the service, now and at boot")
        return [check, start, log, status, pages]
    return [*_credential(file, added), check, ("systemctl restart hivel-agent", ""), status]


def _credential(file: Path, added: Controller) -> list[tuple[str, str]]:
    token_file = token_file_of(added.name)
    if added.token is None or token_file is None:
        return []
    return [
        ("systemctl edit hivel-agent", "passes the token to the service; add these two lines:"),
        ("  [Service]", ""),
        (f"  LoadCredential=jenkins-token.{added.name}:{file.parent / token_file}", ""),
    ]
