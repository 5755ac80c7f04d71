"""The spool folder: what is moved into it is taken up once, and nothing that lies in it does harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from structlog.testing import capture_logs

from agent.config.settings import JenkinsSettings
from agent.model.times import Clock
from agent.outbox.sqlite.engine import SqliteOutbox
from agent.outbox.values import OutboxError
from agent.sources.reports.spool import AT_ONCE, LOOKED_AT_ONCE, Spool
from tests.engines import on_both_engines
from tests.integration.reporting import deployments, event, ids, poison, reports_of, settings_of

if TYPE_CHECKING:
    from tests.engines import Engine

NOBODY = 65534


class LateClock(Clock):
    """The real clock, later: what was written a moment ago was written long ago."""

    late_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.late_ms


class Folder:
    """A spool folder and the agent that looks into it."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self.path = path / "spool"
        self.path.mkdir()
        self.clock = engine.clock = LateClock()
        self.outbox = engine.open()
        controller = JenkinsSettings("main", "http://jenkins.test/", None, None, 15_000, "now", 5_000)
        self.settings = settings_of(path / "outbox.db", controller)
        self.restart()

    def restart(self) -> None:
        self.spool = Spool(self.path, reports_of(self.settings, self.outbox))

    def take(self) -> list[str]:
        return [taken.deployment_id for taken in self.spool.take()]

    def put(self, name: str, **fields: Any) -> Path:
        """Write aside, then move, as one should."""
        (self.path / f".{name}").write_bytes(msgspec.json.encode(report(**fields)))
        return (self.path / f".{name}").rename(self.path / name)

    def later(self) -> None:
        self.clock.late_ms += 6_000

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir())

    def rejected(self) -> dict[str, str]:
        """The names and reasons of what was set aside."""
        folder = self.path / "rejected"
        names = [path.name for path in folder.iterdir() if path.suffix != ".reason"]
        return {name: (folder / f"{name}.reason").read_text().strip() for name in sorted(names)}


def report(**fields: Any) -> dict[str, Any]:
    return {
        "deployment_id": "one", "repo_url": "https://git.example.test/a", "branch": "main", "environment": "eu",
        "status": "success", **fields,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, engine: Engine) -> Any:
    folder = Folder(tmp_path, engine)
    yield folder
    folder.outbox.close()


def test_a_file_that_is_moved_in_is_taken_up_once(folder: Folder) -> None:
    folder.put("a.json")
    assert folder.take() == ["one"]
    assert folder.names() == []
    assert folder.take() == []
    folder.put("b.json")
    assert folder.take() == ["one"], "the same report again"
    assert ids(folder.outbox) == ["one"]


def test_files_are_taken_up_oldest_first_and_some_at_a_time(folder: Folder) -> None:
    for number in range(AT_ONCE + 3):
        path = folder.put(f"{number}.json", deployment_id=str(number))
        os.utime(path, (1_000_000 - number, 1_000_000 - number))
    assert folder.take() == [str(number) for number in range(AT_ONCE + 2, 2, -1)]
    assert folder.take() == ["2", "1", "0"]


def test_the_event_ends_when_the_file_was_written_and_never_later_than_now(folder: Folder) -> None:
    os.utime(folder.put("a.json", deployment_id="past"), (1_795_435_200, 1_795_435_200))
    os.utime(folder.put("b.json", deployment_id="future"), (9_000_000_000, 9_000_000_000))
    before = folder.clock.now_ms()
    folder.take()
    assert event(folder.outbox, "past")["end_time"] == "2026-11-23T12:00:00.000Z"
    future = deployments(folder.outbox)["future"].content
    assert before <= future.started_at <= folder.clock.now_ms()


def test_a_file_that_is_written_in_place_waits_until_it_is_whole(folder: Folder) -> None:
    content = msgspec.json.encode(report())
    path = folder.path / "a.json"
    for size in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        assert folder.take() == []
        assert path.exists()
    path.write_bytes(content)
    assert folder.take() == ["one"]


