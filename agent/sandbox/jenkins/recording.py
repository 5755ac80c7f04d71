"""Reading a folder of recorded answers into a model.

The folder contains ``jobs/*.json`` (``/job/…/api/json``) and ``builds/*.json`` (``/job/…/<number>/api/json``). It can
contain ``wfapi/<build>-describe.json`` and ``pipeline-overview/<build>-tree.json`` with the names of the build
files, ``tree/*-full*.json`` (answers of jobs with complete builds) and ``root.json``.

References between jobs and builds are computed from the existing files. A build that a job only lists by number
and URL is left out. ``nextBuildNumber`` stays as recorded, so such a build looks discarded. A build that is only
in ``tree/*-full*.json`` has only the fields that were requested there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.sandbox.jenkins import templates
from agent.sandbox.jenkins.model import LIVE, Build, Item, JsonObject, Untyped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable
    from pathlib import Path

RECORDED_ROOT: Final = "http://127.0.0.1:8080/"
STAGES_WFAPI: Final = ("wfapi", "describe")
STAGES_OVERVIEW: Final = ("pipeline-overview", "tree")
_CONFIGURATION: Final = "hudson.matrix.MatrixConfiguration"


def load(folder: Path | Traversable, root_url: str) -> Item:
    """The controller with all jobs and builds. Their URLs begin with ``root_url``."""
    root = templates.root(root_url)
    for _, recorded in _read(folder, ".", "root.json", root_url):
        root.adopt(recorded)
    jobs = [recorded for _, recorded in _read(folder, "jobs", ".json", root_url)]
    for recorded in sorted(jobs, key=lambda job: str(job["fullName"]).count("/")):
        _add_item(root, recorded)
    builds = {name: _add_build(root, recorded) for name, recorded in _read(folder, "builds", ".json", root_url)}
    _add_stages(folder, builds, root_url)
    for _, recorded in _read(folder, "tree", ".json", root_url):
        for entry in recorded.get("allBuilds", ()):
            # An answer with numbers only contains no data about its builds.
            if "timestamp" in entry:
                _add_build(root, entry)
    for item in root.everything():
        item.builds = dict(sorted(item.builds.items()))
        _link(root, item)
    return root


def _read(folder: Path | Traversable, name: str, ending: str, root_url: str) -> Iterator[tuple[str, JsonObject]]:
    directory = folder if name == "." else folder.joinpath(name)
    if not directory.is_dir():
        return
    for file in sorted(directory.iterdir(), key=lambda file: file.name):
        if file.name.endswith(ending):
            text = file.read_text(encoding="utf-8").replace(f'"{RECORDED_ROOT}', f'"{root_url}')
            answer = msgspec.json.decode(text)
            if isinstance(answer, dict):
                yield file.name.removesuffix(ending), answer


def _add_item(root: Item, recorded: JsonObject) -> None:
    *above, name = str(recorded["fullName"]).split("/")
    parent = root
    for part in above:
        parent = parent.below(part) or templates.folder(templates.FolderKind.FOLDER, parent, part)
    item = Item("", {})
    item.adopt(recorded)
    if "builds" in recorded:
        item.fields["allBuilds"] = LIVE
    item.place(parent, name, cell=item.json_class == _CONFIGURATION)


def _segments(root: Item, url: str) -> list[str]:
    return url.removeprefix(root.url).rstrip("/").split("/")


def _add_build(root: Item, recorded: JsonObject) -> Build | None:
    item, rest = root.descend(_segments(root, recorded["url"]))
    if item is None or len(rest) != 1 or not rest[0].isdecimal():
        return None  # its job is not in the folder
    number = int(rest[0])
    if number not in item.builds:
        build = Build(item, number, None, {})
        build.adopt(recorded)
        item.builds[number] = build
    return item.builds[number]


def _add_stages(folder: Path | Traversable, builds: dict[str, Build | None], root_url: str) -> None:
    for plugin, page in (STAGES_WFAPI, STAGES_OVERVIEW):
        for name, answer in _read(folder, plugin, f"-{page}.json", root_url):
            build = builds.get(name)
            if build is not None:
                build.stages[f"{plugin}/{page}"] = answer


def _link(root: Item, item: Item) -> None:
    """Add the matrix configurations and their builds to the matrix job that refers to them."""
    if "activeConfigurations" in item.fields:
        references = item.fields["activeConfigurations"]
        item.fields["activeConfigurations"] = [_target(root, reference) for reference in references]
    for build in item.builds.values():
        if "runs" in build.fields:
            build.fields["runs"] = [_target(root, reference) for reference in build.fields["runs"]]


def _target(root: Item, reference: JsonObject) -> Any:
    item, rest = root.descend(_segments(root, reference["url"]))
    if item is None or not rest:
        return Untyped(item) if item is not None else reference
    build = item.builds.get(int(rest[0])) if rest[0].isdecimal() else None
    return Untyped(build) if build is not None else reference
