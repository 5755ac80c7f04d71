"""Builds as JSON of Jenkins' API, and their reduction to what is kept.

Shapes as recorded from Jenkins 2.516: ``{"number": 7, "url": "…", "result": "SUCCESS", "building": false, "inProgress":
false, "timestamp": ms, "duration": ms, "actions": [{"_class": "…", …}, {}, …]}``.
"""

from __future__ import annotations

import enum
import re
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import unquote

import msgspec

from agent.model.build import PARAMETERS_TEXT, TOO_LONG, Build, ChangeSet, Checkout, Revision, UpstreamBuild
from agent.model.git import without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# The requested fields of a build, in the syntax of `tree=`. Jenkins omits fields that a build does not have. Freestyle
# builds have one change set, pipelines a list. Git lists the oldest commits first, so a smaller range would lose the
# newest; the git plugin itself keeps only the newest 1024 commits of a build.
_CHANGES = "[kind,revisions[module,revision],items[commitId,timestamp,comment]{0,1024}]"
BUILD_TREE = (
    "number,url,result,building,inProgress,timestamp,duration,"
    "actions[_class,parameters[_class,name,value,jobName,number],"
    "causes[_class,shortDescription,upstreamProject,upstreamBuild,data[mergeRequestIid,sourceBranch]],"
    "remoteUrls,lastBuiltRevision[SHA1,branch[name]],mercurialNodeName,mercurialRevisionBranch,"
    "libraries[name,version],revision[hash,pullHash,origin[hash],head[name,target[name]]]],"
    f"changeSets{_CHANGES},changeSet{_CHANGES}"
)

# Jenkins' numbers are Java ints; its times are longs, which is also the limit of SQLite's integers.
BuildNumber = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_LONGEST = 2**62

# How many commits are kept, and how much of each message: merges are recognised by first and last lines.
CHANGES = 200
_MESSAGE_HEAD, _MESSAGE_TAIL = 300, 197
MESSAGE_LENGTH = _MESSAGE_HEAD + _MESSAGE_TAIL + len("…\n…")

# Characters kept of a build: of any single text, and of its checkouts. No text in an event is longer than 255, so
# shortening never produces a wrong event.
LONGEST_TEXT = 2_000
_CHECKOUTS_TEXT = 64_000
_FEW = 200  # limit for libraries and causes
# Credentials in text parameters, which must not be stored.
_URL_CREDENTIALS = re.compile(r"(\w://)[^\s/@:]*:[^\s/@]*@")
# A build number in a cause's text, with the digit grouping of the request's locale: #1234, #1,234, #1 234.
_IN_WORDS = re.compile("#[0-9]+(?:[,.'\u2019\u00a0\u202f][0-9]{2,3})*")
_DIGITS = 10
_SVN_LAYOUT = re.compile(
    r"(?P<root>.+?)/(?:(?P<trunk>trunk)|branches/(?P<branch>[^/]+)|tags/(?P<tag>[^/]+))(?:/.*)?", re.DOTALL
)

T = TypeVar("T")


class Phase(enum.Enum):
    """The progress of a build. ``result`` alone is not enough: it may be set early and get worse."""

    RUNNING = "running"
    SETTLING = "settling"  # no longer building, but result or duration are not set yet
    FINAL = "final"


class RawAction(msgspec.Struct):
    """One entry of ``actions``. Plugins use the same field names for different things, hence Any."""

    cls: str = msgspec.field(default="", name="_class")
    parameters: Any = None
    causes: Any = None
    remote_urls: Any = msgspec.field(default=None, name="remoteUrls")
    last_built_revision: Any = msgspec.field(default=None, name="lastBuiltRevision")
    hg_node: Any = msgspec.field(default=None, name="mercurialNodeName")
    hg_branch: Any = msgspec.field(default=None, name="mercurialRevisionBranch")
    libraries: Any = None
    revision: Any = None


