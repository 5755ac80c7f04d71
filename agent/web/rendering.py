"""Turns what a page shows into HTML, JSON or CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from agent import __version__
from agent.inspect.fleet import short
from agent.model.secrets import redact
from agent.model.spreadsheet import cell
from agent.model.terminal import printable
from agent.model.times import parse_moment, rfc3339
from agent.web.access import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agent.web.access import Visitor
    from agent.web.assets import Assets

_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"))


@dataclass(frozen=True)
class Table:
    """The CSV form of a page."""

    columns: Sequence[str]
    rows: Iterable[Sequence[object]]


@dataclass(frozen=True)
class Shown:
    """What a page shows: ``view`` is its JSON form and, as ``view``, the input of the template.

    ``more``: further input of the template, such as links. ``following``: the fields of the address of the next page.
    """

    template: str
    title: str
    view: msgspec.Struct
    table: Table
    more: Mapping[str, Any] = field(default_factory=dict)
    following: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Frame:
    """What every HTML page needs to know beside its content. ``path``: its own, with the query, without the prefix."""

    path: str
    now_ms: int
    visitor: Visitor
    can_log_in: bool


class Renderer:
    """Renders pages below one prefix."""

    def __init__(self, prefix: str, assets: Assets) -> None:
        self._prefix = prefix
        self._environment = Environment(
            loader=PackageLoader("agent.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_safe,
        )
        self._environment.globals.update(
            url=self.url, asset=lambda name: prefix + assets.path(name), version=__version__, Role=Role
        )
        self._environment.filters.update(
            link=_link, time=_time, duration=duration, number=_number, json=_json_text, short=short
        )

    def url(self, path: str, /, **query: object) -> str:
        """The address of a page of the agent."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._prefix + quote(path) + (f"?{urlencode(given, doseq=True)}" if given else "")

    def html(self, frame: Frame, template: str, title: str, status: int = 200, **values: object) -> Response:
        """An HTML page."""
        text = self._environment.get_template(template).render(
            frame=frame, title=title, ago=lambda moment: _ago(moment, frame.now_ms), **values
        )
        return HTMLResponse(text, status)

    def page(self, frame: Frame, shown: Shown) -> Response:
        """The HTML form of a page."""
        return self.html(frame, shown.template, shown.title, view=shown.view, **shown.more)


def as_json(shown: Shown) -> Response:
    """The JSON form of a page."""
    return Response(msgspec.json.encode(shown.view) + b"\n", media_type="application/json")


def as_csv(shown: Shown) -> Response:
    """The CSV form of a page. Cells that a spreadsheet would take for formulas get an apostrophe in front."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\r\n")
    lines.writerow(shown.table.columns)
    lines.writerows([cell(each) for each in row] for row in shown.table.rows)
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8")


def duration(milliseconds: int) -> str:
    """The two largest units: ``2 d 3 h``, ``5 min 10 s``, ``80 ms``."""
    if milliseconds < 1000:
        return f"{milliseconds} ms"
    parts: list[tuple[int, str]] = []
    left = milliseconds
    for size, unit in _UNITS:
        if left >= size or parts:
            parts.append((left // size, unit))
            left %= size
        if len(parts) == 2:
            break
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def _safe(value: object) -> object:
    """Every value that a template prints: without secrets, and with escapes for characters that reorder text."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(redact(value), lines=True)
    return "" if value is None else value


def _link(url: object) -> str:
    """A URL that is safe as the target of a link, else an empty text. It comes from Jenkins or from a report."""
    if not isinstance(url, str) or not url.isprintable():
        return ""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return url if parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc else ""


def _time(moment: int | str | None) -> Markup:
    """A time for people, in UTC. ``moment``: UTC milliseconds or RFC 3339."""
    if moment is None:
        return Markup("–")
    exact = rfc3339(moment) if isinstance(moment, int) else moment
    return Markup('<time datetime="{}">{} {} UTC</time>').format(exact, exact[:10], exact[11:19])


def _ago(moment: int | str | None, now_ms: int) -> str:
    if moment is None:
        return "never"
    ms = now_ms - (moment if isinstance(moment, int) else parse_moment(moment))
    return f"{duration(ms // 1000 * 1000 or 1000)} ago" if ms >= 0 else f"in {duration(max(1000, -ms // 1000 * 1000))}"


def _number(value: int) -> str:
    return f"{value:,}"


def _json_text(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
