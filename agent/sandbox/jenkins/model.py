"""The model of a Jenkins: folders, jobs and builds, with the properties of its JSON.

A property is either stored as recorded (or set by a test) or, marked :data:`LIVE`, computed from the current
builds and jobs: ``url``, ``builds``, ``lastCompletedBuild``, ``color`` and others.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from agent.sandbox.jenkins.tree import MISSING, Exported, ExportError, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

JsonObject = dict[str, Any]

LIVE: Final[Any] = object()
# `builds` contains at most the newest hundred, `allBuilds` contains all (recorded Jenkins 2.516.2).
NEWEST: Final = 100
# Exported, but not at depth 0.
_HIDDEN: Final = frozenset({"allBuilds"})
_ALWAYS_READABLE: Final = frozenset({"number", "url"})
_COLORS: Final = {
    "SUCCESS": "blue", "UNSTABLE": "yellow", "FAILURE": "red", "NOT_BUILT": "notbuilt", "ABORTED": "aborted",
}  # fmt: skip
_BUILD_REFERENCE: Final = parse("number,url")
_JOB_REFERENCE: Final = parse("name,url,color")


def encode(name: str) -> str:
    """A name as a segment of a URL, the way Jenkins writes it (``hudson.Util.rawEncode``).

    ``jöb + 1`` becomes ``j%C3%B6b%20+%201``, and a branch job's ``feature%2Fx`` becomes ``feature%252Fx``.
    """
    return quote(name, safe="!$&'()*+,-.=@_").replace("~", "%7E")


class _Object(Exported):
    """Properties by name. Live properties come from ``live``."""

    live: dict[str, Callable[[Any], Any]]
    references: dict[str, Any]

    def __init__(self, json_class: str | None, fields: JsonObject) -> None:
        self.json_class = json_class
        self.fields = fields

    def names(self) -> Iterable[str]:
        return self.fields

    def value(self, name: str) -> Any:
        value = self.fields.get(name, MISSING)
        return self.live[name](self) if value is LIVE else value

    def whole(self) -> JsonObject:
        """The answer without ``tree``, at depth 0: other objects have only name, number and URL."""
        out: JsonObject = {} if self.json_class is None else {"_class": self.json_class}
        for name in self.fields:
            if name in _HIDDEN:
                continue
            reference = self.references.get(name)
            out[name] = self.value(name) if reference is None else reference.apply(self.value(name))
        return out

    def adopt(self, recorded: JsonObject) -> None:
        """Load a recorded answer. Properties that can be computed are computed from then on."""
        self.json_class = recorded.get("_class")
        self.fields = {
            name: LIVE if name in self.live else value for name, value in recorded.items() if name != "_class"
        }


class Untyped(Exported):
    """The same object without ``_class``, which Jenkins leaves out if the property has a fixed type.

    Seen in ``previousBuild``, ``nextBuild``, ``runs`` and ``activeConfigurations``.
    """

    json_class = None

    def __init__(self, target: Exported) -> None:
        self._target = target

    def names(self) -> Iterable[str]:
        return self._target.names()

    def value(self, name: str) -> Any:
        return self._target.value(name)


class Build(_Object):
    """One build of a job. ``stages``: the answers of the stage plugins, by the end of their URLs.

    ``listed``: its job lists it; ``found``: its own URL works. Both are false for a moment when a build begins. A
    ``corrupt`` build has a number, but cannot be exported.
    """

    def __init__(self, job: Item, number: int, json_class: str | None, fields: JsonObject) -> None:
        super().__init__(json_class, fields)
        self.job = job
        self.number = number
        self.stages: dict[str, JsonObject] = {}
        self.listed = self.found = True
        self.corrupt = False

    def value(self, name: str) -> Any:
        if self.corrupt and name not in _ALWAYS_READABLE:
            raise ExportError(f"{self.url} cannot be read")
        return super().value(name)

    @property
    def building(self) -> bool:
        return bool(self.fields.get("building"))

    @property
    def executing(self) -> bool:
        """Whether it occupies an executor, also while it is finished but still cleaning up."""
        return bool(self.fields.get("building") or self.fields.get("inProgress"))

    @property
    def result(self) -> str | None:
        result: str | None = self.fields.get("result")
        return result

    @property
    def url(self) -> str:
        return f"{self.job.url}{self.number}/"

    def _full_display_name(self) -> str:
        return f"{self.job.full_display_name} {self.fields.get('displayName', f'#{self.number}')}"

    def _neighbour(self, step: int) -> Untyped | None:
        builds = self.job.shown()
        index = bisect_left([build.number for build in builds], self.number) + step
        return Untyped(builds[index]) if 0 <= index < len(builds) else None


Build.live = {
    "url": lambda build: build.url,
    "fullDisplayName": Build._full_display_name,
    "previousBuild": lambda build: build._neighbour(-1),
    "nextBuild": lambda build: build._neighbour(1),
}
Build.references = dict.fromkeys(("previousBuild", "nextBuild", "runs"), _BUILD_REFERENCE)


class Item(_Object):
    """The controller itself, a folder, a multibranch project, a job or a configuration of a matrix job.

    ``children``: the items below ``/job/``. ``cells``: the configurations of a matrix job, which are directly below it
    and not listed in ``jobs``. ``builds``: in ascending order of the numbers. ``keep``: how many builds are not
    discarded. ``hidden``: the user cannot see the item and everything below it.
    """

    def __init__(self, json_class: str, fields: JsonObject) -> None:
        super().__init__(json_class, fields)
        self.parent: Item | None = None
        self.name = ""
        self.full_name = ""
        self.url = ""
        self.children: dict[str, Item] = {}
        self.cells: dict[str, Item] = {}
        self.builds: dict[int, Build] = {}
        self.keep: int | None = None
        self.hidden = False

    # -- position ------------------------------------------------------------------------------------------

    def place(self, parent: Item, name: str, *, cell: bool = False) -> None:
        """Move it below another item, with everything below it."""
        self.parent, self.name = parent, name
        self.full_name = f"{parent.full_name}/{name}" if parent.full_name else name
        self.url = f"{parent.url}{'' if cell else 'job/'}{encode(name)}/"
        (parent.cells if cell else parent.children)[name] = self
        for child_name, child in list(self.children.items()):
            child.place(self, child_name)
        for cell_name, child in list(self.cells.items()):
            child.place(self, cell_name, cell=True)

    def remove(self) -> None:
        """Remove it from its parent."""
        if self.parent is not None:
            self.parent.children.pop(self.name, None)
            self.parent.cells.pop(self.name, None)

    def below(self, name: str) -> Item | None:
        """The item directly below this one."""
        return self.children.get(name) or self.cells.get(name)

    def find(self, full_name: str) -> Item | None:
        """The item with a full name, relative to this one. Names contain no slash: that of a branch is encoded."""
        item: Item | None = self
        for name in full_name.split("/"):
            if item is None:
                break
            item = item.below(name)
        return item

    def descend(self, segments: Sequence[str]) -> tuple[Item | None, list[str]]:
        """The item that the segments of a URL name, and the remaining segments."""
        item, rest = self, list(segments)
        while len(rest) > 1 and rest[0] == "job":
            child = item.children.get(unquote(rest[1]))
            if child is None or child.hidden:
                return None, rest
            item, rest = child, rest[2:]
        if rest and unquote(rest[0]) in item.cells:
            return item.cells[unquote(rest[0])], rest[1:]
        return item, rest

    def everything(self) -> Iterator[Item]:
        """This item and all below it."""
        waiting = [self]
        while waiting:
            item = waiting.pop()
            yield item
            waiting += reversed([*item.children.values(), *item.cells.values()])

    # -- content -------------------------------------------------------------------------------------------

    @property
    def full_display_name(self) -> str:
        shown: str = self.fields.get("displayName", self.name)
        if self.parent is None or self.parent.parent is None:
            return shown
        return f"{self.parent.full_display_name} » {shown}"

    @property
    def visible(self) -> bool:
        """Whether neither it nor an item above it is hidden."""
        return not self.hidden and (self.parent is None or self.parent.visible)

    def shown(self) -> list[Build]:
        """The builds that the job lists, oldest first."""
        return [build for build in self.builds.values() if build.listed]

    def discard(self) -> None:
        """Discard old builds, as Jenkins does after a build, but never the last successful one."""
        if self.keep is None:
            return
        kept = {PERMALINKS[name](self) for name in ("lastStableBuild", "lastSuccessfulBuild")}
        for build in self.shown()[: -self.keep or None]:
            if not build.building and build not in kept:
                del self.builds[build.number]

    def newest(self, fits: Callable[[Build], bool] = lambda _: True) -> Build | None:
        """The newest build that meets the condition."""
        return next((build for build in reversed(self.builds.values()) if build.listed and fits(build)), None)

    def _jobs(self) -> list[Item]:
        # Folders sort like Java strings, the controller itself ignores case.
        key = str.lower if self.parent is None else str
        children = [self.children[name] for name in sorted(self.children, key=key)]
        return [child for child in children if not child.hidden]

    def _color(self) -> str:
        if self.fields.get("disabled"):
            return "disabled"
        newest = self.newest()
        done = self.newest(lambda build: not build.building)
        color = _COLORS.get(done.result or "", "notbuilt") if done else "notbuilt"
        return f"{color}_anime" if newest is not None and newest.building else color


def _completed(*results: str) -> Callable[[Item], Build | None]:
    return lambda item: item.newest(lambda build: not build.building and build.result in results)


PERMALINKS: Final[dict[str, Callable[[Item], Build | None]]] = {
    "lastBuild": lambda item: item.newest(),
    "lastCompletedBuild": lambda item: item.newest(lambda build: not build.building),
    "lastFailedBuild": _completed("FAILURE"),
    "lastStableBuild": _completed("SUCCESS"),
    "lastSuccessfulBuild": _completed("SUCCESS", "UNSTABLE"),
    "lastUnstableBuild": _completed("UNSTABLE"),
    "lastUnsuccessfulBuild": _completed("UNSTABLE", "FAILURE", "NOT_BUILT", "ABORTED"),
}

Item.live = {
    **PERMALINKS,
    "firstBuild": lambda item: next(iter(item.shown()), None),
    "builds": lambda item: list(islice((build for build in reversed(item.builds.values()) if build.listed), NEWEST)),
    "allBuilds": lambda item: item.shown()[::-1],
    "name": lambda item: item.name,
    "fullName": lambda item: item.full_name,
    "fullDisplayName": lambda item: item.full_display_name,
    "url": lambda item: item.url,
    "color": Item._color,
    "jobs": Item._jobs,
}
Item.references = {
    **dict.fromkeys((*PERMALINKS, "firstBuild", "builds"), _BUILD_REFERENCE),
    **dict.fromkeys(("jobs", "activeConfigurations"), _JOB_REFERENCE),
}
