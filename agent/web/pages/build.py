"""``/build``: why one build did or did not become an event, and what can be done about it.

Looking a build up costs requests to Jenkins, so it is a POST.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog

from agent.inspect.explain import Explanation, explain
from agent.inspect.parameters import facts_without_values, words_without_values
from agent.inspect.target import TargetError, target_of_name
from agent.outbox.engines import engine_of
from agent.outbox.values import OutboxError
from agent.sources.jenkins.backfill import BackfillReport, NotDueError, backfill_build, read_build
from agent.sources.jenkins.errors import JenkinsError
from agent.web.access import Role
from agent.web.backend import UnavailableError
from agent.web.forms import read_form
from agent.web.lookups import LOOKUPS
from agent.web.page import Action, Page, RefusedError
from agent.web.rendering import Shown, Table, as_csv, as_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.responses import Response

    from agent.config.settings import Settings
    from agent.inspect.derived import DerivedView
    from agent.inspect.target import Target
    from agent.model.build import Build
    from agent.model.times import Clock
    from agent.web.lookups import Clients
    from agent.web.page import Visit

log = structlog.get_logger("web")

LONGEST = 2_000
_COLUMNS = ("build", "verdict", "deployment_id", "field", "value", "origin")


class BuildPage(msgspec.Struct, frozen=True):
    """``/build.json``. ``build``: what was asked for; without it there is no ``explanation``.

    ``can_report``: the build can be reported now. ``reported``: what came of reporting it.
    """

    build: str
    explanation: Explanation | None = None
    can_report: bool = False
    reported: BackfillReport | None = None


async def show(visit: Visit) -> Shown:
    """The form. ``?build=`` fills it in and asks nothing."""
    return _shown(BuildPage(visit.request.query_params.get("build", "")[:LONGEST]))


async def look_up(visit: Visit) -> Response:
    """The form with the answer."""
    shown = await _looked_up(visit)
    return visit.renderer.page(visit.frame, shown)


async def look_up_as_json(visit: Visit) -> Response:
    """The answer as JSON."""
    return as_json(await _looked_up(visit))


async def look_up_as_csv(visit: Visit) -> Response:
    """The answer as CSV: a row for each field of each event."""
    return as_csv(await _looked_up(visit))


async def report(visit: Visit) -> Response:
    """Enqueue the events of one build."""
    asked = await _asked(visit)
    settings = visit.backend.settings
    target = target_of_name(settings.controllers, asked)
    if target is None:
        raise RefusedError(400, f"{asked!r} is not CONTROLLER:JOB#NUMBER")
    build = await LOOKUPS.run(partial(_read, settings, target))
    reported = await visit.backend.change(lambda ingest: backfill_build(ingest, build))
    log.info("build reported", build=asked, events=len(reported.enqueued), by=visit.visitor.name)
    return visit.renderer.page(visit.frame, _shown(BuildPage(asked, reported=reported)))


async def _asked(visit: Visit) -> str:
    build = (await read_form(visit.request)).get("build", "").strip()
    if not build:
        raise RefusedError(400, "give the address of a build")
    if len(build) > LONGEST:
        raise RefusedError(400, f"the address is longer than {LONGEST} characters")
    return build


async def _looked_up(visit: Visit) -> Shown:
    asked, backend = await _asked(visit), visit.backend
    explanation = await LOOKUPS.run(partial(_explain, backend.settings, backend.clock, asked))
    can_report = _can_report(explanation)
    if visit.visitor.role < Role.ACT:
        explanation = _without_values(explanation)
    return _shown(BuildPage(asked, explanation, can_report))


def _without_values(explanation: Explanation) -> Explanation:
    words = {
        name: {field: words_without_values(said) for field, said in fields.items()}
        for name, fields in explanation.words.items()
    }
    return msgspec.structs.replace(explanation, facts=facts_without_values(explanation.facts), words=words)


def _explain(settings: Settings, clock: Clock, name: str, clients: Clients) -> Explanation:
    """With an outbox of its own: waiting for Jenkins must not stop other pages."""
    try:
        with closing(engine_of(settings, clock).open()) as outbox:
            return explain(settings, outbox, clients, name)
    except TargetError as error:
        raise RefusedError(400, str(error)) from None
    except JenkinsError as error:
        raise RefusedError(502, f"{name} cannot be looked up: {error}") from None
    except OutboxError as error:
        raise UnavailableError(str(error)) from error


def _read(settings: Settings, target: Target, clients: Clients) -> Build:
    controller = target.controller
    try:
        return read_build(settings, clients(controller), controller.name, target.jobs[0], int(target.build))
    except NotDueError as error:
        raise RefusedError(409, f"this build cannot be reported: {error}") from None
    except JenkinsError as error:
        raise RefusedError(502, f"the build cannot be read: {error}") from None


def _can_report(explanation: Explanation) -> bool:
    """A finished build with an event that is not stored."""
    makes_event = any(each.event is not None for each in explanation.derived)
    return makes_event and not explanation.outbox and explanation.jenkins.endswith(", ended")


def _shown(view: BuildPage) -> Shown:
    return Shown("build.html", "A build", view, Table(_COLUMNS, list(_rows(view))), {"fields": fields_of})


def _rows(view: BuildPage) -> Iterator[tuple[object, ...]]:
    explanation = view.explanation
    if explanation is None:
        return
    if not explanation.derived:
        yield explanation.build, explanation.verdict, "", "", "", ""
    for each in explanation.derived:
        for field, value in fields_of(each).items():
            origin = each.origins.get(field, "")
            yield explanation.build, explanation.verdict, each.deployment_id, field, value, origin


def fields_of(derived: DerivedView) -> dict[str, str]:
    """The fields of an event that have a value, as texts; if it cannot be created, the known ones."""
    found = derived.known if derived.event is None else msgspec.to_builtins(derived.event)
    return {name: _text(value) for name, value in found.items() if value is not None}


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


PAGE = Page("/build", show)
ACTIONS = (
    Action("/build", look_up, role=Role.VIEW),
    Action("/build.json", look_up_as_json, role=Role.VIEW),
    Action("/build.csv", look_up_as_csv, role=Role.VIEW),
    Action("/build/report", report),
)