class RawBuild(msgspec.Struct):
    """One element of ``builds[…]``, or one ``/job/…/7/api/json``."""

    number: BuildNumber
    url: str = ""
    result: str | None = None
    building: bool = False
    in_progress: bool | None = msgspec.field(default=None, name="inProgress")  # missing before Jenkins 2.375
    timestamp: int = 0
    duration: int = 0
    actions: list[RawAction | None] = []
    change_sets: Any = msgspec.field(default=None, name="changeSets")
    change_set: Any = msgspec.field(default=None, name="changeSet")

    def __post_init__(self) -> None:
        """Limit absurd times to what can be stored; making the event will refuse them."""
        self.timestamp = max(-_LONGEST, min(self.timestamp, _LONGEST))
        self.duration = max(-_LONGEST, min(self.duration, _LONGEST))

    @property
    def phase(self) -> Phase:
        """Final if building, inProgress, result and duration agree."""
        if self.building or self.in_progress:
            return Phase.RUNNING
        if self.result is None or self.duration <= 0:
            return Phase.SETTLING
        return Phase.FINAL

    @property
    def ended_at(self) -> int:
        """UTC milliseconds; only valid once the build is final."""
        return min(self.timestamp + max(self.duration, 0), _LONGEST)


class _Parameter(msgspec.Struct):
    name: str
    value: Any = msgspec.UNSET
    cls: str = msgspec.field(default="", name="_class")
    job: Any = msgspec.field(default=None, name="jobName")
    number: Any = None  # as text

    def named_build(self) -> UpstreamBuild | None:
        """The build that a run parameter names."""
        number = self.number if isinstance(self.number, str) else ""
        if not self.cls.endswith("RunParameterValue") or not (number.isascii() and number.isdigit() and self.job):
            return None
        if len(str(self.job)) > LONGEST_TEXT:
            return None
        return None if len(number) > _DIGITS else UpstreamBuild(str(self.job), int(number))

    @property
    def kind(self) -> str:
        """The kind of a parameter without value: ``hudson.model.PasswordParameterValue`` is ``password``."""
        return self.cls.rpartition(".")[2].rpartition("$")[2].removesuffix("ParameterValue").lower()


class _Branch(msgspec.Struct):
    name: str | None = ""  # null: a detached HEAD


class _GitLabData(msgspec.Struct):
    merge_request: Any = msgspec.field(default=None, name="mergeRequestIid")
    source_branch: Any = msgspec.field(default=None, name="sourceBranch")


class _Cause(msgspec.Struct):
    cls: str = msgspec.field(default="", name="_class")
    description: Any = msgspec.field(default=None, name="shortDescription")
    project: Any = msgspec.field(default=None, name="upstreamProject")
    number: Any = msgspec.field(default=None, name="upstreamBuild")
    data: Any = None

    def build(self) -> UpstreamBuild | None:
        """The build that the cause names."""
        job, number = _convert(self.project, str), _convert(self.number, BuildNumber)
        return UpstreamBuild(job, number) if job and number and len(job) <= LONGEST_TEXT else None

    def repeated(self, job: str) -> UpstreamBuild | None:
        """The repeated build. Replay and Restart name it only in text: ``Replayed #1,234``."""
        if self.cls.endswith(".RebuildCause"):
            return self.build()
        if not self.cls.endswith((".ReplayCause", ".RestartDeclarativePipelineCause")):
            return None
        found = _IN_WORDS.search(self.description) if isinstance(self.description, str) else None
        number = re.sub(r"\D", "", found[0]) if found else ""
        return UpstreamBuild(job, int(number)) if 0 < len(number) <= _DIGITS else None


class _SHA(msgspec.Struct):
    hash: str | None = None


class _Named(msgspec.Struct):
    name: str | None = None


class _Head(msgspec.Struct):
    name: str | None = None
    target: _Named | None = None


class _ScmRevision(msgspec.Struct):
    """``hash``: of branches. For pull requests: ``pullHash`` of GitHub, ``origin`` of GitLab and Gitea."""

    hash: str | None = None
    pull_hash: str | None = msgspec.field(default=None, name="pullHash")
    origin: _SHA | None = None
    head: _Head | None = None


class _Library(msgspec.Struct):
    name: str
    version: str | None = None


class _Revision(msgspec.Struct):
    SHA1: str | None = None
    branch: list[_Branch | None] = []


