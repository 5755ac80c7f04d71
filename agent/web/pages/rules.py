"""``/rules``: what a change of the rules would change. Nothing is written.

A trial costs CPU time, so it is a POST, and only one runs at a time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from agent.config.file import ConfigError, rules_text
from agent.config.rules import DEFAULT_ENVIRONMENT, DEFAULT_JOBS
from agent.inspect.compare import Comparison  # noqa: TC001 - a field of a struct
from agent.web.access import Role
from agent.web.forms import read_form
from agent.web.page import Action, Page, RefusedError
from agent.web.rendering import Shown, Table, as_csv, as_json
from agent.web.trial import run, trial_of

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from starlette.requests import Request
    from starlette.responses import Response

    from agent.config.settings import Settings
    from agent.web.page import Visit
    from agent.web.trial import Result

DAY_MS = 86_400_000
DEFAULT_DAYS, MOST_DAYS = 7, 400
LONGEST = 20_000
# Differences that the HTML form lists; the JSON and CSV forms have up to 1,000.
LISTED = 50
_COLUMNS = ("change", "deployment_id", "controller", "job", "state", "field", "before", "after", "reason")
_DEFAULT = f"""\
# The configuration has no rule. This is the default one.
[[deployment]]
job = "{DEFAULT_JOBS}"
environment = "{DEFAULT_ENVIRONMENT}"
"""
_one_at_a_time = asyncio.Lock()


class RulesPage(msgspec.Struct, frozen=True):
    """``/rules.json``. ``rules`` is TOML: those of the configuration, or those that were tried.

    ``comparison``: what would change over the builds that ended in the last ``days`` days; None before a trial and if
    the rules cannot be tried for the ``problem``.
    """

    rules: str
    days: int = DEFAULT_DAYS
    comparison: Comparison | None = None
    problem: str | None = None


async def show(visit: Visit) -> Shown:
    """The rules of the configuration, to be edited."""
    return _shown(RulesPage(_present(visit.backend.settings)))


async def try_out(visit: Visit) -> Response:
    """The same page with what the posted rules would change."""
    return visit.renderer.page(visit.frame, await _tried(visit))


async def try_out_as_json(visit: Visit) -> Response:
    """The result as JSON."""
    return as_json(await _tried(visit))


async def try_out_as_csv(visit: Visit) -> Response:
    """The result as CSV: a row for each field that would change."""
    return as_csv(await _tried(visit))


def _present(settings: Settings) -> str:
    try:
        return rules_text(settings.file) or _DEFAULT
    except ConfigError as error:
        raise RefusedError(503, str(error)) from None


async def _tried(visit: Visit) -> Shown:
    form = await read_form(visit.request)
    # A browser sends line ends as CR LF.
    rules, days = form.get("rules", "").replace("\r\n", "\n"), _days(form.get("days", ""))
    if len(rules) > LONGEST:
        raise RefusedError(400, f"the rules are longer than {LONGEST} characters")
    if _one_at_a_time.locked():
        raise RefusedError(429, "another trial is running; try again in a moment")
    backend = visit.backend
    async with _one_at_a_time:
        since = backend.clock.now_ms() - days * DAY_MS
        result = await _unless_gone(visit.request, run(trial_of(backend.settings, rules, since)))
    return _shown(RulesPage(rules, days, result.comparison, result.problem))


async def _unless_gone(request: Request, trial: Coroutine[Any, Any, Result]) -> Result:
    """Ends the trial when nobody waits for it any more: others can begin theirs."""
    running, gone = asyncio.ensure_future(trial), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({running, gone}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        raise RefusedError(400, "the client is gone")
    finally:
        gone.cancel()
        if not running.done():
            running.cancel()
            await asyncio.wait({running})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _days(text: str) -> int:
    if not text:
        return DEFAULT_DAYS
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MOST_DAYS):
        raise RefusedError(400, f"days must be a number from 1 to {MOST_DAYS}")
    return int(text)


def _shown(view: RulesPage) -> Shown:
    return Shown("rules.html", "Rules", view, Table(_COLUMNS, list(_rows(view))), {"listed": LISTED})


def _rows(view: RulesPage) -> Iterator[tuple[object, ...]]:
    for event in view.comparison.events if view.comparison is not None else ():
        found = event.difference
        where = (found.change.value, found.deployment_id, event.controller, event.job)
        state = None if event.state is None else event.state.value
        if not found.fields:
            yield *where, state, None, None, None, found.reason
        for each in found.fields:
            yield *where, state, each.field, each.sent, each.known, found.reason


PAGE = Page("/rules", show)
ACTIONS = (
    Action("/rules", try_out, role=Role.ACT),
    Action("/rules.json", try_out_as_json, role=Role.ACT),
    Action("/rules.csv", try_out_as_csv, role=Role.ACT),
)
