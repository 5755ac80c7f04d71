"""The errors of a configuration, all at once, each with its place in the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.config.positions import Positions


@dataclass(frozen=True)
class Problem:
    """One error. ``key``: its key in the file, such as ``jenkins[0].url``; empty: the whole file."""

    file: Path
    line: int | None
    key: str
    problem: str

    def __str__(self) -> str:
        place = str(self.file) if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.problem}" if self.key else f"{place}: {self.problem}"


class ConfigError(Exception):
    """The configuration is not valid. The message has file, line and key of each problem, and says what to write.

    ``problems``: the problems one by one; empty if the error is outside of the file, such as in the environment.
    """

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> ConfigError:
        """The error for these problems. Several problems are listed, one on each line."""
        if len(problems) == 1:
            return cls(str(problems[0]), problems)
        listed = "".join(f"\n  {each}" for each in problems)
        return cls(f"{len(problems)} errors in the configuration:{listed}", problems)


class Problems:
    """Collects the problems of one file.

    After a problem, reading continues with a placeholder; :meth:`raise_if_any` prevents that a placeholder is used.
    """

    def __init__(self, file: Path, positions: Positions) -> None:
        self._file = file
        self._positions = positions
        self._noted: list[Problem] = []
        self._settled: set[str] = set()

    def note(self, key: str, problem: str) -> None:
        """Add a problem. Only the first problem of a key or of its table is kept: the others follow from it."""
        if not self.is_settled(key):
            self._noted.append(Problem(self._file, self._positions.line(key), key, problem))
            self.settle(key)

    def settle(self, key: str) -> None:
        """Ignore further problems of this key: they follow from a problem that was already noted."""
        self._settled.add(key)

    def is_settled(self, key: str) -> bool:
        """Whether a problem of this key or of its table is already noted."""
        key = key.strip("[]") if key.startswith("[") else key
        return any(key == each or key.startswith((f"{each}.", f"{each}[")) for each in self._settled)

    def raise_if_any(self) -> None:
        """Raises :class:`ConfigError` with all problems, in the order of the file."""
        if self._noted:
            raise ConfigError.of(sorted(self._noted, key=lambda each: each.line or 0))