class _Module(msgspec.Struct):
    """A Subversion checkout."""

    module: str
    revision: int


class _Item(msgspec.Struct):
    commit: Any = msgspec.field(default=None, name="commitId")
    timestamp: Any = None
    comment: Any = None


class _Changes(msgspec.Struct):
    kind: Any = None
    revisions: Any = None
    items: Any = None

    def newest_first(self) -> list[_Item]:
        listed = self.items if isinstance(self.items, list) else []
        if listed and isinstance(listed[0], _Item):
            return listed  # already sorted when the build was shortened
        items = [item for each in listed if (item := _convert(each, _Item))]
        return items if self.kind in ("svn", "hg") else items[::-1]  # these list the newest first


def build_of(
    raw: RawBuild, *, controller: str, job: str, branch_job: bool, pull_request_url: str | None = None
) -> Build:
    """Reduce Jenkins' answer to the data that events are derived from.

    ``branch_job``: the job is a branch of a multibranch project, so its name is the branch. ``pull_request_url``: the
    page in the job's ``ObjectMetadataAction`` (``objectUrl``).
    """
    actions = [action for action in raw.actions if action is not None]
    causes = list(_causes(actions))
    listed = list(_listed(actions))
    masked = {each.name: each.kind for each in listed if each.value is msgspec.UNSET}
    named = {each.name: build for each in listed if (build := each.named_build())}
    parameters, too_long = _parameters(listed)
    masked |= too_long
    repeats = next((build for cause in causes if (build := cause.repeated(job))), None)
    changes = list(_changes(raw))
    checkouts = [*map(_checkout, actions), *(each for found in changes for each in _subversion(found))]
    return Build(
        controller=controller,
        job=job,
        number=raw.number,
        url=raw.url[:LONGEST_TEXT],
        result=raw.result and raw.result[:LONGEST_TEXT],
        started_at=raw.timestamp,
        ended_at=raw.ended_at,
        branch_job=branch_job,
        parameters=_of_gitlab(causes) | parameters,
        masked_parameters=tuple(masked),
        parameter_kinds={name: kind for name, kind in masked.items() if kind},
        checkouts=tuple(_bounded_checkouts(each for each in checkouts if each is not None)),
        libraries=_libraries(actions),
        revision=_revision(actions, job),
        change_sets=tuple(_bounded_sets(changes)),
        upstream=tuple(dict.fromkeys(_upstream(causes)))[:_FEW],
        repeats=repeats,
        named_builds=named,
        pull_request_url=without_credentials(pull_request_url)[:LONGEST_TEXT] if pull_request_url else None,
    )


# ---- limits


def shorten(raw: RawBuild) -> RawBuild:
    """The same build without unused data, because a hundred builds may wait in memory."""
    room = _Room()
    told = [msgspec.structs.asdict(action) for action in raw.actions if action is not None]
    raw.actions = [
        RawAction(**{name: room.cut(value) for name, value in fields.items() if value is not None})
        for fields in told
        if any(value is not None for name, value in fields.items() if name != "cls") and room.take(1)
    ]
    several = raw.change_sets if isinstance(raw.change_sets, list) else []
    raw.change_sets = [_few_changes(each, room) for each in several[:_FEW]]
    raw.change_set = _few_changes(raw.change_set, room)
    return raw


class _Room:
    """The remaining budget of values and characters for the actions of one build."""

    def __init__(self) -> None:
        self._values = 4_000
        self._characters = PARAMETERS_TEXT + _CHECKOUTS_TEXT

    def take(self, characters: int) -> bool:
        """Whether one more value fits."""
        self._values -= 1
        self._characters -= characters
        return self._values >= 0 and self._characters >= 0

    def cut(self, value: Any) -> Any:
        """The part of the value that fits. Nesting is limited by msgspec."""
        match value:
            case str():
                text = _cut(value)
                return text if self.take(len(text)) else ""
            case list():
                return [self.cut(each) for each in value if self.take(8)]
            case dict():
                return {key[:LONGEST_TEXT]: self.cut(each) for key, each in value.items() if self.take(8)}
            case _:
                return value


