"""Values of the configuration: what a text means, and what is wrong with it."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlsplit

from agent.config.credentials import Token, TokenError, find_controllers_token, find_token, know_url, variable_of
from agent.config.reading import ReadError, check_readable
from agent.config.rules import Pattern, Template
from agent.config.settings import Address, TlsSettings
from agent.config.sizes import describe_size, parse_size
from agent.model import times

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.config.problems import Problems

NOT_READ = Token.missing(TokenError("only the configuration file was looked at"))

T = TypeVar("T")


class TlsFiles(Protocol):
    """What a table says of TLS."""

    ca_file: str | None
    client_certificate: str | None
    client_key: str | None


class Values:
    """Turns texts into what they mean. What is wrong is noted, and a stand-in is returned.

    ``tokens`` False: no token is looked for.
    """

    def __init__(self, file: Path, problems: Problems, *, tokens: bool) -> None:
        self._file = file
        self._problems = problems
        self._tokens = tokens

    def note(self, key: str, problem: str) -> None:
        """This key is wrong."""
        self._problems.note(key, problem)

    def parse(self, key: str, parser: Callable[[], T], stand_in: T) -> T:
        """What the parser returns; it may raise :class:`ValueError` or :class:`TokenError`."""
        try:
            return parser()
        except (ValueError, TokenError) as error:
            self.note(key, str(error))
            return stand_in

    def duration(self, key: str, text: str) -> int:
        """Milliseconds."""
        value = self.parse(key, lambda: times.parse_duration(text), 0)
        if value <= 0:
            self.note(key, f"{text!r} must be longer than nothing")
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
            self.note(key, "is empty; a path is needed")
        return self._file.parent / text

    def url(self, key: str, text: str) -> str:
        """A base address; empty if it is wrong."""
        try:
            parts = urlsplit(text)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if "@" in text:  # looked for first: the messages below repeat the text
            self.note(key, "holds credentials (or an @ for another reason); they belong into a token file")
        elif not usable or not text.isprintable() or " " in text:
            self.note(key, f"{text!r} is no URL; write it like https://host or http://host:8080/jenkins/")
        elif "?" in text or "#" in text:
            self.note(key, f"{text!r} must end with the path: no ? and no #")
        else:
            return text
        return ""

    def address(self, key: str, text: str) -> Address | None:
        """``127.0.0.1:9469``, ``[::1]:9469``; None for an empty text, which turns the listener off."""
        if not text:
            return None
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            self.note(key, f'{text!r} is no address; write it like 127.0.0.1:9469, or "" for none')
            return None
        return Address(host, int(port))

    def file(self, key: str, text: str | None) -> Path | None:
        """A file that can be read, or None where none is named."""
        if text is None:
            return None
        path = self.path(key, text)
        try:
            check_readable(path)
        except ReadError as error:
            self.note(key, f"cannot read {path}: {error.problem}")
        return path

    def tls(self, key: str, raw: TlsFiles) -> TlsSettings:
        """The files of a table, tried out."""
        settings = TlsSettings(
            ca_file=self.file(f"{key}.ca_file", raw.ca_file),
            client_certificate=self.file(f"{key}.client_certificate", raw.client_certificate),
            client_key=self.file(f"{key}.client_key", raw.client_key),
        )
        if settings.client_key is not None and settings.client_certificate is None:
            self.note(f"{key}.client_certificate", "is missing; the key belongs to a certificate")
        named = [name for name in ("ca_file", "client_certificate", "client_key") if getattr(raw, name) is not None]
        if named and not any(self._problems.is_settled(f"{key}.{name}") for name in named):
            try:
                settings.context()
            except (ssl.SSLError, OSError) as error:
                files = ", ".join(str(getattr(settings, name)) for name in named)
                self.note(f"{key}.{', '.join(named)}", f"not usable as PEM ({files}): {error}")
        return settings

    # ---- tokens

    def token(self, table: str, token_file: str | None, variable: str, credential: str) -> Token:
        """A token that has to be there."""
        token = self.optional_token(table, token_file, variable, credential)
        if token is None:
            self.note(
                f"{table}.token_file",
                f"no token: name a file here, or set {variable}, or give systemd the credential {credential}",
            )
        return token or NOT_READ

    def optional_token(self, table: str, token_file: str | None, variable: str, credential: str) -> Token | None:
        """A token, or None if no place has one."""
        key = f"{table}.token_file"
        path = None if token_file is None else self.path(key, token_file)
        if not self._tokens:
            return NOT_READ
        not_read: Token | None = NOT_READ
        return self.parse(key, lambda: find_token(path, variable, credential), not_read)

    def controllers_token(self, table: str, token_file: str | None, controller: str) -> Token:
        """A token that cannot be read is a problem of its controller alone, and may be there later."""
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
                "no token: name a file here, or set JENKINS_API_TOKEN, or give systemd the credential jenkins-token "
                f"(for this controller alone: {variable_of(controller)}, jenkins-token.{controller})",
            )
        return token or NOT_READ

    def secret_url(self, key: str, url_file: str | None, variable: str, credential: str) -> Token | None:
        """A URL that is a secret, or None if no place has one. One that cannot be read may be there later."""
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
        """A password or token of the pages, or None if no place has one. ``default``: the file to read if it exists.

        One that cannot be read is a problem of the pages alone: nobody can log in with it.
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
            return Token.missing(TokenError(f"cannot look for {default}: {error.strerror}"))
        return found

    def token_file(self, key: str, text: str) -> Token:
        """The token in a file."""
        path = self.path(key, text)
        return self.parse(key, lambda: Token.from_file(path), NOT_READ) if self._tokens else NOT_READ

    # ---- patterns and templates

    def pattern(self, key: str, text: str | None) -> Pattern | None:
        """None where none is written, or it is wrong."""
        if text == "":
            self.note(key, 'is empty; "**" matches everything')
            return None
        return None if text is None else self.parse(key, lambda: Pattern.parse(text), None)

    def patterns(self, key: str, texts: list[str] | None) -> tuple[Pattern, ...] | None:
        """None where none are written: anything is allowed."""
        if texts is None:
            return None
        if not texts or "" in texts:
            self.note(key, 'is empty; take it away, or write "**", to allow everything')
        none: tuple[Pattern, ...] = ()
        return self.parse(key, lambda: tuple(map(Pattern.parse, texts)), none)

    def template(self, key: str, text: str | None, groups: tuple[str, ...]) -> Template | None:
        """None where none is written, or it is wrong."""
        return None if text is None else self.parse(key, lambda: Template.parse(text, groups), None)


def variable_for(credential: str) -> str:
    """The environment variable for a credential: ``HIVEL_AGENT_WEB_PASSWORD`` for ``web-password``."""
    return "HIVEL_AGENT_" + credential.upper().replace("-", "_")
