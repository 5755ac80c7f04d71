"""Tokens: read from a file or the environment, shown to nobody."""

from __future__ import annotations

import os
from pathlib import Path

from agent.model.secrets import know


class TokenError(Exception):
    """A token cannot be had; the message says from where it was wanted and what to do."""


class Token:
    """A secret and where it comes from. ``str`` and ``repr`` never show it; :meth:`reveal` does."""

    def __init__(self, value: str, path: Path | None = None) -> None:
        know(value)
        self._value = value
        self.path = path

    @classmethod
    def from_file(cls, path: Path) -> Token:
        """Raises :class:`TokenError` when the file cannot be read or holds no usable token."""
        return cls(_read(path), path)

    @classmethod
    def checked(cls, text: str, place: str) -> Token:
        """A token that somebody typed. Raises :class:`TokenError`, which names ``place``."""
        return cls(_usable(text, place))

    def reveal(self) -> str:
        """The secret, for the header of a request and nothing else."""
        return self._value

    def reload(self) -> bool:
        """Read the file again; True when the token is another now. A file that cannot be read changes nothing."""
        if self.path is None:
            return False
        try:
            fresh = _read(self.path)
        except TokenError:
            return False  # it was readable at the start: it is being replaced, the next look will find it
        know(fresh)
        changed = fresh != self._value
        self._value = fresh
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
    if not directory:
        return None
    path = Path(directory) / credential
    try:
        return Token.from_file(path) if path.exists() else None
    except OSError as error:
        raise TokenError(f"cannot look for {path}: {error.strerror}") from error


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TokenError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise TokenError(f"{path} is no text file: a token is one line of letters and digits") from None
    return _usable(text, str(path))


def _usable(text: str, place: str) -> str:
    token = text.strip()
    if not token:
        raise TokenError(f"{place} is empty: put the token in, as its only line")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise TokenError(f"{place} holds no token: one line of letters and digits is expected")
    return token