def _few_changes(change_set: Any, room: _Room) -> _Changes | None:
    """The newest commits of one change set, as many as are used. The last one gets the time of the oldest."""
    changes = _convert(change_set, _Changes) if change_set is not None else None
    if changes is None:
        return None
    items = changes.newest_first()
    kept = items[:CHANGES]
    if times := _times(items):
        kept[-1].timestamp = min(times)
    for each in kept:
        each.commit = _cut(each.commit) if isinstance(each.commit, str) else None
        each.comment = _bounded(_URL_CREDENTIALS.sub(r"\1", each.comment)) if isinstance(each.comment, str) else None
    return _Changes(changes.kind if isinstance(changes.kind, str) else None, room.cut(changes.revisions), kept)


def _cut(text: str) -> str:
    """Shorten a text. Credentials are removed first, because half a URL could no longer be recognised."""
    return text if len(text) <= LONGEST_TEXT else _URL_CREDENTIALS.sub(r"\1", text)[:LONGEST_TEXT]


def _listed(actions: list[RawAction]) -> Iterator[_Parameter]:
    room = PARAMETERS_TEXT
    for action in actions:
        for each in _convert(action.parameters, list[_Parameter]) or ():
            room -= len(each.name) + 8
            if room < 0:
                return
            yield each


def _parameters(listed: list[_Parameter]) -> tuple[dict[str, str], dict[str, str]]:
    """The values of parameters by name, and the kind of those that did not fit."""
    values: dict[str, str] = {}
    too_long: dict[str, str] = {}
    room = PARAMETERS_TEXT
    for each in listed:
        text = _text(each.value)
        if text is not None and len(each.name) + len(text) > room:
            too_long[each.name] = TOO_LONG
        elif text is not None:
            room -= len(each.name) + len(text)
            values[each.name] = text
    return values, too_long


def _bounded_checkouts(checkouts: Iterable[Checkout]) -> Iterator[Checkout]:
    room = _CHECKOUTS_TEXT
    for each in checkouts:
        room -= sum(len(text) + 8 for text in (*each.remote_urls, *each.branches, each.commit or ""))
        if room < 0:
            return
        yield each


# ---- causes


def _causes(actions: list[RawAction]) -> Iterator[_Cause]:
    """From ``CauseAction`` only: the action of an interrupted build also has ``causes``, with another meaning."""
    for action in actions:
        if action.cls == "hudson.model.CauseAction":
            yield from _convert(action.causes, list[_Cause]) or ()


def _upstream(causes: list[_Cause]) -> Iterator[UpstreamBuild]:
    for cause in causes:
        if cause.cls.endswith("UpstreamCause") and (build := cause.build()):
            yield build


def _of_gitlab(causes: list[_Cause]) -> dict[str, str]:
    """The build variables that the gitlab plugin sets, by name; readers without permission only see the cause."""
    told: dict[str, str] = {}
    for cause in causes:
        data = _convert(cause.data, _GitLabData) or _GitLabData()
        if isinstance(data.merge_request, int) and data.merge_request > 0:
            told["gitlabMergeRequestIid"] = str(data.merge_request)
        if isinstance(data.source_branch, str) and data.source_branch:
            told["gitlabSourceBranch"] = data.source_branch
    return told


# ---- checkouts


def _checkout(action: RawAction) -> Checkout | None:
    if isinstance(action.hg_node, str) and action.hg_node:
        branch = action.hg_branch if isinstance(action.hg_branch, str) else ""
        return Checkout(remote_urls=(), branches=(branch,), commit=action.hg_node, kind="hg")
    urls = [url.strip() for url in _convert(action.remote_urls, list[str]) or () if url.strip()]
    if not urls:
        return None
    revision = _convert(action.last_built_revision, _Revision) or _Revision()
    return Checkout(
        remote_urls=tuple(without_credentials(url) for url in urls),
        branches=tuple((branch and branch.name) or "" for branch in revision.branch),
        commit=revision.SHA1 or None,
    )


