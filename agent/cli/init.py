"""``init``: from nothing to a tested configuration. Asks for what no option says, tests it live, writes the files."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from agent.cli import check, preview
from agent.cli.output import console, escape
from agent.config.credentials import Token, TokenError
from agent.config.file import DEFAULT_PATH, ConfigError, load
from agent.daemon import logs
from agent.inspect.check import check as look
from agent.inspect.findings import Level
from agent.model.times import Clock

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.inspect.findings import Finding

HIVEL_TOKEN, JENKINS_TOKEN = "hivel.token", "jenkins.token"
# The unit file hands these tokens to the service; the configuration there names no files.
SYSTEM_FOLDER = DEFAULT_PATH.parent


class InitError(click.ClickException):
    """It cannot be done like this; the message says what to do."""


@dataclass(frozen=True)
class Given:
    """What the command line said; None: not said."""

    hivel_url: str | None
    hivel_token_file: Path | None
    jenkins_url: str | None
    jenkins_name: str | None
    username: str | None
    jenkins_token_file: Path | None
    since: str | None
    jobs: tuple[str, ...]


@dataclass(frozen=True)
class Answers:
    """What a configuration needs. ``username`` None: Jenkins is asked anonymously. ``jobs``: patterns of rules."""

    hivel_url: str
    hivel_token: Token
    jenkins_url: str
    jenkins_name: str
    username: str | None
    jenkins_token: Token | None
    since: str
    jobs: tuple[str, ...]


@click.command("init")
@click.option("--folder", type=click.Path(path_type=Path), default=SYSTEM_FOLDER, show_default=True,
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
def command(folder: Path, *, no_test: bool, force: bool, **given: Any) -> None:
    """Write a configuration: ask for what it needs, test it live, and show what would be sent.

    What no option says is asked for on a terminal. Tokens are read from files, from HIVEL_API_TOKEN and
    JENKINS_API_TOKEN, or typed in hidden; they are written with mode 0600.

    \b
    Example: hivel-agent init
             hivel-agent init --folder ~/agent --jenkins-url https://jenkins.example.com --username hivel-agent \\
               --jenkins-token-file jenkins.token --hivel-token-file hivel.token --job 'deploy/**'
    """
    logs.configure(quiet=True)
    interactive = sys.stdin.isatty()
    answers = ask(Given(**given), interactive=interactive)
    settings, findings = try_out(answers, Clock(), offline=no_test)
    check.show(findings)
    usable = all(finding.level is not Level.ERROR for finding in findings)
    if not usable and not (interactive and click.confirm("Write it all the same?", err=True)):
        raise InitError("nothing was written; mend it, or write it with --no-test")
    written = write(answers, folder, force=force)
    if not no_test:
        preview.show(preview.preview(settings))
    show(written)


def show(files: list[Path]) -> None:
    """What was written, and what comes next."""
    out = console()
    for file in files:
        out.print(f"[green]written[/]  {escape(str(file))}  (mode {file.stat().st_mode & 0o777:04o})")
    config = files[0]
    out.print(f"look at the rules in {escape(str(config))}, then:")
    if config.parent == SYSTEM_FOLDER:
        out.print("  systemctl enable --now hivel-agent")
    else:
        out.print(f"  hivel-agent run --config {escape(str(config))}")


def ask(given: Given, *, interactive: bool) -> Answers:
    """Complete what was given. Raises :class:`InitError` when something is missing and nobody can be asked."""
    asker = _Asker(interactive=interactive)
    hivel_url = given.hivel_url or asker.text("Hivel's address", "--hivel-url", "https://app.hivel.ai")
    hivel_token = asker.token("Hivel's API key", "--hivel-token-file", given.hivel_token_file, "HIVEL_API_TOKEN")
    jenkins_url = given.jenkins_url or asker.text("Address of Jenkins", "--jenkins-url")
    host = (urlsplit(jenkins_url).hostname or "jenkins").split(".")[0]
    name = given.jenkins_name or asker.text("Its name in every deployment_id", "--jenkins-name", host)
    username = given.username
    if username is None:
        username = asker.text("User in Jenkins (empty: nobody)", "--username", "hivel-agent")
    token = None
    if username:
        token = asker.token("Its API token", "--jenkins-token-file", given.jenkins_token_file, "JENKINS_API_TOKEN")
    jobs = given.jobs
    if not jobs:
        jobs = tuple(asker.text("Jobs that deploy (patterns, with spaces)", "--job", "re:(?i)deploy").split())
    since = given.since or asker.text("Report builds that ended since (now, 7d, a date)", "--since", "now")
    return Answers(hivel_url, hivel_token, jenkins_url, name, username or None, token, since, jobs)


class _Asker:
    def __init__(self, *, interactive: bool) -> None:
        self._interactive = interactive

    def text(self, question: str, option: str, default: str | None = None) -> str:
        if self._interactive:
            return str(click.prompt(question, default=default, err=True)).strip()
        if default is None:
            raise InitError(f"{option} is missing; without a terminal nobody can be asked")
        return default

    def token(self, question: str, option: str, file: Path | None, variable: str) -> Token:
        """From the file, the environment or a hidden answer; never from the command line, where others see it."""
        try:
            if file is not None:
                return Token.from_file(file)
            if value := os.environ.get(variable, "").strip():
                return Token(value)
            if self._interactive:
                return Token.checked(click.prompt(question, hide_input=True, err=True), "the answer")
        except TokenError as error:
            raise InitError(str(error)) from None
        raise InitError(f"{option} is missing (or {variable} in the environment)")


def configuration(answers: Answers, *, with_token_files: bool) -> str:
    """The file's text, with what can be changed later left as comments in the example configuration."""
    lines = ["# Written by hivel-agent init; docs/configuration.md explains every key.", "", "[hivel]"]
    lines.append(f"url = {_quoted(answers.hivel_url)}")
    if with_token_files:
        lines.append(f"token_file = {_quoted(HIVEL_TOKEN)}")
    lines += ["", "[[jenkins]]", f"name = {_quoted(answers.jenkins_name)}", f"url = {_quoted(answers.jenkins_url)}"]
    if answers.username is not None:
        lines.append(f"username = {_quoted(answers.username)}")
        if with_token_files:
            lines.append(f"token_file = {_quoted(JENKINS_TOKEN)}")
    lines.append(f"since = {_quoted(answers.since)}")
    for job in answers.jobs:
        lines += ["", "[[deployment]]", f"job = {_quoted(job)}"]
    if with_token_files:
        lines += ["", "[outbox]", 'path = "outbox.db"']
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # JSON's text is a basic string of TOML


