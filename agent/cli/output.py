"""How verbs print: for people in colours and columns, or with ``--json`` one JSON document on standard output.

Rich takes as long to load as the rest of a quick verb. It is loaded where something is printed for people.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from agent.inspect.status import DeliveryStatus

_STATE_STYLES = {
    "pending": "yellow",
    "held": "cyan",
    "delivered": "green",
    "failed": "red",
    "discarded": "dim",
    "ok": "green",
    "open": "green",
    "warning": "yellow",
    "never polled": "yellow",
    "never ran": "yellow",
    "outage": "yellow",
}


def write_json(value: object) -> None:
    """One JSON document and a line end."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def console() -> Console:
    """Standard output, with room for a table where it is no terminal. What it prints is Rich's markup."""
    from rich.console import Console  # noqa: PLC0415

    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 180)


def escape(text: str) -> str:
    """Text from elsewhere, so that nothing in it is markup."""
    from rich.markup import escape as escape_markup  # noqa: PLC0415

    return escape_markup(text)


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table; the columns ``right`` hold numbers."""
    from rich.table import Table  # noqa: PLC0415

    made = Table(box=None, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold", justify="right" if column in right else "left")
    return made


def styled(state: str) -> str:
    """The word for a state of an event, a controller, the delivery or a finding, in its colour."""
    return f"[{_STATE_STYLES.get(state, 'red')}]{state}[/]"


def delivery_line(value: DeliveryStatus) -> str:
    """What `status` and `once` say of the delivery."""
    since = f" since {value.since}" if value.since else ""
    reason = f": {escape(value.reason)}" if value.reason else ""
    return f"delivery  {styled(value.state)}{since}{reason}"