def _subversion(changes: _Changes) -> Iterator[Checkout]:
    """Subversion's change log names what was checked out; its directory layout shows the branch."""
    if changes.kind != "svn":
        return
    for each in _convert(changes.revisions, list[_Module]) or ():
        url, branch = without_credentials(each.module.rstrip("/")), ""
        if layout := _SVN_LAYOUT.fullmatch(url):
            url, branch = layout["root"], layout["trunk"] or layout["branch"] or layout["tag"]
        if url:
            yield Checkout((url,), (branch,), str(each.revision), kind="svn")


def _libraries(actions: list[RawAction]) -> tuple[str, ...] | None:
    """From ``LibrariesAction``, which every compiled pipeline has; None if it is missing."""
    told = [
        _convert(action.libraries, list[_Library])
        for action in actions
        if action.cls.endswith(".LibrariesAction") and action.libraries is not None
    ]
    if not told:
        return None
    libraries = (each for found in told for each in found or ())
    names = (f"{each.name}@{each.version}" if each.version else each.name for each in libraries)
    return tuple(dict.fromkeys(name[:LONGEST_TEXT] for name in names))[:_FEW]


def _revision(actions: list[RawAction], job: str) -> Revision | None:
    """From ``SCMRevisionAction``. A pipeline may have several, for example of a library; then the job's own."""
    found = []
    for action in actions:
        told = _convert(action.revision, _ScmRevision) if action.cls.endswith(".SCMRevisionAction") else None
        if told is not None:
            head = told.head or _Head()
            commit = told.hash or told.pull_hash or (told.origin.hash if told.origin else None)
            texts = head.name, commit, head.target.name if head.target else None
            found.append(Revision(*(text and text[:LONGEST_TEXT] for text in texts)))
    own = unquote(job.rpartition("/")[2])
    return next((each for each in found if each.name == own), found[0] if found else None)


# ---- changes


def _changes(raw: RawBuild) -> Iterator[_Changes]:
    several = raw.change_sets if isinstance(raw.change_sets, list) else []
    for change_set in (*several, raw.change_set):
        found = change_set if isinstance(change_set, _Changes) else _convert(change_set, _Changes)
        if found is not None:
            yield found


def _bounded_sets(changes: list[_Changes]) -> Iterator[ChangeSet]:
    """Limited to the number of messages that are kept for a build."""
    left = CHANGES
    for found in changes:
        items = found.newest_first()
        if not items:
            continue
        if left <= 0:
            return
        messages = tuple(islice(_messages(items), left))
        left -= len(messages)
        head = items[0].commit if isinstance(items[0].commit, str) else None
        yield ChangeSet(head[:LONGEST_TEXT] if head else None, messages, min(_times(items), default=None))


def _times(items: list[_Item]) -> list[int]:
    return [item.timestamp for item in items if isinstance(item.timestamp, int) and 0 < item.timestamp < _LONGEST]


def _messages(items: list[_Item]) -> Iterator[str]:
    for item in items:
        if isinstance(item.comment, str) and (message := item.comment.strip()):
            yield _bounded(_URL_CREDENTIALS.sub(r"\1", message))


def _bounded(message: str) -> str:
    """The beginning and end of a long message; the dots mark the cut, so that it does not look like a line end."""
    if len(message) <= MESSAGE_LENGTH:
        return message
    return f"{message[:_MESSAGE_HEAD]}…\n…{message[-_MESSAGE_TAIL:]}"


# ---- values


def _convert(value: Any, type_: type[T]) -> T | None:
    """The value as this type; None if a plugin uses the field for something else."""
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError:
        return None


def _text(value: object) -> str | None:
    """A parameter's value as text, with booleans as in Groovy; None if it is not a single value."""
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int() | float():
            return _URL_CREDENTIALS.sub(r"\1", str(value))[:LONGEST_TEXT]
        case _:
            return None


def prepare(names: Mapping[str, object]) -> None:
    """Prepare the types of a module for decoding.

    msgspec does it when a type is used for the first time. If two threads do so at once, the process can crash.
    """
    for each in list(names.values()):
        if isinstance(each, type) and issubclass(each, msgspec.Struct) and each is not msgspec.Struct:
            msgspec.json.Decoder(each)


prepare(globals())
