"""The man page: everything that `--help` says, in roff that means the same."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import click
import pytest

from agent.cli.main import VERBS, load
from agent.cli.manual import manual

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = manual("2026-01-31")


def commands() -> Iterator[tuple[str, click.Command]]:
    for name in VERBS:
        command = load(name)
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {below}", each) for below, each in command.commands.items())


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_verb_is_there_with_its_options(name: str, command: click.Command) -> None:
    title = f'.SS "{name}'.replace("-", "\\-")
    assert title in PAGE
    part = PAGE.partition(title)[2].partition("\n.S")[0].replace("\\-", "-").replace("\\(dq", chr(34))
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert max(parameter.opts, key=len) in part
            assert (parameter.help or "").split("\n")[0][:40] in part


def test_no_line_of_the_help_is_taken_for_a_request() -> None:
    allowed = {"TH", "SH", "SS", "PP", "TP", "B", "I", "nf", "fi"}
    assert set(re.findall(r"(?m)^[.'](\w*)", PAGE)) == allowed
    assert PAGE.startswith('.TH HIVEL\\-AGENT 1 "2026-01-31" "hivel-agent ')


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_groff_reads_it_without_a_warning() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-Kutf8", "-ww"], input=PAGE, capture_output=True, encoding="utf-8", check=True
    )
    assert done.stderr == ""
    assert "Send one event for each Jenkins deployment to Hivel" in " ".join(done.stdout.split())
