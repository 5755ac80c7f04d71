"""Checks who may report what: the ids of a controller belong to its builds, and teams can be limited to jobs."""

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
    """The report is valid, but its team is not allowed to send it."""


def refuse_foreign_ids(parsed: Parsed, settings: Settings) -> None:
    """Refuse an id that a build of a controller could get: this build would then have no deployment.

    Raises :class:`agent.model.report.ReportError`.
    """
    if parsed.controller is not None:
        return
    name = run_id(parsed.run)
    for controller in settings.controllers:
        if name.startswith(f"{controller.name}:"):
            raise ReportError(
                f"deployment_id: {name!r:.100} has the prefix of controller {controller.name}; to report one of its "
                "builds, send job and build_number, or build_url; for anything else use an id without this prefix"
            )


def refuse_other_teams(team: str, parsed: Parsed, found: Deployment | None, settings: Settings) -> None:
    """Check that ``team`` may report this run and environment. ``found``: the deployment that the report is about.

    Raises :class:`NotAllowedError`.
    """
    allowed = settings.allowed(team)
    name = _named(parsed.run)
    if not allowed.job(name):
        field = "job" if parsed.run.project.reuses_numbers else "run"
        raise NotAllowedError(
            f"{field}: team {team} is not allowed to report {name!r:.100}; see [intake.teams.{team}] jobs"
        )
    if allowed.environments is None:
        return
    said = parsed.said.environment
    environments = [written_environment(said, settings.options)] if said else []
    if found is not None:
        environments.append(found.content.environment or "")
    if not environments or not all(map(allowed.environment, environments)):
        raise NotAllowedError(
            f"environment: team {team} is not allowed to report {repr(said)[:60] if said else 'without environment'}; "
            f"see [intake.teams.{team}] environments"
        )


def _named(run: Run) -> str:
    """The name that a team's patterns must match: the job; for other systems, the run."""
    return run.project.name if run.project.reuses_numbers else run.number
