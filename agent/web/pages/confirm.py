"""``POST /confirm``: selects deployments, says exactly what would be done with how many, and asks.

The form has ``what`` (``replay`` or ``discard``), and either a ``number`` for each chosen deployment, or ``all`` and
the filters of ``/deployments``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from agent.inspect.derived import rules_of
from agent.inspect.queue import Queue
from agent.model.deployment import State
from agent.outbox.values import Page
from agent.web.filters import read_filters, read_number
from agent.web.forms import read_fields
from agent.web.page import Action, RefusedError
from agent.web.selections import MOST, Chosen, Selection, What

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.responses import Response

    from agent.outbox.interface import Outbox
    from agent.outbox.values import Filter
    from agent.web.page import Visit

# Deployments that are read in one go, and those that the page names.
_PIECE = 1_000
_EXAMPLES = 10
_MOST_COUNTED = 10_000
# Numbers in the words that describe a selection.
_NAMED = 20


class _Selected(NamedTuple):
    """``words``: how they were selected. ``left_out``: what else was asked for, and why it stays as it is."""

    chosen: list[Chosen]
    words: str
    left_out: list[str]


async def confirm(visit: Visit) -> Response:
    """Keeps the selection under a key, so that exactly these deployments are changed when it is confirmed."""
    fields = await read_fields(visit.request)
    form = dict(fields)
    if form.get("what") not in list(What):
        raise RefusedError(400, "the form does not say what to do: replay or discard")
    what = What(form["what"])
    select = _matching if "all" in form else _named
    selected = await select(visit, what, fields)
    if not selected.chosen:
        raise RefusedError(409, " ".join((f"No deployment was selected that can be {what.done}.", *selected.left_out)))
    selection = Selection(what, selected.words, tuple(sorted(selected.chosen)))
    return visit.renderer.html(
        visit.frame,
        "confirm.html",
        f"{what.value.capitalize()} {_deployments(len(selection.chosen))}?",
        what=what,
        key=visit.tasks.selections.keep(selection),
        words=selected.words,
        total=len(selection.chosen),
        states=Counter(each.state.value for each in selection.chosen),
        newest=await _ids(visit, selection.chosen[: -_EXAMPLES - 1 : -1]),
        left_out=selected.left_out,
    )


def _deployments(count: int) -> str:
    return f"{count:,} deployment{'' if count == 1 else 's'}"


async def _matching(visit: Visit, what: What, fields: Sequence[tuple[str, str]]) -> _Selected:
    """All deployments that match the filters of the form."""
    filters = read_filters(fields)
    which = filters.which(visit.backend.clock.now_ms())
    asked = which.states or tuple(State)
    fitting = tuple(state for state in asked if state in what.states)
    chosen = await _all(visit, replace(which, states=fitting)) if fitting else []
    words = ", ".join(f"{name} {value}" for name, value in filters.pairs) or "all deployments"
    if len(fitting) == len(asked):
        return _Selected(chosen, words, [])
    others = tuple(state for state in asked if state not in what.states)
    which = replace(which, states=others)
    count = (await visit.backend.read(lambda outbox: outbox.search(which, Page(1), count_to=_MOST_COUNTED))).count
    if not count.n:
        return _Selected(chosen, words, [])
    names = " or ".join(each.value for each in others)
    number = f"{'more than ' if count.more else ''}{count.n:,}"
    return _Selected(chosen, words, [f"{number} that match stay as they are, because they are {names}."])


async def _all(visit: Visit, which: Filter) -> list[Chosen]:
    chosen: list[Chosen] = []
    page: Page | None = Page(_PIECE)
    while page is not None:
        found, older = await visit.backend.read(partial(_piece, which=which, page=page))
        chosen += found
        if len(chosen) > MOST:
            raise RefusedError(409, f"more than {MOST:,} deployments match; select fewer, for example by their time")
        page = None if older is None else Page(_PIECE, before=older)
    return chosen


def _piece(outbox: Outbox, which: Filter, page: Page) -> tuple[list[Chosen], int | None]:
    found = outbox.search(which, page)
    return [Chosen.of(row) for row in found.deployments], found.older


async def _named(visit: Visit, what: What, fields: Sequence[tuple[str, str]]) -> _Selected:
    """The deployments whose boxes were checked."""
    given = [read_number(name, text) for name, text in fields if name == "number"]
    numbers = sorted({number for number in given if number is not None})
    rows = await visit.backend.read(lambda outbox: outbox.with_numbers(numbers))
    found = [rows[number] for number in numbers if number in rows]
    chosen = [Chosen.of(row) for row in found if row.state in what.states]
    left_out = [
        f"Number {row.number} stays as it is, because it is {row.state}."
        for row in found
        if row.state not in what.states
    ]
    left_out += [f"Number {number} does not exist." for number in numbers if number not in rows]
    return _Selected(chosen, _listed([each.number for each in chosen]), left_out)


def _listed(numbers: Sequence[int]) -> str:
    more = len(numbers) - _NAMED
    shown = ", ".join(map(str, numbers[:_NAMED]))
    return f"chosen one by one: {shown}" + (f" and {more} more" if more > 0 else "")


async def _ids(visit: Visit, chosen: Sequence[Chosen]) -> list[tuple[int, str]]:
    """The numbers and ids of some deployments."""
    settings = visit.backend.settings

    def look(outbox: Outbox) -> list[tuple[int, str]]:
        rows = outbox.with_numbers([each.number for each in chosen])
        ids = Queue(outbox, rules_of(settings), settings.hold_for_ms).ids(rows.values())
        return [(each.number, ids[each.number]) for each in chosen if each.number in ids]

    return await visit.backend.read(look)


CONFIRM = Action("/confirm", confirm)
