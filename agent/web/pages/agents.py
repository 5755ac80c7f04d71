"""``/agents``: the agents that share the outbox, and who polls what. One can be taken out, as ``handover`` does.

There is no such page if the outbox is a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from starlette.responses import RedirectResponse

from agent.inspect.fleet import GONE, fleet_by, is_last
from agent.outbox.engines import leases_by
from agent.web.forms import read_form
from agent.web.page import Action, Page, RefusedError
from agent.web.rendering import Shown, Table

if TYPE_CHECKING:
    from starlette.responses import Response

    from agent.inspect.fleet import AgentStatus
    from agent.outbox.interface import Outbox
    from agent.web.page import Visit

log = structlog.get_logger("web")

_COLUMNS = ("agent", "id", "version", "pid", "state", "seen_ms_ago", "controllers")


async def show(visit: Visit) -> Shown:
    """Agents and leases."""
    fleet = await visit.backend.read(fleet_by)
    if fleet is None:
        raise _no_fleet()
    polls = {each.id: [lease for lease in fleet.leases if lease.agent_id == each.id] for each in fleet.agents}
    rows = [
        (each.name, each.id, each.version, each.pid, each.state, each.seen_ms_ago,
         ", ".join(lease.controller for lease in polls[each.id]))
        for each in fleet.agents
    ]  # fmt: skip
    free = [each.controller for each in fleet.leases if each.agent is None]
    return Shown("agents.html", "Agents", fleet, Table(_COLUMNS, rows), {"polls": polls, "free": free})


async def hand_over(visit: Visit) -> Response:
    """Let an agent give its work to the others or, with ``back``, take part again."""
    form = await read_form(visit.request)
    agent, leaving = form.get("agent", ""), "back" not in form
    asked = await visit.backend.change(lambda ingest: _ask(ingest.outbox, agent, leaving=leaving))
    words = "handover requested" if leaving else "return requested"
    log.info(words, agent=asked.name, agent_id=asked.id, by=visit.visitor.name, client=visit.address)
    return RedirectResponse(visit.renderer.url("/agents"), 303)


def _ask(outbox: Outbox, agent: str, *, leaving: bool) -> AgentStatus:
    leases, fleet = leases_by(outbox), fleet_by(outbox)
    if leases is None or fleet is None:
        raise _no_fleet()
    chosen = next((each for each in fleet.agents if each.id == agent and each.state != GONE), None)
    if chosen is None:
        raise RefusedError(409, "this agent is not running any more")
    if leaving and is_last(fleet, agent):
        raise RefusedError(
            409,
            "No other agent is there to take over. To stop polling and delivering all the same, run:"
            f" hivel-agent handover --force --agent {agent}",
        )
    leases.ask_to_leave([agent], leaving=leaving)
    return chosen


def _no_fleet() -> RefusedError:
    return RefusedError(404, "there is one agent: its outbox is a file, which no other agent shares")


PAGE = Page("/agents", show)
HAND_OVER = Action("/agents/handover", hand_over)
