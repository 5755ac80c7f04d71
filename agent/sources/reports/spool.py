"""A folder into which reports are moved, for whoever shares nothing but a directory with the agent.

Whoever may write into it must not be able to do harm with it: links are not followed, nothing but plain files is read,
and what is wrong goes where it overwrites nothing.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from agent.model.report import MOST_BYTES, ReportError, decode
from agent.model.secrets import redact
from agent.model.trouble import Trouble
from agent.outbox.values import OutboxError
from agent.sources.reports.accept import tell

if TYPE_CHECKING:
    from pathlib import Path

    from agent.sources.reports.accept import Reports, Said, Taken
    from agent.sources.reports.parse import Parsed

log = structlog.get_logger("reports")

REJECTED = "rejected"
# So many are taken in one transaction: others want to write, too.
AT_ONCE = 100
# So many are looked at for them: there may be some among them that are no reports yet.
LOOKED_AT_ONCE = 1_000
# A name has at most 255 bytes; in the folder `rejected` a number and an ending come behind it.
_LONGEST_STEM = 200
# A file that is written in place may be half a report for a moment.
UNFINISHED_MS = 5_000


@dataclass(frozen=True)
class _File:
    """A file in the folder. Times are UTC milliseconds: of its content, and of its content, place or name.
    ``owner``: the number of the user who put it there."""

    name: str
    written_at: int
    changed_at: int
    owner: int


class Spool:
    """Takes ``*.json`` files, once each; wrong ones go to the folder ``rejected`` with the reason beside them."""

    def __init__(self, folder: Path, reports: Reports) -> None:
        self._folder = folder
        self._reports = reports
        self._clock = reports.outbox.clock
        self._reading = Trouble(f"reading {folder}", self._clock)
        self._done: set[_File] = set()  # what could not be removed

    def take(self) -> list[Taken]:
        """Take the oldest files that lie there, in one transaction; there may be more.

        A crash between the commit and the removal takes a file twice, which changes nothing. Raises
        :class:`agent.outbox.values.OutboxError`; the files then stay.
        """
        found = self._files()
        self._done.intersection_update(found)
        files = [file for file in found if file not in self._done][:LOOKED_AT_ONCE]
        if not files:
            return []
        try:
            return self._take(files)
        except OutboxError:
            raise
        except Exception as error:  # noqa: BLE001 - whichever it was, it is met again below
            log.warning("taking files one by one", reason=f"{type(error).__name__}: {error}")
        one_by_one: list[Taken] = []
        for file in files:
            if len(one_by_one) < AT_ONCE:
                one_by_one += self._take_one(file)
        return one_by_one

    def _take(self, files: list[_File]) -> list[Taken]:
        found, wrong = self._parsed(files)
        taken = self._stored(found, wrong) if found else []
        for file, reason in wrong.items():
            if abs(self._clock.now_ms() - file.changed_at) >= UNFINISHED_MS:
                log.error("report is wrong", file=str(self._folder / file.name), reason=reason)
                self._reject(file, reason)
        return taken

    def _stored(self, found: dict[_File, Parsed], wrong: dict[_File, str]) -> list[Taken]:
        said: dict[_File, Said] = {}
        with self._reports.outbox.transaction():
            for file, parsed in found.items():
                try:
                    at = self._received_at(file)
                    said[file] = self._reports.read(parsed, source="spool", at=at, behind=[*said.values()])
                except ReportError as error:
                    wrong[file] = str(error)
            taken = self._reports.accept([*said.values()])
        tell(taken)
        for file in said:
            self._remove(file)
        return taken

    def _parsed(self, files: list[_File]) -> tuple[dict[_File, Parsed], dict[_File, str]]:
        """The reports, and what is wrong with the others; before anything is locked, for a disk may be slow."""
        found: dict[_File, Parsed] = {}
        wrong: dict[_File, str] = {}
        for file in files:
            if len(found) == AT_ONCE:
                break
            try:
                found[file] = self._reports.parse(decode(_read(self._folder / file.name)))
            except FileNotFoundError:
                continue
            except (ReportError, OSError) as error:
                wrong[file] = str(error.strerror if isinstance(error, OSError) else error)
        return found, wrong

    def _take_one(self, file: _File) -> list[Taken]:
        """One file, out of the way if nobody expected what it does."""
        try:
            return self._take([file])
        except OutboxError:
            raise
        except Exception as error:
            log.exception("cannot take a report; it is set aside", file=str(self._folder / file.name))
            self._reject(file, f"an error in the agent, {type(error).__name__}: {error}; see its log")
        return []

    def _received_at(self, file: _File) -> int:
        return min(file.written_at, self._clock.now_ms())

    def _files(self) -> list[_File]:
        found = []
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".json") and not entry.name.startswith("."):
                        found += _looked_at(entry)
        except FileNotFoundError:
            return []  # nobody uses it
        except OSError as error:
            self._reading.note("spool", f"{error.strerror}; see [hook] spool")
            return []
        self._reading.note("spool", None)
        return _in_turn(found)

    def _remove(self, file: _File) -> None:
        try:
            (self._folder / file.name).unlink(missing_ok=True)
        except OSError as error:
            self._done.add(file)
            log.error("report cannot be removed", file=str(self._folder / file.name), reason=error.strerror,
                      advice="it is stored; the agent has to be able to write in this folder")  # fmt: skip

    def _reject(self, file: _File, reason: str) -> None:
        """Out of the way, so that it is not met again every second."""
        path = self._folder / file.name
        try:
            (self._folder / REJECTED).mkdir(mode=0o750, exist_ok=True)
            folder = os.open(self._folder / REJECTED, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                _move(path, folder, reason)
            finally:
                os.close(folder)
        except FileNotFoundError:
            return  # another poller was faster, or who put it there took it away
        except OSError as problem:
            self._done.add(file)
            log.error("report cannot be set aside", file=str(path), reason=problem.strerror)


def _in_turn(files: list[_File]) -> list[_File]:
    """The oldest first, of each user in turn: who keeps many files there does not keep others waiting."""
    turns: dict[int, int] = {}
    placed: list[tuple[int, int, str, _File]] = []
    for file in sorted(files, key=lambda file: (file.written_at, file.name)):
        before = turns.get(file.owner, 0)
        turns[file.owner] = before + 1
        placed.append((before // AT_ONCE, file.written_at, file.name, file))
    return [file for *_, file in sorted(placed, key=lambda each: each[:3])]


def _move(path: Path, folder: int, reason: str) -> None:
    """Into the folder under a name that is free there, with the reason beside it. Raises :class:`OSError`."""
    name = _free_name(folder, path.name)
    fd = os.open(f"{name}.reason", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640, dir_fd=folder)
    with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as beside:
        beside.write(f"{redact(reason)}\n")
    try:
        os.rename(path, name, dst_dir_fd=folder)
    except OSError:
        os.unlink(f"{name}.reason", dir_fd=folder)
        raise


def _looked_at(entry: os.DirEntry[str]) -> list[_File]:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return []  # somebody was faster
    written_at, changed_at = status.st_mtime_ns // 1_000_000, status.st_ctime_ns // 1_000_000
    return [_File(entry.name, written_at, changed_at, status.st_uid)]


def _free_name(folder: int, name: str) -> str:
    """A name that nothing in the folder has; the end of a long one is cut off."""
    taken = set(os.listdir(folder))
    stem = os.fsdecode(os.fsencode(name.removesuffix(".json"))[:_LONGEST_STEM])
    names = (f"{stem}.json", *(f"{stem}.{number}.json" for number in range(1, len(taken) + 2)))
    return next(each for each in names if each not in taken and f"{each}.reason" not in taken)


def _read(path: Path) -> bytes:
    """Whoever may write into the folder must not make the agent read something else, or wait."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ReportError("this is no plain file")
        return file.read(MOST_BYTES + 1)