def test_a_file_that_stays_half_a_report_is_set_aside_with_the_reason(folder: Folder) -> None:
    (folder.path / "a.json").write_text('{"deployment_id": "one", ')
    folder.take()
    assert folder.names() == ["a.json"]
    folder.later()
    folder.take()
    assert folder.names() == ["rejected"]
    assert folder.rejected()["a.json"].startswith("the report is not JSON")
    assert (folder.path / "rejected").stat().st_mode & 0o777 == 0o750


def test_wrong_files_are_set_aside_and_hold_nobody_back(folder: Folder) -> None:
    (folder.path / "a.json").write_text('{"colour": "red"}')
    (folder.path / "b.json").write_text("[]")
    (folder.path / "c.json").write_text('{"job": "a", "build_number": 1, "start_time": "yesterday"}')
    (folder.path / "d.json").write_bytes(b"\xff\xfe")
    (folder.path / "e.json").write_text("[" * 60_000)
    (folder.path / "f.json").write_text('{"deployment_id": "\\ud800\\u0000", "repo_url": "r", "branch": 7}')
    (folder.path / "g.json").write_text('{"provider": "gitlab_ci", "run": "7", "status": "sucess"}')
    folder.put("z.json")
    folder.later()
    assert folder.take() == ["one"]
    rejected = folder.rejected()
    assert list(rejected) == ["a.json", "b.json", "c.json", "d.json", "e.json", "f.json", "g.json"]
    assert "status: 'sucess' is not a status of gitlab_ci; use one of success, failed, " in rejected["g.json"]
    assert "unknown field 'colour'" in rejected["a.json"]
    assert "it must be an object with the fields of the event" in rejected["b.json"]
    assert "start_time: 'yesterday' is not a time" in rejected["c.json"]
    assert "branch: text is expected, not a number" in rejected["f.json"]


def test_a_wrong_file_overwrites_no_earlier_one_of_its_name(folder: Folder) -> None:
    for content in ("1", "2", "3"):
        (folder.path / "a.json").write_text(content)
        folder.later()
        folder.take()
    rejected = folder.path / "rejected"
    assert [(rejected / name).read_text() for name in ("a.json", "a.1.json", "a.2.json")] == ["1", "2", "3"]


