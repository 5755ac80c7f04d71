"""Writes ``docs/webhooks-reference.md`` from ``tests/data/webhooks``: what each body becomes.

``python -m tests.unit.webhooks_reference`` writes the page. A test fails while it is out of date.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.config.rules import Options
from agent.deployments.content import of_report
from agent.model.deployment import event_of
from agent.model.ids import part_deployment_id
from agent.model.status import WORDS, Provider, Status, known_words, normalise
from agent.model.times import rfc3339
from agent.sources.reports.parse import parse
from agent.sources.webhooks.values import Ended, Ignored, Started
from tests.unit.webhook_cases import CASES, PLATFORMS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.model.event import DeploymentEvent
    from tests.unit.webhook_cases import Case

PAGE = Path(__file__).parents[2] / "docs" / "webhooks-reference.md"
NAMES = {
    "github": "GitHub",
    "gitlab": "GitLab",
    "argocd": "Argo CD",
    "argo_rollouts": "Argo Rollouts",
    "circleci": "CircleCI",
    "azure_devops": "Azure DevOps",
}
PROVIDERS = {
    "GitHub": Provider.GITHUB_ACTIONS,
    "GitLab": Provider.GITLAB_CI,
    "Argo Rollouts": Provider.ARGO_ROLLOUTS,
    "CircleCI": Provider.CIRCLECI,
    "Azure DevOps": Provider.AZURE_DEVOPS,
}
HEAD = """\
# Webhooks: what each body becomes

`python -m tests.unit.webhooks_reference` writes this page from the bodies and expectations in
[tests/data/webhooks](../tests/data/webhooks/INDEX.md), which the tests check. [Webhooks](webhooks.md) explains how to
set up each platform.

*Platform's word* is what the body says about the result. The *result* of a delivery is one of these:

- *sent*, with the `status` that Hivel gets;
- *kept*: the start of a deployment, for the `start_time` of its end;
- *ignored*: nothing ended, it is not wanted, or the event lacks what Hivel requires and no rule gives it. The answer
  is 200 with the reason;
- *refused*: the body has another shape. The answer is 400 and names the field.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for platform in (name for name in NAMES if name in PLATFORMS):
        found = [case for case in CASES if case.platform == platform]
        parts += [f"## {NAMES[platform]}\n", "\n".join(_summary(found)) + "\n"]
        parts += ["\n".join(_fields(case)) + "\n" for case in found if case.paths]
    return "\n".join([*parts, "\n".join(_words())]) + "\n"


def _words() -> Iterator[str]:
    """The words of the platforms by the status that Hivel gets."""
    yield "## Words of the platforms"
    yield ""
    yield "Case does not matter. Words with * are in section 6 of Hivel's page; `agent/model/status.py` has the"
    yield "sources of the others. A word that is not in this table is sent as `unknown`."
    yield ""
    yield "| Platform | `success` | `failed` | `canceled` | `unknown` |"
    yield "|---|---|---|---|---|"
    for name, provider in PROVIDERS.items():
        words = [
            word for word in known_words(provider) if word in WORDS[provider] or word not in {*Status, "cancelled"}
        ]
        cells = (
            ", ".join(f"`{word}`{'*' if word in WORDS[provider] else ''}" for word in words
                      if normalise(provider, word) is status)
            for status in Status
        )  # fmt: skip
        yield f"| {name} | {' | '.join(cells)} |"
    yield "| Argo CD | phase `Succeeded` with health `Healthy`* | phase `Failed`*, `Error`*; health `Degraded`* | | |"


def _summary(cases: list[Case]) -> Iterator[str]:
    yield "| Event | Platform's word | Case | Result |"
    yield "|---|---|---|---|"
    for case in cases:
        yield f"| {_code(case.event)} | {_code(case.word)} | {_cell(case.what)} | {_result(case)} |"


def _result(case: Case) -> str:
    match case.meaning:
        case Ended():
            return f"sent: `{event_of_case(case).status}`"
        case Started():
            return "kept"
        case Ignored(reason):
            return f"ignored: {_cell(reason)}"
    return f"refused: {_cell(case.error)}"


def _fields(case: Case) -> Iterator[str]:
    """Field by field: what Hivel gets, and where it is in the body."""
    link = f"[{case.file}](../tests/data/webhooks/{case.platform}/{case.file})"
    yield f"### {NAMES[case.platform]}: {case.what}"
    yield ""
    yield f"Body: {link}, event {_code(case.event)}."
    yield ""
    event = event_of_case(case)
    yield "| Field | What Hivel gets | Source |"
    yield "|---|---|---|"
    for name, value in msgspec.to_builtins(event).items():
        if name != "event_type":
            yield f"| `{name}` | {_code(str(value))} | {_cell(paths(case)[name])} |"


def paths(case: Case) -> dict[str, str]:
    """The paths of the case, and for fields that it does not name those of the first case of the event."""
    first = next(each for each in CASES if (each.platform, each.event) == (case.platform, case.event) and each.paths)
    return first.paths | case.paths


def event_of_case(case: Case) -> DeploymentEvent:
    """The event that Hivel gets.

    If the start comes in a delivery of its own only, it is taken to have come a minute before the end.
    """
    assert isinstance(case.meaning, Ended)
    report = dict(case.meaning.report)
    if case.meaning.start and "start_time" not in report:
        report["start_time"] = rfc3339(_ms(case, report) - 60_000)
    parsed = parse(report, ())
    ended = parsed.said.ended_at or case.received_at
    started = ended if parsed.said.started_at is None else parsed.said.started_at
    content, _ = of_report(parsed.said, Options(), (started, ended))
    return event_of(part_deployment_id(parsed.run.number, content.environment or ""), content)


def _ms(case: Case, report: dict[str, str]) -> int:
    return parse(report, ()).said.ended_at or case.received_at


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
