"""Tokens: read from a file or the environment, shown to nobody."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from agent.config.reading import ReadError, read_text
from agent.model.secrets import know

# From this length on a segment of a URL's path is taken for a key; below the other one nothing is hidden alone.
_LIKE_A_TOKEN = 16
_SHORTEST_PART = 8


class TokenError(Exception):
    """A token cannot be had; the message says from where it was wanted and what to do.

    ``path``: its file, if it was to come from one.
    """

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class Token:
    """A secret and where it comes from. ``str`` and ``repr`` never show it; :meth:`reveal` does.

    ``problem``: why there is none yet, None where there is one.
    """

    def __init__(self, value: str, path: Path | None = None, problem: str | None = None) -> None:
        know(value)
        self._value = value
        self.path = path
        self.problem = problem

    @classmethod
    def from_file(cls, path: Path) -> Token:
        """Raises :class:`TokenError` when the file cannot be read or holds no usable token."""
        return cls(_read(path), path)

    @classmethod
    def missing(cls, error: TokenError) -> Token:
        """A token that cannot be had now; :meth:`reload` finds it when its file is there."""
        return cls("", error.path, str(error))

    @classmethod
    def checked(cls, text: str, place: str) -> Token:
        """A token that somebody typed. Raises :class:`TokenError`, which names ``place``."""
        return cls(_usable(text, place))

    def reveal(self) -> str:
        """The secret, for the header of a request and nothing else. Raises :class:`TokenError` when there is none."""
        if self.problem is not None:
            raise TokenError(self.problem, self.path)
        return self._value

    def reload(self) -> bool:
        """Read the file again; True when the token is another now. A file that cannot be read changes nothing."""
        if self.path is None:
            return False
        try:
            fresh = _read(self.path)
        except TokenError as error:
            if self.problem is not None:
                self.problem = str(error)
            return False  # a token that was readable before: it is being replaced, the next look will find it
        know(fresh)
        changed = self.problem is not None or fresh != self._value
        self._value, self.problem = fresh, None
        return changed

    def __repr__(self) -> str:
        return f"Token({'***' if self.path is None else self.path})"


def find_token(token_file: Path | None, variable: str, credential: str) -> Token | None:
    """The token of ``token_file``, else of the environment variable, else of systemd's credential; or None.

    Raises :class:`TokenError` when the place exists but holds no usable token.
    """
    if token_file is not None:
        return Token.from_file(token_file)
    if variable in os.environ:
        return Token(_usable(os.environ[variable], f"the environment variable {variable}"))
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory or "/" in credential:
        return None
    path = Path(directory) / credential
    try:
        return Token.from_file(path) if path.exists() else None
    except OSError as error:
        raise TokenError(f"cannot look for {path}: {error.strerror}") from error
    except TokenError as error:
        # It is a copy, made when the service was started.
        advice = "mend the file that LoadCredential= names, and restart the service"
        raise TokenError(f"systemd's credential {credential}: {error}; {advice}") from error


def variable_of(controller: str) -> str:
    """The environment variable with the token of one controller: ``JENKINS_API_TOKEN_CI_EU`` for ``ci-eu``."""
    return "JENKINS_API_TOKEN_" + re.sub(rb"[^A-Z0-9]", b"_", controller.encode().upper()).decode()


def find_controllers_token(token_file: Path | None, controller: str) -> Token | None:
    """The token of one controller: :func:`find_token` in the places of its own, then in those of all controllers."""
    return find_token(token_file, variable_of(controller), f"jenkins-token.{controller}") or find_token(
        None, "JENKINS_API_TOKEN", "jenkins-token"
    )


def know_url(url: str) -> None:
    """Keep a URL out of all texts, and the parts of it that make it secret when they are repeated alone."""
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
    """Letters and digits: more likely a key than a word."""
    return any(each.isdigit() for each in text) and any(each.isalpha() for each in text)


def _read(path: Path) -> str:
    try:
        text = read_text(path, secret=True)
    except FileNotFoundError as error:
        raise TokenError(f"cannot read {path}: {error.strerror}", path) from error
    except ReadError as error:
        raise TokenError(f"cannot read {path}: {error.problem}", path) from error
    return _usable(text, str(path), path)


def _usable(text: str, place: str, path: Path | None = None) -> str:
    token = text.strip()
    if not token:
        raise TokenError(f"{place} is empty: put the token in, as its only line", path)
    if not token.isascii() or not token.isprintable() or " " in token:
        raise TokenError(f"{place} holds no token: one line of letters and digits is expected", path)
    return token
