"""Twelve weeks of deployments in a local Jenkins, for the pages of the demo."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from agent.sandbox.hivel import Fault

if TYPE_CHECKING:
    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins

_DAYS: Final = 84
_MINUTE_MS: Final = 60_000
_DAY_MS: Final = 24 * 60 * _MINUTE_MS
# Deployments to production in a week, and the share of them that fails.
_SERVICES: Final = {"billing": (4, 0.12), "search": (7, 0.06), "shop": (9, 0.09)}
_LETS_FAIL: Final = "legacy-crm"
_CHECKS_NOTHING_OUT: Final = "reports"


def play_history(jenkins: LocalJenkins, hivel: LocalHivel) -> None:
    """Add jobs with builds of the last weeks. Hivel refuses the events of one job, another job has no checkout."""
    chance = random.Random(14)
    for service, (per_week, failing) in _SERVICES.items():
        jenkins.add_job(_job(service))
        for day in range(_DAYS, 0, -1):
            # No deployments at the weekend.
            if day % 7 < 2 or chance.random() > per_week / 5:
                continue
            _deploy(jenkins, service, "staging", chance, days_ago=day)
            result = "FAILURE" if chance.random() < failing else "SUCCESS"
            _deploy(jenkins, service, "production", chance, days_ago=day, result=result)
    hivel.fault(Fault(kind="status", status=422, body={"error": "environment is unknown"}, match=_LETS_FAIL))
    for service, repo in ((_LETS_FAIL, "https://git.example.com/sales/crm"), (_CHECKS_NOTHING_OUT, None)):
        jenkins.add_job(_job(service))
        jenkins.add_builds(_job(service), 3, repo=repo, every=_DAY_MS, parameters={"ENVIRONMENT": "production"})


def _job(service: str) -> str:
    return f"platform/{service}/deploy"


def _deploy(
    jenkins: LocalJenkins,
    service: str,
    environment: str,
    chance: random.Random,
    *,
    days_ago: int,
    result: str = "SUCCESS",
) -> None:
    """One build; its oldest commit is some hours or days older."""
    day = (jenkins.now_ms - days_ago * _DAY_MS) // _DAY_MS * _DAY_MS
    hour = {"staging": 9, "production": 13}[environment]
    began = day + (hour * 60 + chance.randrange(180)) * _MINUTE_MS
    repo = f"https://git.example.com/platform/{service}"
    number = jenkins.start_build(_job(service), timestamp=began, repo=repo, parameters={"ENVIRONMENT": environment})
    committed = began - chance.randrange(60, 60 * 72) * _MINUTE_MS
    item = {"commitId": f"{chance.getrandbits(160):040x}", "timestamp": committed, "comment": f"Improve {service}\n"}
    jenkins.update_build(_job(service), number, changeSets=[{"kind": "git", "items": [item]}])
    jenkins.finish_build(_job(service), number, result, duration=chance.randrange(2, 15) * _MINUTE_MS)
