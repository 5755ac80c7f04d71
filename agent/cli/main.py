"""``hivel-agent``: the verbs, and the output and exit codes of errors that a user can cause.

Exit codes: 0 done; 1 something failed or (`once`, `check`) needs a person; 2 the configuration or the command line is
wrong.
"""

from __future__ import annotations

import io
import sys
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn

import click

from agent import __version__
from agent.cli import streams
from agent.cli.options import config_option
from agent.model.terminal import printable, take_any_text

if TYPE_CHECKING:
    from pathlib import Path

# The help of each verb for `hivel-agent --help` and shell completion, without loading the verb: the first sentence of
# its help. The verb itself is `command` in the module with its name.
VERBS = {
    "audit": "Show the outcome of every build number of every deploying job.",
    "backfill": "Enqueue events for past builds that match a rule.",
    "check": "Check the configuration, each Jenkins, and Hivel, and say what to correct.",
    "completion": "Print the completion script for a shell.",
    "demo": "Demonstrate the agent with a local Jenkins and a local Hivel, in about ten seconds.",
    "dora": "Show the figures of DORA by environment, repository and ISO week.",
    "emit": "Report the deployment of the build that runs this command.",
    "explain": "Explain why one build did or did not become an event.",
    "handover": "Give the work of an agent to the others, before an upgrade.",
    "init": "Write a configuration: ask for what it needs, check each answer, and show what would be sent.",
    "notify": "Test the notifications of [notify].",
    "once": "Poll each controller once, deliver what is due, and exit.",
    "outbox": "Move the outbox between a file and PostgreSQL.",
    "preview": "Show what the rules would send, without storing or sending anything.",
    "queue": "List, show and discard events in the outbox.",
    "replay": "Send failed or delivered events again.",
    "rules": "Test the rules of the configuration with examples.",
    "run": "Run the daemon: poll and deliver until SIGTERM or SIGINT.",
    "sandbox": "Run a local Jenkins, a local Hivel or the API of a platform to try a configuration.",
    "status": "Show the state of the outbox, the delivery and the controllers.",
    "support-bundle": "Collect what a bug report needs in one archive, without secrets.",
    "webhook": "Test a webhook with a body, list the last deliveries, and repair gaps.",
}


_FILES = ("--config", "--output")


def load(verb: str) -> click.Command:
    """Load the command of one of :data:`VERBS`."""
    command: click.Command = import_module(f"agent.cli.{verb.replace('-', '_')}").command
    return command


class Verbs(click.Group):
    """Lists, suggests and completes verbs by placeholders with name and help. Only the called verb is loaded."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb itself in place of its placeholder."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, found if name is None else load(name), rest


@click.group(
    cls=Verbs,
    commands={name: click.Command(name, help=text) for name, text in VERBS.items()},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@config_option
@click.version_option(__version__, prog_name="hivel-agent")
@click.pass_context
def cli(context: click.Context, config: Path | None) -> None:
    """Send one event for each Jenkins deployment to Hivel, even if either side fails.

    The agent polls Jenkins for finished builds, stores an event for each deployment in a durable
    outbox, and delivers it to Hivel's Deployment Events API.

    \b
    Try it without Jenkins or Hivel:   hivel-agent demo
    Check a configuration:             hivel-agent --config agent.toml check
    Start the daemon:                  hivel-agent --config agent.toml run

    Exit codes: 0 done; 1 something failed (once: also if an event is failed or the delivery is paused);
    2 the configuration or the command line is wrong.
    """
    context.obj = config


def main() -> NoReturn:
    """Run the verb of the command line. Errors that a user can cause are printed on standard error."""
    take_any_text()
    streams.take()
    try:
        code = _called()
        sys.stdout.flush()
    except streams.PrintError as error:
        code = error.code
        if not error.quiet:
            click.echo(f"hivel-agent: {error}", err=True)
    sys.exit(code)


def _called() -> int:
    """Run the verb, and return its exit code."""
    try:
        _refuse_what_is_no_text(sys.argv[1:])
        code = cli.main(standalone_mode=False)
    except SystemExit as end:
        code = end.code
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        click.echo(printable(shown.getvalue(), lines=True), nl=False, err=True)
        code = error.exit_code
    except streams.PrintError:
        raise
    except Exception as error:
        told = _in_words(error)
        if told is None:
            raise
        words, code = told
        click.echo(f"hivel-agent: {printable(words, lines=True)}", err=True)
    return code if isinstance(code, int) else 0


def _refuse_what_is_no_text(arguments: list[str]) -> None:
    """Refuse arguments that are not UTF-8, except names of files."""
    for option, argument in pairwise(["", *arguments]):
        try:
            argument.encode()
        except UnicodeEncodeError:
            if option not in _FILES and argument.partition("=")[0] not in _FILES:
                raise click.UsageError(f"{argument!r} is not valid UTF-8") from None


def _in_words(error: Exception) -> tuple[str, int] | None:
    """Message and exit code for errors of configuration or outbox; None for unexpected errors."""
    from agent.config.file import ConfigError  # noqa: PLC0415 - loaded only after an error
    from agent.outbox.values import AlreadyRunningError, OutboxError  # noqa: PLC0415

    if isinstance(error, ConfigError):
        return str(error), 2
    if isinstance(error, OutboxError | AlreadyRunningError):
        return str(error), 1
    return None
