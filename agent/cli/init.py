"""``init``: from nothing to a tested configuration. Asks for what no option says, tests it live, writes the files."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from agent.config.credentials import Token, TokenError
from agent.config.file import ConfigError, load
from agent.inspect.check import Level, check

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.inspect.check import Finding
    from agent.model.times import Clock

HIVEL_TOKEN, JENKINS_TOKEN = "hivel.token", "jenkins.token"
# The unit file hands these tokens to the service; the configuration there names no files.
SYSTEM_FOLDER = Path("/etc/hivel-agent")


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


class InitError(Exception):
    """It cannot be done like this; the message says what to do."""


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
    lines = ['# Written by hivel-agent init; README.md, "Configuration", explains every key.', "", "[hivel]"]
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
            for finding in check(settings, clock, offline=offline)
            if finding.subject.startswith(("jenkins", "hivel"))
        ]
    return settings, findings


def usable(findings: list[Finding]) -> bool:
    """Whether Jenkins and Hivel both answered as they should."""
    return all(finding.level is not Level.ERROR for finding in findings)


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
