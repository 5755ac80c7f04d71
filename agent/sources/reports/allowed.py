"""What may be reported, by whom: ids of a controller are its builds', and teams have their jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.deployments.content import written_environment
from agent.model.ids import run_id
from agent.model.report import ReportError

if TYPE_CHECKING:
    from agent.config.settings import Settings
    from agent.model.deployment import Deployment
    from agent.model.keys import Run
    from agent.sources.reports.parse import Parsed


class NotAllowedError(ReportError):
    """The report is right, and its team may not send it."""


def refuse_foreign_ids(parsed: Parsed, settings: Settings) -> None:
    """Only builds of a controller get its ids: else its own build would find them taken.

    Raises :class:`agent.model.report.ReportError`.
    """
    if parsed.controller is not None:
        return
    name = run_id(parsed.run)
    for controller in settings.controllers:
        if name.startswith(f"{controller.name}:"):
            raise ReportError(
                f"deployment_id: {name!r:.100} is an id of the controller {controller.name}; of one of its builds send "
                "job and build_number, or build_url; give anything else an id that begins otherwise"
            )


def refuse_other_teams(team: str, parsed: Parsed, found: Deployment | None, settings: Settings) -> None:
    """Whether ``team`` may report of this run, and of its environment. ``found``: the deployment that it is about.

    Raises :class:`NotAllowedError`.
    """
    allowed = settings.allowed(team)
    name = _named(parsed.run)
    if not allowed.job(name):
        field = "job" if parsed.run.project.reuses_numbers else "run"
        raise NotAllowedError(
            f"{field}: the team {team} may not report of {name!r:.100}; see [intake.teams.{team}] jobs"
        )
    if allowed.environments is None:
        return
    said = parsed.said.environment
    environments = [written_environment(said, settings.options)] if said else []
    if found is not None:
        environments.append(found.content.environment or "")
    if not environments or not all(map(allowed.environment, environments)):
        raise NotAllowedError(
            f"environment: the team {team} may not report of {(said or 'any, without a name')!r:.60}; "
            f"see [intake.teams.{team}] environments"
        )


def _named(run: Run) -> str:
    """What the patterns of a team are held against: the job, and of other systems what names the run."""
    return run.project.name if run.project.reuses_numbers else run.number
