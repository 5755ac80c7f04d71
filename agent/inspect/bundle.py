"""The files of a support bundle: the data for a bug report, without secrets, even if parts cannot be read."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import stat
import subprocess
import tomllib
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from agent import __version__
from agent.config.credentials import know_url
from agent.config.file import ConfigError, load
from agent.config.paths import DEFAULT_OUTBOX
from agent.inspect.redacted import hidden_values, without_values
from agent.inspect.status import status
from agent.model.secrets import know, redact
from agent.model.times import Clock, rfc3339
from agent.notify.conditions import newest_reasons
from agent.outbox.engines import engine_of, is_shared
from agent.outbox.sqlite.connection import SQLITE_VERSION, refuse_what_is_no_outbox
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import OutboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.config.settings import Settings
    from agent.outbox.interface import Outbox

LOG_LINES = 500
_JOURNAL = ("journalctl", "--unit=hivel-agent", f"--lines={LOG_LINES}", "--no-pager", "--output=short-iso")
_JOURNAL_TIMEOUT_S = 20
# Files that are larger are not token files.
_LARGEST_SECRET = 16 * 1024
_QUOTED = re.compile(r"\"([^\"\n]+)\"|'([^'\n]+)'")
_SECRET_VARIABLE = re.compile(r"(?i)token|secret|passw|api_?key|notify_url")
_PROXY_PASSWORD = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def files(config: Path) -> dict[str, str]:
    """The texts by file name. Raises nothing: if a file cannot be produced, its text is the error."""
    raw = _read(config)
    _know_secrets(config, raw)
    contents: dict[str, Callable[[], str]] = {
        "versions.json": _versions,
        "config.toml": lambda: _config(config, raw),
        "status.json": lambda: _status(_settings(config)),
        "failures.json": lambda: _failures(config, raw),
        "files.txt": lambda: _listing(config, _outbox_path(config, raw)),
        "log.txt": _log,
    }
    found = {}
    for name, content in contents.items():
        try:
            text = content()
        except Exception as error:  # noqa: BLE001 - a bundle is needed most after an unexpected error
            text = f"not available: {str(error) or type(error).__name__}\n"
        found[name] = redact(text)
    return found


# ---- secrets


def _know_secrets(config: Path, raw: str) -> None:
    """Everything that can be a secret, even if the configuration is not valid."""
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name):
            know(value.strip())
        for password in _PROXY_PASSWORD.findall(value):
            know(password)
            know(password.partition(":")[2])
    for value in hidden_values(raw, config.parent):
        know(value)
        know_url(value)
    for path in _named_files(config, raw):
        with suppress(OSError, ValueError):
            _know_content(path)


def _named_files(config: Path, raw: str) -> Iterator[Path]:
    """The files that the configuration names, and systemd's credentials."""
    for first, second in _QUOTED.findall(raw):
        yield config.parent / (first or second)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    with suppress(OSError):
        yield from sorted(Path(folder).iterdir()) if folder else ()


def _know_content(path: Path) -> None:
    """The content of a file with one short line: a token or a secret URL."""
    if not path.is_file() or path.stat().st_size > _LARGEST_SECRET:
        return
    lines = path.read_text(encoding="utf-8-sig").strip().splitlines()
    if len(lines) == 1:
        know(lines[0])
        know_url(lines[0])


# ---- the files


def _versions() -> str:
    packages = {}
    with suppress(importlib.metadata.PackageNotFoundError):
        for line in importlib.metadata.requires("hivel-jenkins-agent") or []:
            name = re.split(r"[^\w.-]", line)[0]
            with suppress(importlib.metadata.PackageNotFoundError):
                packages[name] = importlib.metadata.version(name)
    return _json(
        {
            "made_at": rfc3339(Clock().now_ms()),
            "hivel_agent": __version__,
            "python": platform.python_version(),
            "sqlite": SQLITE_VERSION,
            "os": _os_name(),
            "kernel": platform.platform(),
            "packages": packages,
        }
    )


