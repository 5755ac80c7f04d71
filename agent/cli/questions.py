"""Questions on a terminal. Each answer is checked when it is given; after a wrong answer the question is repeated."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from agent.cli.output import console, escape, styled
from agent.inspect.findings import Level
from agent.model.secrets import redact
from agent.model.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Callable


class InitError(click.ClickException):
    """``init`` cannot continue; the message says what to do."""


@dataclass(frozen=True)
class Question:
    """``option``: the option that answers it on the command line. ``hidden``: the answer is not shown.

    ``before``: an earlier answer that may be the wrong one, such as the user of a refused token.
    """

    text: str
    option: str
    default: str | None = None
    hidden: bool = False
    before: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The result of checking an answer, as lines with levels.

    ``wrong``: the question is asked again. ``malformed``: the answer cannot be kept. ``better``: what was probably
    meant.
    """

    lines: tuple[tuple[Level, str], ...] = ()
    wrong: bool = False
    malformed: bool = False
    better: str | None = None

    @classmethod
    def good(cls, text: str) -> Verdict:
        """The answer is correct, with this result."""
        return cls(((Level.OK, text),))

    @classmethod
    def bad(cls, text: str, *, malformed: bool = False, better: str | None = None) -> Verdict:
        """The answer does not work or, with ``malformed``, cannot work."""
        return cls(((Level.ERROR, text),), wrong=True, malformed=malformed, better=better)

    def show(self) -> None:
        """Print the lines."""
        for level, text in self.lines:
            console().print(f"{styled(level):<{_STATE_WIDTH + len(styled(level)) - len(level)}}{escape(text)}")


_STATE_WIDTH = 9


class _Then(enum.StrEnum):
    """What to do about a wrong answer."""

    AGAIN = "a"
    CHECK = "c"
    KEEP = "k"
    BEFORE = "b"


class Asker:
    """Asks a person, or uses the options. ``wrong``: the options of wrong answers that were kept."""

    def __init__(self, *, interactive: bool) -> None:
        self.interactive = interactive
        self.wrong: list[str] = []

    def ask(self, question: Question, given: str | None, check: Callable[[str], Verdict]) -> str | None:
        """The answer. ``given``: the answer of the command line. None: go back to the previous question.

        Raises :class:`InitError` if there is no terminal and the answer is missing or malformed.
        """
        default, value = question.default, given
        while True:
            if value is None:
                value = self._prompt(question, default)
            verdict = check(value)
            if not self.interactive and verdict.malformed:
                raise InitError(f"{question.option}: {verdict.lines[0][1]}")
            verdict.show()
            then = self._then(question, verdict)
            if then is _Then.KEEP:
                return value
            if then is _Then.BEFORE:
                return None
            if then is _Then.AGAIN:
                default, value = verdict.better or default, None

    def _prompt(self, question: Question, default: str | None) -> str:
        if not self.interactive:
            if default is None:
                raise InitError(f"{question.option} is missing; without a terminal, init cannot ask for it")
            return default
        shown = None if default is None else printable(redact(default))
        text = click.prompt(
            question.text, default=shown, hide_input=question.hidden, show_default=shown != "", err=True
        )
        return default if text == shown and default is not None else str(text).strip()

    def _then(self, question: Question, verdict: Verdict) -> _Then:
        if not verdict.wrong:
            return _Then.KEEP
        if self.interactive and verdict.malformed:
            return _Then.AGAIN
        then = self._choose(question) if self.interactive else _Then.KEEP
        if then is _Then.KEEP and any(level is Level.ERROR for level, _ in verdict.lines):
            self.wrong.append(question.option)
        return then

    def _choose(self, question: Question) -> _Then:
        choices = {_Then.AGAIN: "answer again", _Then.CHECK: "check again", _Then.KEEP: "keep it"}
        if question.before is not None:
            choices[_Then.BEFORE] = f"go back to {question.before}"
        words = ", ".join(f"{key} = {meaning}" for key, meaning in choices.items())
        chosen = click.prompt(
            f"What now? {words}",
            type=click.Choice([key.value for key in choices]),
            default=_Then.AGAIN.value,
            show_choices=False,
            err=True,
        )
        return _Then(chosen)

    def confirm(self, text: str, *, default: bool) -> bool:
        """Ask for yes or no. Without a terminal, the default."""
        return click.confirm(text, default=default, err=True) if self.interactive else default
