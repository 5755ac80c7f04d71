"""The spool folder: accepts reports as files, from builds that share only a directory with the agent.

Users who can write to the folder must not be able to do harm: links are not followed, only regular files are read, and
rejected files overwrite nothing.
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
# Files in one transaction. A larger one would block other writers for too long.
AT_ONCE = 100
# Files that are read to find them, because some may be unfinished.
LOOKED_AT_ONCE = 1_000
# Bytes of a file name that are kept. The limit is 255, and the folder `rejected` adds a number and an ending.
_LONGEST_STEM = 200
# An invalid file is not rejected for this time (ms): it may still be written.
UNFINISHED_MS = 5_000


@dataclass(frozen=True)
class _File:
    """A file in the folder. ``written_at`` and ``changed_at``: its mtime and ctime, UTC ms. ``owner``: user id."""

    name: str
    written_at: int
    changed_at: int
    owner: int


class Spool:
    """Processes each ``*.json`` file once. Invalid ones go to the folder ``rejected``, with the reason in a file."""

    def __init__(self, folder: Path, reports: Reports) -> None:
        self._folder = folder
        self._reports = reports
        self._clock = reports.outbox.clock
        self._reading = Trouble(f"reading {folder}", self._clock)
        self._done: set[_File] = set()  # stored, but could not be removed

    def take(self) -> list[Taken]:
        """Process the oldest files in one transaction; there may be more.

        After a crash between commit and removal, a file is processed again, which changes nothing. Raises
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
        except Exception as error:  # noqa: BLE001 - the file that caused it is found below
            log.warning("batch failed; processing files one by one", reason=f"{type(error).__name__}: {error}")
        one_by_one: list[Taken] = []
        for file in files:
            if len(one_by_one) < AT_ONCE:
                one_by_one += self._take_one(file)
        return one_by_one

    def _take(self, files: list[_File]) -> list[Taken]:
        found, wrong = self._parsed(files)
        taken = self._stored(found, wrong) if found else []
        for file, reason in wrong.items():
            if abs(self._clock.of_files_ms() - file.changed_at) >= UNFINISHED_MS:
                log.error("invalid report", file=str(self._folder / file.name), reason=reason)
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
        """The valid reports, and the errors of the others. It runs before the outbox is locked: disks can be slow."""
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
        """Process one file, or move it away if it causes an unexpected error."""
        try:
            return self._take([file])
        except OutboxError:
            raise
        except Exception as error:
            log.exception("report set aside: unexpected error", file=str(self._folder / file.name))
            self._reject(file, f"internal error of the agent ({type(error).__name__}: {error}); see its log")
        return []

    def _received_at(self, file: _File) -> int:
        return min(file.written_at, self._clock.of_files_ms())

    def _files(self) -> list[_File]:
        found = []
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".json") and not entry.name.startswith("."):
                        found += _looked_at(entry)
        except FileNotFoundError:
            return []  # the folder is optional
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
                      advice="the report is stored; allow the agent to write to this folder")  # fmt: skip

    def _reject(self, file: _File, reason: str) -> None:
        """Move the file away, so that it is not processed again every second."""
        path = self._folder / file.name
        try:
            (self._folder / REJECTED).mkdir(mode=0o750, exist_ok=True)
            folder = os.open(self._folder / REJECTED, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                _move(path, folder, reason)
            finally:
                os.close(folder)
        except FileNotFoundError:
            return  # another poller moved it, or its owner removed it
        except OSError as problem:
            self._done.add(file)
            log.error("report cannot be moved", file=str(path), reason=problem.strerror)


def _in_turn(files: list[_File]) -> list[_File]:
    """The oldest first, but alternating between users, so that many files of one user do not delay the others."""
    turns: dict[int, int] = {}
    placed: list[tuple[int, int, str, _File]] = []
    for file in sorted(files, key=lambda file: (file.written_at, file.name)):
        before = turns.get(file.owner, 0)
        turns[file.owner] = before + 1
        placed.append((before // AT_ONCE, file.written_at, file.name, file))
    return [file for *_, file in sorted(placed, key=lambda each: each[:3])]


def _move(path: Path, folder: int, reason: str) -> None:
    """Move a file into the folder under a free name, with the reason beside it. Raises :class:`OSError`."""
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
        return []  # it was removed meanwhile
    written_at, changed_at = status.st_mtime_ns // 1_000_000, status.st_ctime_ns // 1_000_000
    return [_File(entry.name, written_at, changed_at, status.st_uid)]


def _free_name(folder: int, name: str) -> str:
    """A name that is free in the folder; a long one is shortened."""
    taken = set(os.listdir(folder))
    stem = os.fsdecode(os.fsencode(name.removesuffix(".json"))[:_LONGEST_STEM])
    names = (f"{stem}.json", *(f"{stem}.{number}.json" for number in range(1, len(taken) + 2)))
    return next(each for each in names if each not in taken and f"{each}.reason" not in taken)


def _read(path: Path) -> bytes:
    """Read the file. A link, a device or a pipe must not make the agent read something else or block."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ReportError("not a regular file")
        return file.read(MOST_BYTES + 1)
