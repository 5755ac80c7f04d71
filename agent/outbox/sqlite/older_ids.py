"""Finds the build of a ``deployment_id`` of versions 1 to 5: those files store the key only in this text.

The text alone is ambiguous: controller names contain ``:``, job names contain ``#``, and ids longer than 255 characters
end in a hash. So an id is matched against known names, and a match counts only if the key produces the same text again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from agent.model.ids import limited_id, part_deployment_id, reused_number_id
from agent.model.names import build_of_url
from agent.model.required import LONGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    Parts = Callable[[], Collection[str]]
    # A controller and the full name of a job.
    Job = tuple[str, str]

_SHORTENED = re.compile(r"~[0-9a-f]{16}\Z")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
# The start of a build, in UTC milliseconds. It follows the build's id if its number was used before.
_START = re.compile(r"@-?\d{10,16}(?=:|\Z)")
# For jobs with shorter names, environment and stage are shortened before the build's id.
_LONG_NAME = 150
# This many characters at the beginning survive any shortening.
_NEVER_CUT = 238


class OldKey(NamedTuple):
    """A build, and the rest of the id, which distinguishes the build's deployments."""

    controller: str
    job: str
    number: int
    behind: str


class OldIds:
    """Matches ids against known controllers and jobs. ``jobs``: job names with their controllers."""

    def __init__(self, controllers: Iterable[str], jobs: Iterable[Job]) -> None:
        self._jobs = set(jobs)
        self._controllers = sorted({*controllers, *(controller for controller, _ in self._jobs)} - {""})
        self._by_text: dict[str, Job | None] = {}
        for job in self._jobs:
            text = ":".join(job)
            self._by_text[text] = None if text in self._by_text else job
        self._long = [key for key in sorted(self._jobs) if sum(map(len, key)) > _LONG_NAME]

    def read(self, name: str, number: str | None, *, url: str | None, parts: Parts, started_at: int) -> OldKey | None:
        """The key of an id; None if it is not certain.

        ``number`` and ``url`` are the event's build number and page. ``parts`` returns what may follow the build's id,
        for example the environment. ``started_at``: start of the build (UTC ms).
        """
        if number is None or not _NUMBER.fullmatch(number):
            return None
        mark = f"#{number}"
        text, _, behind = name.partition(mark)
        job = self._by_text.get(text)
        if job is not None and _may_stand_behind(behind) and mark not in behind and not is_shortened(name):
            return OldKey(*job, int(number), _START.sub("", behind, count=1))  # the usual case
        found = self._found(
            [*self._in_text(name, mark), *self._elsewhere(name, number, url)], name, number, parts, started_at
        )
        likely = self._likely(found, url, parts)
        return OldKey(*likely[0], int(number), found[likely[0]]) if len(likely) == 1 else None

    def _found(self, jobs: Iterable[Job], name: str, number: str, parts: Parts, started_at: int) -> dict[Job, str]:
        """Jobs that may have the id, each with the rest of the id after the build."""
        found = {}
        for controller, job in jobs:
            behind = behind_id(name, f"{controller}:{job}#{number}", parts, started_at)
            if behind is not None:
                found[controller, job] = behind
        return found

    def _likely(self, found: Mapping[Job, str], url: str | None, parts: Parts) -> list[Job]:
        """Known jobs win over jobs that are only guessed from the text."""
        likely = [job for job in found if job in self._jobs]
        if not likely:
            likely = [job for job, behind in found.items() if _is_explained(behind, parts)]
        if len(likely) > 1 and (told := build_of_url(url or "")) is not None:
            likely = [job for job in likely if job[1] == told[0]]
        return likely

    def _elsewhere(self, name: str, number: str, url: str | None) -> Iterator[Job]:
        """Jobs derived from the build's page, and jobs whose names are too long to be complete in an id."""
        told = build_of_url(url or "")
        if told is not None and str(told[1]) == number:
            place = name.find(f":{told[0]}#{number}")
            if place > 0:  # a controller that is not polled
                yield name[:place], told[0]
        if is_shortened(name):
            yield from (job for job in self._long if name.startswith(":".join(job)[:_NEVER_CUT]))
            if told is not None:
                yield from ((controller, told[0]) for controller in self._controllers)

    def _in_text(self, name: str, mark: str) -> Iterator[Job]:
        for controller in self._controllers:
            if name.startswith(f"{controller}:"):
                place = name.find(mark, len(controller) + 1)
                while place >= 0:
                    if _may_stand_behind(name[place + len(mark) :]):
                        yield controller, name[len(controller) + 1 : place]
                    place = name.find(mark, place + 1)


def is_shortened(name: str) -> bool:
    """Whether the id ends in a hash."""
    return len(name) == LONGEST and _SHORTENED.search(name) is not None


def behind_id(name: str, build: str, parts: Parts, started_at: int) -> str | None:
    """The rest of a deployment's id after the build's id; None if the id is not of this build.

    ``build`` is the build's id before shortening. For a shortened id only combinations of ``parts`` are tried. The
    start of a reused number is left out.
    """
    if is_shortened(name):
        for possible in _possible(parts()):
            if name in _made(build, possible, started_at):
                return "".join(f":{part}" for part in possible)
    if not name.startswith(build):
        return None
    behind = name[len(build) :]
    return _START.sub("", behind, count=1) if _may_stand_behind(behind) else None


def _may_stand_behind(text: str) -> bool:
    return not text or text[0] in ":@"


def _possible(parts: Collection[str]) -> Iterator[tuple[str, ...]]:
    yield ()
    yield from ((part,) for part in parts)
    yield from ((first, second) for first in parts for second in parts if first != second)


def _made(build: str, behind: tuple[str, ...], started_at: int) -> Iterator[str]:
    """The ids that older versions produced for a build and this rest; they shortened at each step."""
    base = limited_id(build)
    whole = part_deployment_id(base, *behind) if behind else base
    yield whole
    yield reused_number_id(whole, started_at)
    if behind:
        yield part_deployment_id(reused_number_id(base, started_at), *behind)


def _is_explained(behind: str, parts: Parts) -> bool:
    """Whether the text begins with a part that can follow a build's id."""
    return not behind or any(behind == f":{part}" or behind.startswith(f":{part}:") for part in parts())
