"""What others build on, read from the code: the fields of every ``--json`` output, and the keys of the configuration.

``python -m tests.unit.surface`` writes the files in ``tests/data/stable``. Do that for a new version, and look at the
difference: lines may be added, none may go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from agent import __version__
from agent.cli.queue import DiscardView
from agent.cli.replay import ReplayView
from agent.config import tables
from agent.daemon.monitoring import Readiness
from agent.daemon.once import OnceReport
from agent.inspect.asked import Asked
from agent.inspect.audit import Audit
from agent.inspect.compare import Comparison
from agent.inspect.dora.figures import Dora
from agent.inspect.explain import Explanation
from agent.inspect.findings import Finding
from agent.inspect.hook_preview import HookPreview
from agent.inspect.preview import Preview
from agent.inspect.queue import DetailView, EventView
from agent.inspect.status import DeliveryStatus, Status
from agent.inspect.webhooks import DeliveryView
from agent.model.build import Build
from agent.model.fact import Report
from agent.model.report import FIELDS
from agent.notify.message import Message
from agent.outbox.values import Counts
from agent.sources.jenkins.backfill import BackfillReport
from agent.sources.jenkins.storing import PollReport

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[1] / "data" / "stable"

JSON: dict[str, Any] = {
    "check --json": list[Finding],
    "once --json": OnceReport,
    "status --json": Status,
    "preview --json": Preview,
    "preview --compare --json": Comparison,
    "explain --json": Explanation,
    "audit --json": Audit,
    "backfill --json": BackfillReport,
    "dora --json": Dora,
    "queue list --json": list[EventView],
    "queue show --json": DetailView,
    "queue discard --json": list[DiscardView],
    "replay --json": list[ReplayView],
    "webhook test --json": HookPreview,
    "webhook list --json": list[DeliveryView],
    "/readyz": Readiness,
    "/jenkins": list[Asked],
    "[notify]": Message,
}
# What the agent read or was told, as it keeps it: docs/compatibility.md makes no promise about it.
INTERNAL = (Build, Report)
# Types that some modules import for type checkers alone.
NAMES = {each.__name__: each for each in (PollReport, DeliveryStatus, Counts)}
KINDS = {NoneType: "null", bool: "true or false", int: "number", float: "number", str: "text", Any: "anything"}

Fields = dict[str, list[str]]  # by path, such as `controllers[].asked.interval_ms`: what it can be
Surface = dict[str, Fields]


def fields(of: object) -> Fields:
    """The paths of a type, each with the kinds and the words that can be there."""
    found: Fields = {}
    for path, word in _walk(of, ""):
        words = found.setdefault(path, [])
        if word not in words:
            words.append(word)
    return {path: sorted(words) for path, words in found.items() if path}


def _walk(of: Any, path: str) -> Iterator[tuple[str, str]]:
    origin, arguments = get_origin(of), get_args(of)
    if origin in (Union, UnionType):
        for each in arguments:
            yield from _walk(each, path)
    elif origin is Literal:
        yield from ((path, f'"{value}"') for value in arguments)
    elif origin in (list, tuple, deque, Sequence):
        yield path, "list"
        yield from _walk(arguments[0], f"{path}[]")
    elif origin in (dict, Mapping):
        yield path, "object"
        yield from _walk(arguments[1], f"{path}.*".lstrip("."))
    elif of in KINDS:
        yield path, KINDS[of]
    elif issubclass(of, Enum):
        yield from ((path, f'"{value.value}"') for value in of)
    else:
        yield path, "object"
        yield from () if of in INTERNAL else _walk_fields(of, path)


def _walk_fields(of: type, path: str) -> Iterator[tuple[str, str]]:
    assert is_dataclass(of) or issubclass(of, msgspec.Struct), of
    for name, hint in get_type_hints(of, localns=NAMES).items():
        if not name.startswith("_"):
            yield from _walk(hint, f"{path}.{name}".lstrip("."))


def keys(value: object, path: str = "") -> Iterator[str]:
    """The paths in a JSON document."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield f"{path}.{name}".lstrip(".")
            yield from keys(each, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for each in value:
            yield f"{path}[]"
            yield from keys(each, f"{path}[]")


def required(of: type, path: str = "") -> Iterator[str]:
    """The keys that a configuration must have."""
    for field in msgspec.structs.fields(of):
        name = f"{path}.{field.name}".lstrip(".")
        if field.required:
            yield name
        for each in (field.type, *get_args(field.type)):
            if isinstance(each, type) and issubclass(each, msgspec.Struct):
                yield from required(each, f"{name}[]" if get_origin(field.type) is list else name)


SURFACES: dict[str, Surface] = {
    "json.txt": {section: fields(of) for section, of in JSON.items()},
    "configuration.txt": {"config.toml": fields(tables.File)},
    "report.txt": {"report": {name: [] for name in FIELDS}},
}


def read(name: str) -> Surface:
    """What a file in ``tests/data/stable`` holds."""
    surface: Surface = {}
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            section = surface.setdefault(line[3:], {})
        elif line and not line.startswith("#"):
            path, _, words = line.partition(": ")
            section[path] = words.split(" | ") if words else []
    return surface


def version(name: str) -> str:
    """The version whose surface the file holds."""
    return (FOLDER / name).read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def write(name: str, surface: Surface) -> None:
    """Replace a file in ``tests/data/stable``."""
    lines = [f"# {__version__}"]
    for section, paths in surface.items():
        lines += ["", f"== {section}", *(f"{path}: {' | '.join(words)}".rstrip(": ") for path, words in paths.items())]
    (FOLDER / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name, surface in SURFACES.items():
        write(name, surface)
