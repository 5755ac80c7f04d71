"""What is wrong with a configuration: all of it at once, each problem with its place in the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.config.positions import Positions


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. ``key``: where in the file, such as ``jenkins[0].url``; empty: the file as a whole."""

    file: Path
    line: int | None
    key: str
    problem: str

    def __str__(self) -> str:
        place = str(self.file) if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.problem}" if self.key else f"{place}: {self.problem}"


class ConfigError(Exception):
    """The configuration is wrong. The message names file, line and key of each problem and says what to write.

    ``problems``: the same one by one; empty if something else than the file is wrong, such as a variable of the
    environment.
    """

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> ConfigError:
        """One problem is the message itself; several are listed, a line each."""
        if len(problems) == 1:
            return cls(str(problems[0]), problems)
        listed = "".join(f"\n  {each}" for each in problems)
        return cls(f"{len(problems)} errors in the configuration:{listed}", problems)


class Problems:
    """Collects the problems of one file.

    Whoever finds one goes on with a stand-in for the value; :meth:`raise_if_any` sees to it that no stand-in is used.
    """

    def __init__(self, file: Path, positions: Positions) -> None:
        self._file = file
        self._positions = positions
        self._noted: list[Problem] = []
        self._settled: set[str] = set()

    def note(self, key: str, problem: str) -> None:
        """Only the first problem of a key, or of a table that it is in, is kept: the others follow from it."""
        if not self.is_settled(key):
            self._noted.append(Problem(self._file, self._positions.line(key), key, problem))
            self.settle(key)

    def settle(self, key: str) -> None:
        """Whatever else is wrong with this key follows from a problem that was noted elsewhere."""
        self._settled.add(key)

    def is_settled(self, key: str) -> bool:
        """Whether this key, or a table that it is in, is known to be wrong."""
        key = key.strip("[]") if key.startswith("[") else key
        return any(key == each or key.startswith((f"{each}.", f"{each}[")) for each in self._settled)

    def raise_if_any(self) -> None:
        """Raises :class:`ConfigError` with all problems, in the order of the file."""
        if self._noted:
            raise ConfigError.of(sorted(self._noted, key=lambda each: each.line or 0))
