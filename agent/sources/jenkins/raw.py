"""Builds in the JSON of Jenkins' API, and what is kept of them.

Shapes as recorded from Jenkins 2.516: ``{"number": 7, "url": "…", "result": "SUCCESS", "building": false,
"inProgress": false, "timestamp": ms, "duration": ms, "actions": [{"_class": "…", …}, {}, …]}``.
"""

from __future__ import annotations

import enum
import re
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from agent.model.build import Build, Checkout, UpstreamBuild
from agent.model.git import without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator

# What is asked of a build, in the language of `tree=`. Fields that a build does not have are left out by Jenkins.
BUILD_TREE = (
    "number,url,result,building,inProgress,timestamp,duration,"
    "actions[_class,parameters[_class,name,value],causes[_class,upstreamProject,upstreamBuild],"
    "remoteUrls,lastBuiltRevision[SHA1,branch[name]]],"
    # Freestyle builds have one change set, pipelines a list. Items come oldest first, so a narrower range would lose
    # the newest; the git plugin itself keeps no more than the newest 1024 commits of a build.
    "changeSets[items[comment]{0,1024}],changeSet[items[comment]{0,1024}]"
)

# Jenkins' numbers are Java ints; its times are longs, and SQLite's integers end there too.
BuildNumber = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_LONGEST = 2**62

# How much is kept of what was committed: merges are told by their first and last lines.
CHANGES = 200
_MESSAGE_HEAD, _MESSAGE_TAIL = 300, 197
MESSAGE_LENGTH = _MESSAGE_HEAD + _MESSAGE_TAIL + len("…\n…")

# What some people put into a text parameter; it must not be kept in the outbox.
_URL_CREDENTIALS = re.compile(r"(\w://)[^\s/@:]*:[^\s/@]*@")

T = TypeVar("T")


class Phase(enum.Enum):
    """How far a build is; ``result`` alone does not tell, it can be there early and still get worse."""

    RUNNING = "running"
    SETTLING = "settling"  # no longer building, but result or duration are not written yet
    FINAL = "final"


class RawAction(msgspec.Struct):
    """One entry of ``actions``; plugins use the same field names for other things, hence Any."""

    cls: str = msgspec.field(default="", name="_class")
    parameters: Any = None
    causes: Any = None
    remote_urls: Any = msgspec.field(default=None, name="remoteUrls")
    last_built_revision: Any = msgspec.field(default=None, name="lastBuiltRevision")


class RawBuild(msgspec.Struct):
    """One element of ``builds[…]``, or one ``/job/…/7/api/json``."""

    number: BuildNumber
    url: str = ""
    result: str | None = None
    building: bool = False
    in_progress: bool | None = msgspec.field(default=None, name="inProgress")  # absent before Jenkins 2.375
    timestamp: int = 0
    duration: int = 0
    actions: list[RawAction | None] = []
    change_sets: Any = msgspec.field(default=None, name="changeSets")
    change_set: Any = msgspec.field(default=None, name="changeSet")

    def __post_init__(self) -> None:
        """Keep absurd clocks within what can be stored; they are refused when the event is made."""
        self.timestamp = max(-_LONGEST, min(self.timestamp, _LONGEST))
        self.duration = max(-_LONGEST, min(self.duration, _LONGEST))

    @property
    def phase(self) -> Phase:
        """Final needs building, inProgress, result and duration to agree."""
        if self.building or self.in_progress:
            return Phase.RUNNING
        if self.result is None or self.duration <= 0:
            return Phase.SETTLING
        return Phase.FINAL

    @property
    def ended_at(self) -> int:
        """UTC milliseconds; only right once the build is final."""
        return self.timestamp + max(self.duration, 0)


class _Parameter(msgspec.Struct):
    name: str
    value: Any = msgspec.UNSET


class _Branch(msgspec.Struct):
    name: str = ""


class _Cause(msgspec.Struct):
    cls: str = msgspec.field(default="", name="_class")
    project: Any = msgspec.field(default=None, name="upstreamProject")
    number: Any = msgspec.field(default=None, name="upstreamBuild")


