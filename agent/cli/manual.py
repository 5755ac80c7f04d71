"""The man page, generated from the texts of ``--help``: ``python -m agent.cli.manual 2026-01-31 > hivel-agent.1``"""

from __future__ import annotations

import inspect
import re
import sys
from typing import TYPE_CHECKING

import click

from agent import __version__
from agent.cli.main import VERBS, cli, load
from agent.config.paths import DEFAULT_CONFIG, DEFAULT_OUTBOX, DEFAULT_SPOOL

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = "hivel-agent"
FILES = {
    DEFAULT_CONFIG: "The configuration.",
    DEFAULT_OUTBOX: "The outbox.",
    DEFAULT_SPOOL: "Reports of builds whose users cannot write to the outbox.",
}


def manual(date: str) -> str:
    """The page in roff. ``date``: YYYY-MM-DD."""
    context = click.Context(cli, info_name=PROGRAM)
    lines = [
        f'.TH HIVEL\\-AGENT 1 "{date}" "{PROGRAM} {__version__}" "User commands"',
        *(".SH NAME", f"{_escaped(PROGRAM)} \\- {_escaped(_sentence(cli))}"),
        *(".SH SYNOPSIS", f".B {_escaped(PROGRAM)}", _escaped(" ".join(cli.collect_usage_pieces(context)))),
        *(".SH DESCRIPTION", *_text(cli)),
        *(".SH OPTIONS", *_options(context)),
        ".SH COMMANDS",
    ]
    for name in VERBS:
        lines += _command(click.Context(load(name), info_name=name, parent=context))
    lines.append(".SH FILES")
    for path, what in FILES.items():
        lines += [".TP", f".I {_escaped(path)}", _escaped(what)]
    return "\n".join(lines) + "\n"


def _command(context: click.Context) -> Iterator[str]:
    """A command and its subcommands."""
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f'.SS "{_escaped(usage.removeprefix(PROGRAM + " "))}"'
    yield from _text(command)
    yield from _options(context)
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from _command(click.Context(below, info_name=name, parent=context))


def _options(context: click.Context) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in parameter.opts:
            yield from (".TP", f".B {_escaped(record[0])}", _escaped(record[1]) or "\\&")


def _sentence(command: click.Command) -> str:
    text = " ".join(inspect.cleandoc(command.help or "").partition("\n\n")[0].split())
    return text.removesuffix(".")


def _text(command: click.Command) -> Iterator[str]:
    """The paragraphs of the help. Paragraphs that begin with ``\\b`` keep their lines."""
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield ".PP"
        first, *rest = lines = [_escaped(line) for line in paragraph.splitlines()]
        if first == "\b":
            yield from (".nf", *rest, ".fi")
        else:
            yield from lines


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return re.sub(r"^(\s*)([.'])", r"\1\\&\2", text)


if __name__ == "__main__":
    sys.stdout.write(manual(sys.argv[1]))