def try_out(answers: Answers, clock: Clock, *, offline: bool) -> tuple[Settings, list[Finding]]:
    """Read the configuration as the agent would, and ask Jenkins and Hivel unless ``offline``.

    Raises :class:`InitError`.
    """
    with tempfile.TemporaryDirectory(prefix="hivel-agent-init-") as name:
        folder = Path(name)
        _write_tokens(folder, answers)
        file = folder / "config.toml"
        file.write_text(configuration(answers, with_token_files=True), encoding="utf-8")
        try:
            settings = load(file)
        except ConfigError as error:
            raise InitError(str(error).removeprefix(f"{file}: ")) from None
        findings = [
            finding
            for finding in look(settings, clock, offline=offline)
            if finding.subject.startswith(("jenkins", "hivel"))
        ]
    return settings, findings


def write(answers: Answers, folder: Path, *, force: bool) -> list[Path]:
    """Write configuration (0640) and tokens (0600); returns the files. Raises :class:`InitError`."""
    file = folder / "config.toml"
    if file.exists() and not force:
        raise InitError(f"{file} is there already; --force writes another one in its place")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        written = _write_tokens(folder, answers)
        text = configuration(answers, with_token_files=folder != SYSTEM_FOLDER)
        _write(file, text, 0o640)
    except OSError as error:
        raise InitError(f"cannot write into {folder}: {error.strerror}; choose another one with --folder") from error
    return [file, *written]


def _write_tokens(folder: Path, answers: Answers) -> list[Path]:
    written = []
    for name, token in ((HIVEL_TOKEN, answers.hivel_token), (JENKINS_TOKEN, answers.jenkins_token)):
        if token is not None:
            _write(folder / name, token.reveal() + "\n", 0o600)
            written.append(folder / name)
    return written


def _write(path: Path, text: str, mode: int) -> None:
    """Beside it first, so that there is never half a file, nor one that others can read for a moment."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        if mode & 0o040:  # the group of the folder is the service's
            os.fchown(file.fileno(), -1, path.parent.stat().st_gid)
        file.write(text)
    unfinished.replace(path)
