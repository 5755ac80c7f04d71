"""Options that several verbs share. It loads only click, because the list of verbs needs it."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.config.paths import DEFAULT_CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.settings import Settings

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help=f"Configuration file. [default: $HIVEL_AGENT_CONFIG, else {DEFAULT_CONFIG}]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def refuse_without_controller(settings: Settings) -> None:
    """For a verb that reads builds from Jenkins. Raises :class:`agent.config.problems.ConfigError`."""
    from agent.config.problems import ConfigError  # noqa: PLC0415 - see above
    from agent.config.settings import NO_CONTROLLER  # noqa: PLC0415

    if not settings.controllers:
        raise ConfigError(f"{settings.file}: {NO_CONTROLLER}")


def with_settings(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--config`` to a verb, which gets the :class:`Settings` as its first argument.

    The option can be before or after the verb; the one after the verb is used.
    """

    @config_option
    @click.pass_context
    @wraps(verb)
    def wrapper(context: click.Context, /, config: Path | None, **arguments: Any) -> Any:
        from agent.config.file import find_file, load  # noqa: PLC0415 - `--help` and `--version` need no configuration

        return verb(load(find_file(config or context.obj)), **arguments)

    return wrapper


def refusing_endless_patterns(verb: Callable[..., Any]) -> Callable[..., Any]:
    """For verbs that match foreign names: refuse patterns that some name would block forever."""

    @wraps(verb)
    def wrapper(settings: Settings, **arguments: Any) -> Any:
        from agent.inspect.expressions import refuse_endless  # noqa: PLC0415

        refuse_endless(settings)
        return verb(settings, **arguments)

    return wrapper
