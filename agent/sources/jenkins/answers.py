"""The types of Jenkins' answers, limited to the fields that the agent reads, and how they are decoded."""

from __future__ import annotations

import json
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from agent.sources.jenkins.errors import BadAnswerError, PageError, TooLargeError
from agent.sources.jenkins.raw import BuildNumber, RawBuild, prepare

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

# Characters of an unexpected value that messages show.
_SHOWN = 40
# A decoded JSON value takes about a hundred bytes of memory, however short its text. One value per this many bytes of
# an answer is allowed.
_BYTES_FOR_A_VALUE = 24
# Larger answers (bytes) are decoded one at a time across all controllers, and only strictly, so that the memory for
# decoding is needed once.
LARGE = 1024 * 1024
_one_at_a_time = threading.Lock()


def too_large(page: str, limit: int) -> TooLargeError:
    """The error for a page with more than ``limit`` bytes."""
    return TooLargeError(f"{page} returned more than {limit} bytes")


@dataclass(frozen=True)
class Answer:
    """The body of a 200 and its headers. ``page``: the URL without the query.

    ``seconds``: how long the request took. ``limit``: the maximum size of the body in bytes.
    """

    page: str
    body: bytes | bytearray
    headers: Mapping[str, str]
    seconds: float = 0.0
    limit: int = 2**63

    def decode(self, type_: type[T]) -> T:
        """The body decoded as ``type_``.

        Raises :class:`PageError` for another shape, :class:`TooLargeError` for too many values, :class:`BadAnswerError`
        for invalid JSON.
        """
        values = self.body.count(b",") + self.body.count(b"[") + self.body.count(b"{")
        if values * _BYTES_FOR_A_VALUE > self.limit:
            most = self.limit // _BYTES_FOR_A_VALUE
            raise TooLargeError(f"{self.page} returned {values} JSON values, more than {most}")
        with _one_at_a_time if len(self.body) > LARGE else nullcontext():
            try:
                return msgspec.json.decode(self.body, type=type_)
            except msgspec.ValidationError as error:
                raise self._another_shape(error) from error
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                if len(self.body) > 4 * LARGE:
                    raise self._damaged(error) from error
                return self._decode_leniently(type_)

    def _decode_leniently(self, type_: type[T]) -> T:
        """Replace invalid UTF-8 and lone surrogates, so that one bad name does not hide all other builds."""
        try:
            content = json.loads(self.body.decode("utf-8", "replace"))
            clean = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
            return msgspec.json.decode(clean, type=type_)
        except RecursionError as error:
            raise PageError(f"the JSON of {self.page} is nested too deeply ({len(self.body)} bytes)") from error
        except msgspec.ValidationError as error:
            raise self._another_shape(error) from error
        except ValueError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> BadAnswerError:
        return BadAnswerError(f"the JSON of {self.page} is truncated or invalid ({len(self.body)} bytes): {error}")

    def _another_shape(self, error: Exception) -> PageError:
        return PageError(f"{self.page} returned JSON that does not match Jenkins' API: {error}")


class Item(msgspec.Struct):
    """A job or a folder in the nested tree. Folders have ``jobs`` and no ``nextBuildNumber``."""

    full_name: str = msgspec.field(default="", name="fullName")
    cls: str = msgspec.field(default="", name="_class")
    # Any: an invalid value must not hide the other jobs
    next_build_number: Any = msgspec.field(default=None, name="nextBuildNumber")
    jobs: list[Item] | None = None

    @property
    def number(self) -> int:
        """The next build number of a job. Raises :class:`PageError` if it is invalid."""
        try:
            return msgspec.convert(self.next_build_number, BuildNumber)
        except msgspec.ValidationError:
            said = repr(self.next_build_number)[:_SHOWN]
            raise PageError(
                f"its nextBuildNumber is {said}, which is not a build number; check the job in Jenkins"
            ) from None


class Items(msgspec.Struct):
    """The answer for a controller or a folder; a job has no ``jobs``."""

    cls: str = msgspec.field(default="", name="_class")
    jobs: list[Item] | None = None


class _JobAction(msgspec.Struct):
    object_url: str | None = msgspec.field(default=None, name="objectUrl")


class Builds(msgspec.Struct):
    """Builds of a job. ``actions`` are requested for branch jobs only."""

    builds: list[RawBuild] | None = None
    all_builds: list[RawBuild] | None = msgspec.field(default=None, name="allBuilds")
    actions: list[_JobAction | None] = []

    @property
    def pull_request_url(self) -> str | None:
        """The page in the branch job's metadata."""
        return next((action.object_url for action in self.actions if action and action.object_url), None)


class Executable(msgspec.Struct):
    """The build on an executor. Empty if the user may not see it."""

    url: str | None = None
    building: bool | None = None

    @property
    def running(self) -> bool:
        """Whether the build runs. A very short pipeline may stay on its executor until Jenkins restarts."""
        return self.building is not False  # None in old Jenkins versions


class _Executor(msgspec.Struct):
    current: Executable | None = msgspec.field(default=None, name="currentExecutable")


class _Computer(msgspec.Struct):
    executors: list[_Executor] = []
    one_off: list[_Executor] = msgspec.field(default_factory=list, name="oneOffExecutors")


class Computers(msgspec.Struct):
    """The nodes of a controller."""

    computer: list[_Computer] = []

    def executables(self) -> list[Executable]:
        """Everything that occupies an executor."""
        executors = [each for computer in self.computer for each in (*computer.executors, *computer.one_off)]
        return [each.current for each in executors if each.current is not None]


class WhoAmI(msgspec.Struct):
    """The user as Jenkins knows it."""

    name: str = ""
    anonymous: bool = True


Page = dict[str, Any]


prepare(globals())
