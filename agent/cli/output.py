"""The output of verbs: text with colours and tables for people or, with ``--json``, one JSON document.

Rich takes as long to load as the rest of a quick verb. It is loaded only to print text for people.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import msgspec

from agent.model.secrets import redact
from agent.model.terminal import escaped, printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
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
    """Print one JSON document and a newline. Characters that control a terminal are escaped."""
    try:
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    except UnicodeEncodeError:  # a lone surrogate, as in a file name that is not UTF-8
        text = json.dumps(msgspec.to_builtins(value), indent=2)
    text = printable(text, lines=True)
    if not _is_utf8(sys.stdout):
        text = "".join(each if each.isascii() else escaped(each) for each in text)
    sys.stdout.write(text + "\n")


def _is_utf8(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().replace("-", "") == "utf8"


def console() -> Console:
    """Standard output for Rich's markup, wide enough for a table if it is not a terminal.

    Only Rich's own colours are printed. All other characters that control a terminal are escaped.
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.segment import Segment  # noqa: PLC0415

    class Harmless(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                text = segment.text
                yield segment if segment.control else Segment(printable(text, lines=True), segment.style)

    width = None if sys.stdout.isatty() else 180
    return Harmless(highlight=False, soft_wrap=True, emoji=False, width=width)


def escape(text: str, *, lines: bool = False) -> str:
    """Foreign text, safe to print: no markup, no secrets, no control characters; one line unless ``lines``."""
    from rich.markup import escape as escape_markup  # noqa: PLC0415

    return escape_markup(printable(redact(text), lines=lines))


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table. The columns ``right`` are aligned to the right."""
    from rich.table import Table  # noqa: PLC0415

    made = Table(box=None, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold", justify="right" if column in right else "left")
    return made


def styled(state: str) -> str:
    """The state of an event, a controller, the delivery or a finding, in its colour."""
    return f"[{_STATE_STYLES.get(state, 'red')}]{escape(state)}[/]"


def delivery_line(value: DeliveryStatus) -> str:
    """The line about the delivery in `status` and `once`."""
    since = f" since {escape(value.since)}" if value.since else ""
    reason = f": {escape(value.reason)}" if value.reason else ""
    return f"delivery  {styled(value.state)}{since}{reason}"