class _Revision(msgspec.Struct):
    SHA1: str | None = None
    branch: list[_Branch] = []


def build_of(
    raw: RawBuild, *, controller: str, job: str, branch_job: bool, pull_request_url: str | None = None
) -> Build:
    """Take from Jenkins' answer what events are made of.

    ``branch_job``: the job is a branch of a multibranch project, so that its name is the branch.
    ``pull_request_url``: the page that the job's ``ObjectMetadataAction`` names (``objectUrl``).
    """
    parameters: dict[str, str] = {}
    masked: list[str] = []
    checkouts: list[Checkout] = []
    upstream: list[UpstreamBuild] = []
    for action in raw.actions:
        if action is None:
            continue
        for parameter in _convert(action.parameters, list[_Parameter]) or ():
            if parameter.value is msgspec.UNSET:
                masked.append(parameter.name)
            elif (text := _text(parameter.value)) is not None:
                parameters[parameter.name] = text
        if checkout := _checkout(action):
            checkouts.append(checkout)
        upstream += _upstream(action)
    return Build(
        controller=controller,
        job=job,
        number=raw.number,
        url=raw.url,
        result=raw.result,
        started_at=raw.timestamp,
        ended_at=raw.ended_at,
        branch_job=branch_job,
        parameters=parameters,
        masked_parameters=tuple(masked),
        checkouts=tuple(checkouts),
        upstream=tuple(dict.fromkeys(upstream)),
        change_messages=tuple(islice(_messages(raw), CHANGES)),
        pull_request_url=without_credentials(pull_request_url) if pull_request_url else None,
    )


def _upstream(action: RawAction) -> Iterator[UpstreamBuild]:
    """From a ``CauseAction``: an interrupted build's action has ``causes`` too, which are something else."""
    if action.cls != "hudson.model.CauseAction":
        return
    for cause in _convert(action.causes, list[_Cause]) or ():
        job, number = _convert(cause.project, str), _convert(cause.number, BuildNumber)
        if cause.cls.endswith("UpstreamCause") and job and number:
            yield UpstreamBuild(job, number)


def _messages(raw: RawBuild) -> Iterator[str]:
    """The messages of all change sets, newest first; Jenkins lists ``{"items": [{"comment": "…"}]}`` oldest first."""
    several = raw.change_sets if isinstance(raw.change_sets, list) else []
    for change_set in (*several, raw.change_set):
        items = change_set.get("items") if isinstance(change_set, dict) else None
        for item in reversed(items) if isinstance(items, list) else ():
            comment = item.get("comment") if isinstance(item, dict) else None
            if isinstance(comment, str) and (message := comment.strip()):
                yield _bounded(_URL_CREDENTIALS.sub(r"\1", message))


def _bounded(message: str) -> str:
    """Beginning and end of a long message; the dots keep the cut from looking like the end of a line."""
    if len(message) <= MESSAGE_LENGTH:
        return message
    return f"{message[:_MESSAGE_HEAD]}…\n…{message[-_MESSAGE_TAIL:]}"


def _checkout(action: RawAction) -> Checkout | None:
    urls = [url.strip() for url in _convert(action.remote_urls, list[str]) or () if url.strip()]
    if not urls:
        return None
    revision = _convert(action.last_built_revision, _Revision) or _Revision()
    return Checkout(
        remote_urls=tuple(without_credentials(url) for url in urls),
        branches=tuple(branch.name for branch in revision.branch),
        commit=revision.SHA1 or None,
    )


def _convert(value: Any, type_: type[T]) -> T | None:
    """The value as that type, or None where a plugin uses the field for something else."""
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError:
        return None


def _text(value: object) -> str | None:
    """A parameter's value as text: booleans as Groovy writes them; None for what is no single value."""
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int() | float():
            return _URL_CREDENTIALS.sub(r"\1", str(value))
        case _:
            return None
