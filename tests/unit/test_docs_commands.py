"""Every command that the documentation and the help show can be typed: verb, options, and number of arguments exist."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, NamedTuple

import click
import pytest

from agent.cli import main as command_line
from agent.sources.reports import emit

from .test_docs import DOCUMENTS, ROOT, VERBS

if TYPE_CHECKING:
    from collections.abc import Iterator

FENCED = re.compile(r"(?ms)^```(?:sh|text|console)\n(.*?)^```$")
CALL = re.compile(r"^\s*(?:\$ )?(?:sudo )?(?:[\w./~-]*/)?hivel-agent(?: (?P<words>[a-z-].*))?$")
ENDS = {"&", "&&", "||", "|", ";", ">", ">>", "<"}


class Shown(NamedTuple):
    """A command as a page shows it."""

    where: str
    words: str


def of_page(name: str, text: str) -> Iterator[Shown]:
    """The calls in blocks of shell, and those between backticks in sentences."""
    for block in FENCED.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            output = re.match(r"hivel-agent [a-z ]+: ", line)  # how a verb begins what it says
            if not output and (call := CALL.match(line)) and call["words"]:
                yield Shown(name, call["words"])
    for quoted in re.findall(r"`([^`]+)`", re.sub(r"(?ms)^ *```.*?^ *```$", "", text)):
        words = " ".join(quoted.split())
        if (call := CALL.match(words)) and call["words"]:
            yield Shown(name, call["words"])
        elif words.split()[0] in command_line.VERBS and " --" in words:
            yield Shown(name, words)  # `replay --failed`


def of_help(name: str, command: click.Command) -> Iterator[Shown]:
    """The examples below the help of a verb."""
    text = command.get_help(click.Context(command, info_name=name))
    for line in text.replace("\\\n", " ").splitlines():
        if (call := CALL.match(re.sub(r"^\s*Examples?:", "", line))) and call["words"]:
            yield Shown(f"{name} --help", call["words"])


SHOWN = sorted(
    {
        *(
            shown
            for path in DOCUMENTS
            if path.name != "CHANGELOG.md"  # it tells of options that are gone
            for shown in of_page(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        ),
        *(shown for verb in VERBS for shown in of_help(*verb.values)),
    }
)


def typed(words: str) -> list[str]:
    """The arguments of a command line, without comments, what follows a pipe, and ``…`` for more of the same."""
    lexer = shlex.shlex(words, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    arguments = []
    for word in lexer:
        if word in ENDS or word.startswith("#"):
            break
        if word != "…":
            arguments.append(word)
    return arguments


def parse(words: str) -> None:
    """Reads a command line as the agent does. Paths are not looked at: the files do not exist here.

    Raises ``click.UsageError`` or ``EmitError`` for a verb, an option, a value or an argument that does not exist.
    """
    command: click.Command = command_line.cli
    context = click.Context(command, info_name="hivel-agent")
    arguments = typed(words)
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        child = command_line.load(name) if command is command_line.cli and name in command_line.VERBS else None
        child = child or command.get_command(context, name)
        if child is None:
            raise click.NoSuchOption(name, f"no command {name!r}", ctx=context)
        command, context = child, click.Context(child, info_name=name, parent=context)
    if command is command_line.load("emit"):
        emit._parser().parse_args(arguments)
        return
    values, rest, _ = command.make_parser(context).parse_args(arguments)
    for parameter in command.params:
        if (
            isinstance(parameter, click.Option)
            and parameter.name in values
            and not isinstance(parameter.type, click.Path)
        ):
            parameter.type_cast_value(context, values[parameter.name])
    if rest:
        raise click.UsageError(f"too many arguments: {rest}", context)


def test_the_pages_and_the_help_show_commands() -> None:
    assert len([shown for shown in SHOWN if shown.where.endswith(".md")]) > 60
    assert len([shown for shown in SHOWN if shown.where.endswith("--help")]) > 20


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: f"{shown.where}: {shown.words}"[:100])
def test_a_command_that_is_shown_can_be_typed(shown: Shown) -> None:
    parse(shown.words)


@pytest.mark.parametrize(
    "words",
    [
        "replay --fialed",
        "queue lst",
        "mend",
        "check --interval 5s",
        "queue list --state gone",
        "status now",
        "sandbox hivel --port",
        "emit --stauts X",
    ],
)
def test_a_command_with_a_mistake_would_be_noticed(words: str) -> None:
    with pytest.raises((click.UsageError, emit.EmitError)):
        parse(words)
