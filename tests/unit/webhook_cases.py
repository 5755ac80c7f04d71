"""The bodies of ``tests/data/webhooks`` with what they mean, field by field: ``<platform>/cases.toml``."""

from __future__ import annotations

import copy
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from agent.config.rules import Pattern
from agent.config.settings import WebhookRule, WebhookSettings
from agent.model.part import Part
from agent.model.times import parse_moment
from agent.sources.webhooks.values import Delivery, Ended, Ignored, Started

if TYPE_CHECKING:
    from agent.config.settings import Platform
    from agent.sources.webhooks.values import Meaning

FOLDER = Path(__file__).parents[1] / "data" / "webhooks"
# Platforms that name the event in a header; the others name it in the body.
WITH_HEADER = ("github", "gitlab", "circleci")


@dataclass(frozen=True)
class Case:
    """A body and what it means: ``meaning``, or ``error`` for a body of another shape.

    ``word``: the platform's words for the result. ``paths``: where the fields of the event are in the body.
    """

    platform: Platform
    what: str
    event: str
    word: str
    file: str
    body: Any
    received_at: int
    hook: WebhookSettings
    meaning: Meaning | None
    error: str = ""
    paths: dict[str, str] = field(default_factory=dict)

    @property
    def delivery(self) -> Delivery:
        return delivery(self.platform, self.body, self.received_at, self.event)

    def __str__(self) -> str:
        return f"{self.platform}: {self.what}"


def delivery(platform: str, body: Any, received_at: int, event: str = "") -> Delivery:
    """A delivery whose signature was checked."""
    header = event if platform in WITH_HEADER else ""
    return Delivery(event=header, id="", body=Part(body, ""), received_at=received_at)


def cases(platform: Platform) -> list[Case]:
    """All cases of a platform."""
    table = tomllib.loads((FOLDER / platform / "cases.toml").read_text(encoding="utf-8"))
    reports: dict[str, dict[str, str]] = {}
    found = []
    for each in table["case"]:
        if "report" in each:
            reports.setdefault(each["body"], each["report"])
        found.append(_case(platform, table, each, reports))
    return found


def hook(platform: Platform, table: dict[str, Any]) -> WebhookSettings:
    """The settings of a webhook."""
    rules = tuple(
        WebhookRule(
            Pattern.parse(rule.get("project", "**")),
            Pattern.parse(rule["name"]),
            rule["environment"],
            rule.get("repo_url", ""),
            rule.get("branch", ""),
        )
        for rule in table.get("rules", [])
    )
    lists = {
        name: tuple(map(Pattern.parse, table[name])) if name in table else None for name in ("projects", "environments")
    }
    rest = {name: value for name, value in table.items() if name not in {"rules", *lists}}
    return WebhookSettings(**{"name": platform, "platform": platform, "secrets": (), "rules": rules, **lists, **rest})


def _case(platform: Platform, table: dict[str, Any], each: dict[str, Any], reports: dict[str, dict[str, str]]) -> Case:
    body = json.loads((FOLDER / platform / each["body"]).read_text(encoding="utf-8"))
    return Case(
        platform=platform,
        what=each["what"],
        event=each.get("event", table.get("event", "")),
        word=each.get("word", ""),
        file=each["body"],
        body=changed(body, each.get("change", {}), each.get("remove", [])),
        received_at=parse_moment(each.get("received_at", table["received_at"])),
        hook=hook(platform, each.get("hook", table.get("hook", {}))),
        meaning=_meaning(each, reports),
        error=each.get("error", ""),
        paths=each.get("paths", {}),
    )


def _meaning(each: dict[str, Any], reports: dict[str, dict[str, str]]) -> Meaning | None:
    if "ignored" in each:
        return Ignored(each["ignored"], lacks=each.get("lacks", False))
    if "started" in each:
        return Started(each["started"]["key"], parse_moment(each["started"]["at"]))
    if "error" in each:
        return None
    report = each["report"] if "report" in each else reports[each.get("like", each["body"])] | each["differs"]
    return Ended({name: value for name, value in report.items() if value}, each.get("start", ""))


def changed(body: Any, change: dict[str, Any], remove: list[str]) -> Any:
    """The body with other values at some paths, and without some others. Members of lists are numbers in the path."""
    body = copy.deepcopy(body)
    for path, value in change.items():
        place, last = _place(body, path)
        place[last] = value
    for path in remove:
        place, last = _place(body, path)
        del place[last]
    return body


def _place(body: Any, path: str) -> tuple[Any, Any]:
    *parents, last = path.split(".")
    for name in parents:
        body = body[int(name)] if isinstance(body, list) else body[name]
    return body, int(last) if isinstance(body, list) else last


PLATFORMS = cast("list[Platform]", sorted(file.parent.name for file in FOLDER.glob("*/cases.toml")))
CASES = [case for platform in PLATFORMS for case in cases(platform)]