def _os_name() -> str | None:
    with suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    return None


def _config(config: Path, raw: str) -> str:
    """The errors in the file, then the file."""
    problems = ""
    try:
        load(config)
    except ConfigError as error:
        problems = "".join(f"# error: {line}\n" for line in str(error).splitlines())
    return problems + without_values(raw, config.parent)


def _status(settings: Settings) -> str:
    with closing(_open_outbox(settings)) as outbox:
        value: dict[str, Any] = msgspec.to_builtins(status(settings, outbox))
    for item in value["set_aside"]:  # a traceback and the message of an exception can contain values of a report
        del item["trace"]
        item["error"] = item["error"].partition(":")[0]
    return _json(value)


def _failures(config: Path, raw: str) -> str:
    with closing(_found_outbox(config, raw)) as outbox:
        counts = outbox.counts()
        reasons = newest_reasons(outbox)
    listed = [{"reason": reason, "count": count} for reason, count in Counter(reasons).most_common()]
    return _json({"counts": msgspec.to_builtins(counts), "newest_failed": len(reasons), "reasons": listed})


def _listing(config: Path, outbox: Path) -> str:
    """Mode, owner, size and path of each file in the folder of the configuration and the folder of the outbox."""
    lines = []
    for folder in dict.fromkeys((config.absolute().parent, outbox.absolute().parent)):
        lines.append(_line(folder))
        try:
            lines += [_line(path) for path in sorted(folder.iterdir())]
        except OSError as error:
            lines.append(f"{folder} cannot be listed: {error.strerror}")
    return "\n".join(lines) + "\n"


def _line(path: Path) -> str:
    try:
        info = path.lstat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    return f"{stat.filemode(info.st_mode)} {info.st_uid}:{info.st_gid} {info.st_size:>12} {path}"


def _log() -> str:
    advice = f"Add the last lines of the log yourself: sudo {' '.join(_JOURNAL)}\n"
    try:
        done = subprocess.run(_JOURNAL, capture_output=True, timeout=_JOURNAL_TIMEOUT_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"The journal cannot be read: {error}\n{advice}"
    text, problem = (part.decode("utf-8", "replace") for part in (done.stdout, done.stderr))
    if done.returncode or text.count("\n") < 2:  # a single line says that there are no entries
        return f"The journal has no lines of the unit hivel-agent for this user.\n{text}{problem}{advice}"
    return text


# ---- even if parts cannot be read


def _read(config: Path) -> str:
    try:
        return config.read_bytes().decode("utf-8-sig", "replace")
    except OSError:
        return ""  # ``load`` reports the error


def _settings(config: Path) -> Settings:
    """The settings, without tokens if only the tokens are wrong. Raises :class:`ConfigError`."""
    try:
        return load(config)
    except ConfigError:
        return load(config, tokens=False)


def _outbox_path(config: Path, raw: str) -> Path:
    """The settings, as far as they can be read."""
    with suppress(ConfigError):
        return _settings(config).outbox
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return config.parent / str(tomllib.loads(raw)["outbox"]["path"])
    return Path(DEFAULT_OUTBOX)


def _found_outbox(config: Path, raw: str) -> Outbox:
    """The outbox, also if the settings cannot be read. Raises :class:`OutboxError`."""
    with suppress(ConfigError):
        return _open_outbox(_settings(config))
    return _open_file(_outbox_path(config, raw))


def _open_outbox(settings: Settings) -> Outbox:
    return engine_of(settings, Clock()).open() if is_shared(settings) else _open_file(settings.outbox)


def _open_file(path: Path) -> SqliteOutbox:
    """Raises :class:`OutboxError`."""
    if not path.exists():
        raise OutboxError(f"there is no outbox {path}")
    refuse_what_is_no_outbox(path)
    return SqliteOutbox(path, Clock())


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
