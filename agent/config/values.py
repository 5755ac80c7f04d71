"""Parsing and checking the values of the configuration."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlsplit

from agent.config.credentials import (
    Secret,
    Token,
    TokenError,
    find_controllers_token,
    find_token,
    know_url,
    variable_of,
)
from agent.config.reading import ReadError, check_readable
from agent.config.rules import Pattern, Template
from agent.config.settings import UNIX, Address, SocketFile, TlsSettings
from agent.config.sizes import describe_size, parse_size
from agent.model import times

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.problems import Problems

NOT_READ = Token.missing(TokenError("only the configuration file was read"))

T = TypeVar("T")


class TlsFiles(Protocol):
    """The TLS keys of a table."""

    ca_file: str | None
    client_certificate: str | None
    client_key: str | None


# The kernel does not take longer paths.
_LONGEST_SOCKET = 107


class Values:
    """Parses values. An invalid value is noted, and a placeholder is returned.

    ``tokens`` False: tokens are not read.
    """

    def __init__(self, file: Path, problems: Problems, *, tokens: bool) -> None:
        self._file = file
        self._problems = problems
        self._tokens = tokens

    def note(self, key: str, problem: str) -> None:
        """Note a problem of a key."""
        self._problems.note(key, problem)

    def parse(self, key: str, parser: Callable[[], T], stand_in: T) -> T:
        """The result of the parser, which can raise :class:`ValueError` or :class:`TokenError`."""
        try:
            return parser()
        except (ValueError, TokenError) as error:
            self.note(key, str(error))
            return stand_in

    def duration(self, key: str, text: str) -> int:
        """Milliseconds."""
        value = self.parse(key, lambda: times.parse_duration(text), 0)
        if value <= 0:
            self.note(key, f"{text!r} must be longer than 0")
        return value

    def number(self, key: str, value: int, least: int, most: int) -> int:
        """A number within bounds."""
        if not least <= value <= most:
            self.note(key, f"{value} is not between {least} and {most}")
        return value

    def size(self, key: str, text: str, least: int) -> int:
        """Bytes."""
        value = self.parse(key, lambda: parse_size(text), 0)
        if value < least:
            self.note(key, f"{text!r} is less than {describe_size(least)}")
        return value

    def path(self, key: str, text: str) -> Path:
        """A path beside the configuration file."""
        if not text:
            self.note(key, "is empty; write a path")
        return self._file.parent / text

    def url(self, key: str, text: str) -> str:
        """A base address; empty if it is wrong."""
        try:
            parts = urlsplit(text)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if "@" in text:  # checked first, because the messages below repeat the text
            self.note(key, "contains credentials, or an @; write credentials in a token file")
        elif not usable or not text.isprintable() or " " in text:
            self.note(key, f"{text!r} is not a URL; write it like https://host or http://host:8080/jenkins/")
        elif "?" in text or "#" in text:
            self.note(key, f"{text!r} must end with the path; remove ? or # and the text after it")
        else:
            return text
        return ""

    def address(self, key: str, text: str) -> Address | None:
        """An address such as ``127.0.0.1:9469`` or ``[::1]:9469``; None for an empty text: no listener."""
        if not text:
            return None
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            self.note(key, f'{text!r} is not an address; write it like 127.0.0.1:9469, or "" for none')
            return None
        return Address(host, int(port))

    def address_or_socket(self, key: str, text: str) -> Address | SocketFile | None:
        """An address, or a Unix socket such as ``unix:/run/hivel-agent/web.sock``; None: no listener."""
        if not text.startswith(UNIX):
            return self.address(key, text)
        path = Path(text.removeprefix(UNIX))
        if not path.is_absolute() or "\0" in text or len(os.fsencode(path)) > _LONGEST_SOCKET:
            self.note(
                key,
                f"{text!r} is not a Unix socket; write its full path, of at most {_LONGEST_SOCKET} bytes, like "
                "unix:/run/hivel-agent/web.sock",
            )
            return None
        return SocketFile(path)

    def file(self, key: str, text: str | None) -> Path | None:
        """A readable file, or None if none is set."""
        if text is None:
            return None
        path = self.path(key, text)
        try:
            check_readable(path)
        except ReadError as error:
            self.note(key, f"cannot read {path}: {error.problem}")
        return path

    def tls(self, key: str, raw: TlsFiles) -> TlsSettings:
        """The TLS files of a table. They are loaded once to check them."""
        settings = TlsSettings(
            ca_file=self.file(f"{key}.ca_file", raw.ca_file),
            client_certificate=self.file(f"{key}.client_certificate", raw.client_certificate),
            client_key=self.file(f"{key}.client_key", raw.client_key),
        )
        if settings.client_key is not None and settings.client_certificate is None:
            self.note(f"{key}.client_certificate", "is missing; a client_key needs its certificate")
        named = [name for name in ("ca_file", "client_certificate", "client_key") if getattr(raw, name) is not None]
        if named and not any(self._problems.is_settled(f"{key}.{name}") for name in named):
            try:
                settings.context()
            except (ssl.SSLError, OSError) as error:
                files = ", ".join(str(getattr(settings, name)) for name in named)
                self.note(f"{key}.{', '.join(named)}", f"not usable as PEM ({files}): {error}")
        return settings

    # ---- tokens

    @property
    def reads_tokens(self) -> bool:
        """Whether tokens are read."""
        return self._tokens

    def token(self, table: str, token_file: str | None, variable: str, credential: str) -> Token:
        """A required token."""
        token = self.optional_token(table, token_file, variable, credential)
        if token is None:
            self.note(
                f"{table}.token_file",
                f"no token: set a file here, or the environment variable {variable}, or systemd's credential "
                f"{credential}",
            )
        return token or NOT_READ

    def optional_token(self, table: str, token_file: str | None, variable: str, credential: str) -> Token | None:
        """An optional token."""
        key = f"{table}.token_file"
        path = None if token_file is None else self.path(key, token_file)
        if not self._tokens:
            return NOT_READ
        not_read: Token | None = NOT_READ
        return self.parse(key, lambda: find_token(path, variable, credential), not_read)

    def controllers_token(self, table: str, token_file: str | None, controller: str) -> Token:
        """The token of a controller. An unreadable token affects only its controller, and can be readable later."""
        key = f"{table}.token_file"
        path = None if token_file is None else self.path(key, token_file)
        if not self._tokens:
            return NOT_READ
        try:
            token = find_controllers_token(path, controller)
        except TokenError as error:
            return Token.missing(error)
        except ValueError as error:
            self.note(key, str(error))
            return NOT_READ
        if token is None:
            self.note(
                key,
                "no token: set a file here, or the environment variable JENKINS_API_TOKEN, or systemd's credential "
                f"jenkins-token (for this controller only: {variable_of(controller)}, jenkins-token.{controller})",
            )
        return token or NOT_READ

    def secret_url(self, key: str, url_file: str | None, variable: str, credential: str) -> Token | None:
        """An optional secret URL. If it cannot be read now, it can be readable later."""
        path = None if url_file is None else self.path(key, url_file)
        if not self._tokens:
            return NOT_READ
        try:
            url = find_token(path, variable, credential)
        except TokenError as error:
            return Token.missing(error)
        if url is not None:
            know_url(url.reveal())
        return url

    def web_secret(self, key: str, file: str | None, credential: str, default: str | None = None) -> Token | None:
        """An optional password or token of the pages. ``default``: the file to read if it exists.

        An unreadable one affects only the pages: no user can log in with it.
        """
        path = None if file is None else self.path(key, file)
        if not self._tokens:
            return None
        try:
            found = find_token(path, variable_for(credential), credential)
            if found is None and default is not None and (there := self._file.parent / default).exists():
                found = Token.from_file(there)
        except TokenError as error:
            return Token.missing(error)
        except OSError as error:
            return Token.missing(TokenError(f"cannot access {default}: {error.strerror}"))
        return found

    def secret(self, key: str, file: str | None, credential: str) -> Token | None:
        """An optional secret, from a file, an environment variable or a systemd credential."""
        path = None if file is None else self.path(key, file)
        if not self._tokens:
            return None
        nothing: Token | None = None
        return self.parse(key, lambda: find_token(path, variable_for(credential), credential, Secret), nothing)

    def token_file(self, key: str, text: str) -> Token:
        """The token in a file."""
        path = self.path(key, text)
        return self.parse(key, lambda: Token.from_file(path), NOT_READ) if self._tokens else NOT_READ

    # ---- patterns and templates

    def pattern(self, key: str, text: str | None) -> Pattern | None:
        """The pattern or template; None if it is missing or not valid."""
        if text == "":
            self.note(key, 'is empty; "**" matches everything')
            return None
        return None if text is None else self.parse(key, lambda: Pattern.parse(text), None)

    def patterns(self, key: str, texts: list[str] | None) -> tuple[Pattern, ...] | None:
        """The patterns; None if there are none: everything is allowed."""
        if texts is None:
            return None
        if not texts or "" in texts:
            self.note(key, 'is empty; to allow everything, remove it or write "**"')
        none: tuple[Pattern, ...] = ()
        return self.parse(key, lambda: tuple(map(Pattern.parse, texts)), none)

    def template(self, key: str, text: str | None, groups: tuple[str, ...]) -> Template | None:
        """The pattern or template; None if it is missing or not valid."""
        return None if text is None else self.parse(key, lambda: Template.parse(text, groups), None)


def variable_for(credential: str) -> str:
    """The environment variable for a credential: ``HIVEL_AGENT_WEB_PASSWORD`` for ``web-password``."""
    return "HIVEL_AGENT_" + credential.upper().replace("-", "_")
