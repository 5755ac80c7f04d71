"""Tokens, read from a file or the environment, and never shown."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from agent.config.reading import ReadError, read_text
from agent.model.secrets import know

# A segment of a URL path counts as a key from this length on; shorter texts than the other are not redacted alone.
_LIKE_A_TOKEN = 16
_SHORTEST_PART = 8


class TokenError(Exception):
    """A token cannot be read; the message says where it was expected and what to do.

    ``path``: its file, if it is expected in a file.
    """

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class Token:
    """A secret and its source. ``str`` and ``repr`` never show it; :meth:`reveal` does.

    ``problem``: why there is no secret yet, or None.
    """

    blanks = False  # whether it can contain blanks

    def __init__(self, value: str, path: Path | None = None, problem: str | None = None) -> None:
        know(value)
        self._value = value
        self.path = path
        self.problem = problem

    @classmethod
    def from_file(cls, path: Path) -> Token:
        """Read a file. Raises :class:`TokenError` if it cannot be read or contains no valid token."""
        return cls(_read(path, blanks=cls.blanks), path)

    @classmethod
    def missing(cls, error: TokenError) -> Token:
        """A token that cannot be read now; :meth:`reload` reads it when its file exists."""
        return cls("", error.path, str(error))

    @classmethod
    def checked(cls, text: str, place: str) -> Token:
        """A typed token. Raises :class:`TokenError`, which names ``place``."""
        return cls(_usable(text, place, blanks=cls.blanks))

    def reveal(self) -> str:
        """The secret, only for the header of a request. Raises :class:`TokenError` if there is none."""
        if self.problem is not None:
            raise TokenError(self.problem, self.path)
        return self._value

    def reload(self) -> bool:
        """Read the file again; True if the token changed. If the file cannot be read, the token stays."""
        if self.path is None:
            return False
        try:
            fresh = _read(self.path, blanks=self.blanks)
        except TokenError as error:
            if self.problem is not None:
                self.problem = str(error)
            return False  # the file is probably being replaced; the next reload reads it
        know(fresh)
        changed = self.problem is not None or fresh != self._value
        self._value, self.problem = fresh, None
        return changed

    def __repr__(self) -> str:
        return f"Token({'***' if self.path is None else self.path})"


class Secret(Token):
    """A secret that a person chose, such as that of a webhook. It can contain blanks."""

    blanks = True


def find_token(token_file: Path | None, variable: str, credential: str, kind: type[Token] = Token) -> Token | None:
    """The token of ``token_file``, else of the environment variable, else of systemd's credential, else None.

    Raises :class:`TokenError` if the source exists, but contains no valid token.
    """
    if token_file is not None:
        return kind.from_file(token_file)
    if variable in os.environ:
        return kind.checked(os.environ[variable], f"the environment variable {variable}")
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory or "/" in credential:
        return None
    path = Path(directory) / credential
    try:
        return kind.from_file(path) if path.exists() else None
    except OSError as error:
        raise TokenError(f"cannot access {path}: {error.strerror}") from error
    except TokenError as error:
        # systemd copies the file when the service starts.
        advice = "correct the file that LoadCredential= names, and restart the service"
        raise TokenError(f"systemd's credential {credential}: {error}; {advice}") from error


def variable_of(controller: str) -> str:
    """The environment variable with the token of one controller: ``JENKINS_API_TOKEN_CI_EU`` for ``ci-eu``."""
    return "JENKINS_API_TOKEN_" + re.sub(rb"[^A-Z0-9]", b"_", controller.encode().upper()).decode()


def find_controllers_token(token_file: Path | None, controller: str) -> Token | None:
    """The token of one controller: its own sources first, then those of all controllers, as in :func:`find_token`."""
    return find_token(token_file, variable_of(controller), f"jenkins-token.{controller}") or find_token(
        None, "JENKINS_API_TOKEN", "jenkins-token"
    )


def know_url(url: str) -> None:
    """Redact a URL in all texts, and also its secret parts where they appear alone."""
    know(url)
    try:
        parts = urlsplit(url)
    except ValueError:  # half an IPv6 address
        return
    path = url.partition("://")[2].partition("/")[2]
    segments = [each for each in parts.path.split("/") if len(each) >= _LIKE_A_TOKEN or _has_both(each)]
    values = [value for _, value in parse_qsl(parts.query)]
    for secret in (path, parts.query, parts.password or "", *segments, *values):
        if len(secret) >= _SHORTEST_PART:
            know(secret)


def _has_both(text: str) -> bool:
    """Letters and digits: probably a key, not a word."""
    return any(each.isdigit() for each in text) and any(each.isalpha() for each in text)


def _read(path: Path, *, blanks: bool) -> str:
    try:
        text = read_text(path, secret=True)
    except FileNotFoundError as error:
        raise TokenError(f"cannot read {path}: {error.strerror}", path) from error
    except ReadError as error:
        raise TokenError(f"cannot read {path}: {error.problem}", path) from error
    return _usable(text, str(path), path, blanks=blanks)


def _usable(text: str, place: str, path: Path | None = None, *, blanks: bool = False) -> str:
    token, kind = text.strip(), "secret" if blanks else "token"
    if not token:
        raise TokenError(f"{place} is empty; write the {kind} as its only line", path)
    if not token.isascii() or not token.isprintable() or (" " in token and not blanks):
        words = "one line of ASCII characters" if blanks else "one line of letters and digits"
        raise TokenError(f"{place} does not contain a {kind}; {words} is expected", path)
    return token