def test_links_folders_pipes_and_huge_files_do_no_harm(folder: Folder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(msgspec.json.encode(report(deployment_id="secret")))
    (folder.path / "link.json").symlink_to(secret)
    (folder.path / "dangling.json").symlink_to(tmp_path / "nowhere")
    (folder.path / "zero.json").symlink_to("/dev/zero")
    (folder.path / "folder.json").mkdir()
    (folder.path / "folder.json" / "inside").write_text("x")
    os.mkfifo(folder.path / "pipe.json")
    with (folder.path / "huge.json").open("wb") as file:
        file.truncate(1 << 40)
    folder.put("good.json")
    folder.later()
    assert folder.take() == ["one"]
    assert sorted(folder.rejected()) == [
        "dangling.json", "folder.json", "huge.json", "link.json", "pipe.json", "zero.json",
    ]  # fmt: skip
    assert "has 65537 bytes; the maximum is 65536" in folder.rejected()["huge.json"]
    assert secret.exists()
    assert folder.names() == ["rejected"]


def test_other_names_and_hidden_files_are_left_alone(folder: Folder) -> None:
    for name in (".a.json", "a.json.tmp", "README"):
        (folder.path / name).write_text("{}")
    folder.later()
    folder.take()
    assert folder.names() == [".a.json", "README", "a.json.tmp"]


@pytest.mark.parametrize("planted", ["link", "reason"])
def test_what_is_planted_at_the_place_of_the_reason_is_not_written_to(
    folder: Folder, tmp_path: Path, planted: str
) -> None:
    """Whoever may write into the folder could else have the agent write into its own files."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "a.json.reason").write_text("precious")
    if planted == "link":
        (folder.path / "rejected").symlink_to(victim)
    else:
        (folder.path / "rejected").mkdir()
        (folder.path / "rejected" / "a.json.reason").symlink_to(victim / "a.json.reason")
    (folder.path / "a.json").write_text("wrong")
    folder.later()
    folder.take()
    assert [path.name for path in victim.iterdir()] == ["a.json.reason"]
    assert (victim / "a.json.reason").read_text() == "precious"


@on_both_engines
def test_a_crash_between_commit_and_removal_takes_the_file_up_twice_to_one_event(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    folder.put("a.json", deployment_id="a")
    folder.put("b.json", job="deploy/shop", build_number=7, deployment_id=None)
    with monkeypatch.context() as patched:
        patched.setattr(Spool, "_remove", killed)
        with pytest.raises(KilledError):
            folder.take()
    assert folder.names() == ["a.json", "b.json"]
    folder.restart()
    assert sorted(folder.take()) == ["a", "main:deploy/shop#7"]
    assert sorted(ids(folder.outbox)) == ["a", "main:deploy/shop#7"]


def test_a_file_that_raises_what_nobody_expected_is_set_aside_and_stops_nothing_else(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "poison", "z"):
        folder.put(f"{name}.json", deployment_id=name)
    poison(monkeypatch)
    with capture_logs() as logs:
        assert folder.take() == ["a", "z"]
        assert folder.take() == []
    assert folder.names() == ["rejected"]
    reason = "internal error of the agent (KeyError: 'nobody expected it'); see its log"
    assert folder.rejected() == {"poison.json": reason}
    assert ids(folder.outbox) == ["a", "z"]
    errors = [line for line in logs if line["log_level"] == "error"]
    assert [(line["event"], line["exc_info"]) for line in errors] == [("report set aside: unexpected error", True)]


def test_an_address_that_cannot_be_read_is_set_aside_with_the_reason(folder: Folder) -> None:
    """A placeholder in one file once stopped the daemon for good."""
    folder.put("a.json", build_url="https://[your-jenkins]/job/a/2/", deployment_id=None)
    folder.put("b.json")
    folder.later()
    assert folder.take() == ["one"]
    assert folder.rejected()["a.json"].startswith("build_url: 'https://[your-jenkins]/job/a/2/' is not a URL")


def test_files_stay_while_the_outbox_cannot_be_written(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.outbox.sqlite import connection

    monkeypatch.setattr(connection, "BUSY_DEADLINE_S", 0.05)
    folder.put("a.json")
    with SqliteOutbox(folder.outbox.path, folder.clock) as other, other.transaction(), pytest.raises(OutboxError):
        folder.take()
    assert folder.names() == ["a.json"]
    assert folder.take() == ["one"]


def test_a_folder_that_is_not_there_is_used_by_nobody(folder: Folder) -> None:
    folder.path.rmdir()
    with capture_logs() as logs:
        assert folder.take() == []
    assert logs == []
    folder.path.mkdir()
    folder.put("a.json")
    assert folder.take() == ["one"]


def test_what_is_no_folder_is_said_once_and_when_it_works_again(folder: Folder) -> None:
    folder.path.rmdir()
    folder.path.write_text("")
    with capture_logs() as logs:
        for _ in range(5):
            assert folder.take() == []
        folder.path.unlink()
        folder.path.mkdir()
        folder.take()
    assert [(line["event"], line.get("reason")) for line in logs] == [
        ("does not work", "Not a directory; see [hook] spool"), ("works again", None),
    ]  # fmt: skip


def test_files_that_somebody_keeps_half_written_keep_nobody_else_waiting(folder: Folder) -> None:
    """They are the oldest, and more of them than are taken at once."""
    for number in range(AT_ONCE + 50):
        path = folder.path / f"{number}.json"
        path.write_text('{"deployment_id": ')
        os.utime(path, (1, 1))
    folder.put("z.json")
    assert folder.take() == ["one"]
    assert len(folder.names()) == AT_ONCE + 50, "they may still become whole"


@pytest.mark.root
def test_who_has_many_files_there_does_not_keep_others_waiting(folder: Folder) -> None:
    for number in range(LOOKED_AT_ONCE + 10):
        path = folder.path / f"{number}.json"
        path.write_text("{")
        os.utime(path, (1, 1))
        os.chown(path, NOBODY, NOBODY)
    folder.put("z.json")
    assert folder.take() == ["one"]


@pytest.mark.parametrize(
    "stem", ["x" * 250, "é" * 125, "x" * 243, "\udcff" * 250], ids=["255", "utf-8", "248", "bytes"]
)
def test_a_name_of_any_length_is_set_aside_with_its_reason(folder: Folder, stem: str) -> None:
    for content in ("1", "2"):
        (folder.path / f"{stem}.json").write_text(content)
        folder.later()
        with capture_logs() as logs:
            folder.take()
        assert [line["event"] for line in logs] == ["invalid report"]
    assert folder.names() == ["rejected"]
    rejected = folder.rejected()
    assert sorted((folder.path / "rejected" / name).read_text() for name in rejected) == ["1", "2"]
    assert all(name.startswith(stem[:90]) for name in rejected)
    assert len(list((folder.path / "rejected").iterdir())) == 4


def test_a_file_that_somebody_else_sets_aside_first_leaves_one_reason(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spool is looked at by each poller, too."""
    (folder.path / "a.json").write_text("wrong")
    folder.later()
    other = Spool(folder.path, reports_of(folder.settings, folder.outbox))
    mkdir = Path.mkdir

    def slowly(self: Path, *args: Any, **options: Any) -> None:
        monkeypatch.setattr(Path, "mkdir", mkdir)
        assert other.take() == []
        mkdir(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", slowly)
    with capture_logs() as logs:
        assert folder.take() == []
    assert sorted(path.name for path in (folder.path / "rejected").iterdir()) == ["a.json", "a.json.reason"]
    assert [line["event"] for line in logs] == ["invalid report", "invalid report"]


def test_what_cannot_be_set_aside_leaves_no_reason_behind(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.path / "a.json").write_text("wrong")
    folder.later()
    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(os, "rename", fails)
        folder.take()
    assert list((folder.path / "rejected").iterdir()) == []
    assert [line["event"] for line in logs] == ["invalid report", "report cannot be moved"]


def fails(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")


_AS_NOBODY = """
import os, sys
from pathlib import Path
from structlog.testing import capture_logs
from agent.outbox.sqlite.engine import SqliteOutbox
from tests.engines import Sqlite
from tests.integration.test_spool import Folder
folder = Folder(Path(sys.argv[1]), Sqlite(Path(sys.argv[1])))
os.chmod(sys.argv[1], 0o777)
folder.put("a.json")
(folder.path / "b.json").write_text("wrong")
folder.outbox.close()
os.chown(folder.path, 0, 0)
os.chmod(folder.path, int(sys.argv[2], 8))
for name in os.listdir(sys.argv[1]):
    if name.startswith("outbox"):
        os.chown(Path(sys.argv[1]) / name, 65534, 65534)
os.setgid(65534)
os.setuid(65534)
folder.outbox = SqliteOutbox(folder.settings.outbox, folder.clock)
folder.restart()
folder.later()
with capture_logs() as logs:
    taken = [folder.take() for _ in range(4)]
print(taken, [(line["event"], line.get("reason")) for line in logs])
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("mode", "taken", "said"),
    [
        ("700", [[], [], [], []], [("does not work", "Permission denied; see [hook] spool")]),
        (
            "755",
            [["one"], [], [], []],
            [
                ("enqueued", None),
                ("reported", None),
                ("report cannot be removed", "Permission denied"),
                ("invalid report", "the report is not JSON: Expecting value: line 1 column 1 (char 0)"),
                ("report cannot be moved", "Permission denied"),
            ],
        ),
    ],
    ids=["unreadable", "not writable"],
)
def test_a_folder_without_permissions_is_said_once_and_its_reports_are_taken_up_once(
    mode: str, taken: list[list[str]], said: list[tuple[str, str | None]]
) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as path:
        done = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, path, mode], capture_output=True, text=True, check=True
        )
    assert done.stdout.strip() == f"{taken} {said}"
