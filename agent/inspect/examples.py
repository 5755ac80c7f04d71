"""``rules test``: whether the rules give the expected deployments for the examples of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.inspect.derived import of_build, rules_of
from agent.model.build import Build, Checkout, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.config.settings import Example, Settings
    from agent.inspect.derived import DerivedView

# Any time works: no rule depends on it.
_STARTED_AT, _ENDED_AT = 1_700_000_000_000, 1_700_000_060_000
_CONTROLLER, _NUMBER = "example", 1
_COMMIT = "0123456789abcdef0123456789abcdef01234567"


class ExampleResult(msgspec.Struct, frozen=True):
    """One example in ``rules test --json``. ``problems``: differences from the expected deployments; empty: it passes.

    ``deployments``: the fields of each derived deployment, or ``reason`` if it has no valid event.
    """

    example: str
    job: str
    passes: bool
    problems: list[str]
    deployments: list[dict[str, str]]


def run_examples(settings: Settings) -> list[ExampleResult]:
    """Derive the deployments of each example with the rules of the configuration. Reads no other data."""
    return [_run(example, settings) for example in settings.examples]


def _run(example: Example, settings: Settings) -> ExampleResult:
    found = [_fields(view) for view in of_build(_build(example), rules_of(settings))]
    problems = _differences(example.expect, found)
    return ExampleResult(example.place, example.job, not problems, problems, found)


def _build(example: Example) -> Build:
    checkouts: tuple[Checkout, ...] = ()
    if example.repository is not None:
        branches = () if example.branch is None else (f"refs/remotes/origin/{example.branch}",)
        checkouts = (Checkout((example.repository,), branches, _COMMIT),)
    return Build(
        controller=_CONTROLLER,
        job=example.job,
        number=_NUMBER,
        result=example.result,
        started_at=_STARTED_AT,
        ended_at=_ENDED_AT,
        parameters=dict(example.parameters),
        checkouts=checkouts,
        stages=tuple(Stage(name, "SUCCESS", _STARTED_AT, _ENDED_AT) for name in example.stages),
    )


def _fields(view: DerivedView) -> dict[str, str]:
    if view.event is None:
        return {"reason": view.reason or "cannot create event"}
    return {name: str(value) for name, value in msgspec.to_builtins(view.event).items()}


def _differences(expected: Sequence[Mapping[str, str]], found: Sequence[Mapping[str, str]]) -> list[str]:
    """The differences. Each expected deployment is compared with the most similar one."""
    left, problems = list(found), []
    for number, wanted in enumerate(expected, 1):
        if not left:
            problems.append(f"deployment {number} is missing: {_text(wanted)}")
            continue
        best = min(left, key=lambda one: len(_wrong(wanted, one)))
        left.remove(best)
        problems += [
            f"deployment {number}: {name} is {_quoted(best.get(name))}, expected {_quoted(wanted[name])}"
            for name in _wrong(wanted, best)
        ]
    return problems + [f"one deployment too many: {_text(_known(each))}" for each in left]


def _wrong(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    return [name for name, value in wanted.items() if found.get(name) != value]


def _known(found: Mapping[str, str]) -> dict[str, str]:
    names = ("reason", "status", "environment", "repo_url", "branch")
    return {name: found[name] for name in names if name in found}


def _text(fields: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {_quoted(value)}" for name, value in fields.items()) or "any"


def _quoted(value: str | None) -> str:
    return "missing" if value is None else f'"{value}"'
