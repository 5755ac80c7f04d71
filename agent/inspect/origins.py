"""The source of each field of a stored deployment, and the values of other sources.

Sources are not stored. They are derived from the facts with the current rules, as long as the facts are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agent.deployments.derive import derive
from agent.deployments.plan import kept_builds
from agent.inspect.derived import event_view
from agent.inspect.queue import part_of
from agent.inspect.words import WordView, told, words_of
from agent.model.event import DeploymentEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.deployments.derive import Derived, Part, Rules
    from agent.model.deployment import Content, Deployment
    from agent.outbox.values import RunState

_NAMES = tuple(field.name for field in msgspec.structs.fields(DeploymentEvent))


class FieldView(msgspec.Struct, frozen=True):
    """A field of the event. ``origin``: the source of its value, None if the facts are deleted.

    ``now``: the value by the current rules if it differs; ``origin`` is then the source of this value. ``words``: the
    values of all sources, if there is more than one.
    """

    name: str
    value: Any
    origin: str | None
    now: Any
    words: list[WordView]


def fields_of(row: Deployment, state: RunState, rules: Rules) -> list[FieldView]:
    """The fields of a deployment's event in the order of the event, without optional ones that have no value.

    ``state``: of the deployment's run.
    """
    values = _values(row.deployment_id or "", row.content)
    derived = _derived(state, rules)
    part = None if derived is None else part_of(row, derived)
    if derived is None or part is None or part.without_body:
        return [FieldView(name, value, None, None, []) for name, value in values.items()]
    known = _values(row.deployment_id or "", part.content)
    return _with_origins(values, known, part, words_of(told(part, state.facts, derived, rules)))


def _with_origins(
    values: Mapping[str, Any], known: Mapping[str, Any], part: Part, words: Mapping[str, list[WordView]]
) -> list[FieldView]:
    return [
        FieldView(
            name,
            values.get(name),
            _origin(name, part),
            known.get(name) if known.get(name) != values.get(name) else None,
            words.get(name, []),
        )
        for name in _NAMES
        if name in values or name in known
    ]


def _origin(name: str, part: Part) -> str | None:
    return "the build's key" if name == "deployment_id" else part.origins.get(name)


def _values(deployment_id: str, content: Content) -> dict[str, Any]:
    """The fields of the event or, without a valid event, the known ones."""
    event = event_view(deployment_id, content)
    if event is not None:
        fields: dict[str, Any] = msgspec.to_builtins(event)
        return fields
    known = msgspec.to_builtins(content)
    return {"deployment_id": deployment_id} | {name: known[name] for name in _NAMES if known.get(name)}


def _derived(state: RunState, rules: Rules) -> Derived | None:
    try:
        return derive(state.facts, rules, kept_builds(state.deployments))
    except Exception:  # noqa: BLE001 - the run was set aside after this error; the stored data can still be shown
        return None
