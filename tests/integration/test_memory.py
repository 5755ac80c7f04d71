"""A Jenkins and a Hivel that answer without measure: the agent stays below 256 MB, and everybody else is served.

The process may have 256 MB of data, as with ``MemoryMax=256M`` of its unit (``RLIMIT_DATA``; it counts whole stacks of
threads, so they are small). What it really had is compared as well: ``VmHWM``, the most that was in memory at once.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
import threading
import zlib
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer
from tests.integration.scripted import JSON, Scripted, whole
from tests.integration.support import REPO, Agent, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from agent.sandbox.hivel import LocalHivel
    from tests.integration.scripted import Connection

MB = 1024 * 1024
MOST = 256 * MB
HIVEL_OK = b'{"success": true}'
JOB = "deploy/shop"
FOUND = b"HTTP/1.1 302 Found\r\nLocation: https://login.example.test/\r\n"


# ---- answers of a Jenkins without measure, by page


def _endless(connection: Connection, piece: bytes) -> None:
    with suppress(OSError):
        while True:
            connection.send(piece)


def _chunked(connection: Connection, head: bytes, piece: bytes) -> None:
    connection.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
    _endless(connection, b"%x\r\n" % len(piece) + piece + b"\r\n")


@cache
def zeros(times: int = 1) -> bytes:
    """Half a gigabyte of them, packed so often."""
    packing = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    packed = b"".join(packing.compress(b"\0" * MB) for _ in range(512)) + packing.flush()
    for _ in range(times - 1):
        packed = gzip.compress(packed)
    return packed


def a_redirect_without_end(_: str, connection: Connection) -> None:
    _chunked(connection, FOUND, b"x" * MB)


def a_bomb_behind_a_redirect(_: str, connection: Connection) -> None:
    connection.send(whole(zeros(), head=FOUND + b"Content-Encoding: gzip\r\n"))


def a_bomb(_: str, connection: Connection) -> None:
    connection.send(whole(zeros(), head=JSON + b"Content-Encoding: gzip\r\n"))


def an_answer_without_end(_: str, connection: Connection) -> None:
    _chunked(connection, JSON, b'{"jobs": [' + b'{"jobs":[]},' * 87_000)


def many_jobs_without_a_name(_: str, connection: Connection) -> None:
    """Valid, and thirty times as large once it is read."""
    connection.send(whole(b'{"jobs":[' + b"{}," * (80 * MB // 3) + b"{}]}"))


def headers_without_end(_: str, connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\n")
    _endless(connection, b"X-Header: " + b"x" * 60_000 + b"\r\n")


def continue_without_end(_: str, connection: Connection) -> None:
    _endless(connection, b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000)


_numbers = itertools.count()


def cookies_without_end(_: str, connection: Connection) -> None:
    cookies = (b"Set-Cookie: c%d=%s; Path=/\r\n" % (next(_numbers), b"v" * 60_000) for _ in range(80))
    connection.send(whole(b'{"jobs": []}', head=JSON + b"".join(cookies)))


def a_name_of_ten_megabytes(path: str, connection: Connection) -> None:
    jobs = [{"fullName": "deploy/" + "x" * 10 * MB, "nextBuildNumber": 7}]
    connection.send(whole(json.dumps({"jobs": jobs}).encode()))


BUILDS = {"large_parameters": 20, "many_actions": 12, "many_changes": 30}


def _of_builds(jobs: int, fields: Callable[[], dict[str, object]]) -> Callable[[str, Connection], None]:
    """So many jobs, which have all these builds; each has these fields."""
    count = BUILDS[fields.__name__] // jobs
    listed = [{"fullName": f"deploy/j{number}", "nextBuildNumber": count + 1} for number in range(jobs)]
    rest = json.dumps({"url": "http://j/", "result": "SUCCESS", "duration": 500, "building": False} | fields())[1:]

    def build(number: int) -> bytes:
        return f'{{"number": {number}, "timestamp": {1_795_435_200_000 + number * 1000}, {rest}'.encode()

    def answer(path: str, connection: Connection) -> None:
        if path.startswith("/computer/"):
            connection.send(whole(b'{"computer": []}'))
        elif path.startswith("/api/json"):
            connection.send(whole(json.dumps({"jobs": listed}).encode()))
        elif found := re.search(r"/(\d+)/api/json", path):
            connection.send(whole(build(int(found[1]))))
        elif found := re.search(r"builds.*(?:%7B|\{)(\d+)(?:%2C|,)(\d+)(?:%7D|\})", path):
            connection.send(JSON + b"Connection: close\r\n\r\n" + b'{"builds":[')
            for place in range(int(found[1]), min(int(found[2]), count)):
                connection.send(b"," * (place > int(found[1])) + build(count - place))
            connection.send(b"]}")
            connection.close()
        else:
            connection.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    answer.__name__ = fields.__name__
    return answer


def _git() -> dict[str, object]:
    revision = {"SHA1": "a" * 40, "branch": [{"name": "origin/main"}]}
    return {"_class": "hudson.plugins.git.util.BuildData", "remoteUrls": [REPO], "lastBuiltRevision": revision}


def _parameters(*values: tuple[str, str]) -> dict[str, object]:
    listed = [{"_class": "hudson.model.StringParameterValue", "name": name, "value": value} for name, value in values]
    return {"_class": "hudson.model.ParametersAction", "parameters": listed}


_TEN_MEGABYTES = "x" * (10 * MB)


def large_parameters() -> dict[str, object]:
    return {"actions": [_git(), _parameters(("TEXT", _TEN_MEGABYTES))]}


def many_actions() -> dict[str, object]:
    return {"actions": [_git(), *[{}] * 300_000]}


def many_changes() -> dict[str, object]:
    return {"actions": [_git()], "changeSets": [{"kind": "git", "items": [{"comment": "😀" * 600}] * 1024}]}


JENKINS = [
    a_redirect_without_end, a_bomb_behind_a_redirect, a_bomb, an_answer_without_end, many_jobs_without_a_name,
    headers_without_end, continue_without_end, cookies_without_end, a_name_of_ten_megabytes,
    _of_builds(1, large_parameters), _of_builds(2, many_actions), _of_builds(3, many_changes),
]  # fmt: skip


# ---- the agent, and what it may have


def most_at_once(process: subprocess.Popen[str]) -> int:
    """Bytes; with ``SHOW=1`` they are printed."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    used = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]
    if os.environ.get("SHOW"):
        print(f"{used // MB} MB")  # noqa: T201
    return used


@contextmanager
def running(agent: Agent) -> Iterator[subprocess.Popen[str]]:
    process = agent.start("run", by=("prlimit", f"--data={MOST}", f"--stack={MB}", "--"))
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=240)


@pytest.fixture
def good() -> Iterator[tuple[LocalJenkins, LocalServer]]:
    jenkins = LocalJenkins()
    jenkins.add_job(JOB)
    with LocalServer(jenkins.app) as server:
        yield jenkins, server


@pytest.mark.parametrize("answer", JENKINS, ids=lambda answer: answer.__name__)
def test_a_jenkins_without_measure_takes_neither_memory_nor_others_along(
    answer: Callable[[str, Connection], None], good: tuple[LocalJenkins, LocalServer], tmp_path: Path,
    hivel: LocalHivel, hivel_server: LocalServer,
) -> None:  # fmt: skip
    """Its pages are read as far as they can be, twice; a build elsewhere is delivered meanwhile."""
    zeros(), zeros(2)
    jenkins, server = good
    polls = threading.Semaphore(0)

    def counted(path: str, connection: Connection) -> None:
        if path.startswith("/api/json"):
            polls.release()
        answer(path, connection)

    with Scripted(counted) as hostile:
        extra = (
            f'[[jenkins]]\nname = "hostile"\nurl = "{hostile.url}"\npoll_interval = "200ms"\nsince = "2020-01-01"\n'
            'timeout = "5s"\n'
        )
        agent = Agent.configured(tmp_path, jenkins=server, hivel=hivel_server, extra=extra)
        with running(agent) as process:
            for _ in range(2):
                assert polls.acquire(timeout=240), "the hostile one is not asked any more: " + agent.log()
            of_hostile = BUILDS.get(answer.__name__, 0)
            wait_until(lambda: len(hivel.deployments()) == of_hostile, "what can be read is delivered", 240)
            jenkins.add_builds(JOB, 1, repo=REPO)
            wait_until(lambda: len(hivel.deployments()) > of_hostile, "the other one's build is delivered")
            used = most_at_once(process)
    assert "MemoryError" not in agent.log()
    assert used < MOST


# ---- a Hivel without measure


def a_page_packed_twice(connection: Connection) -> None:
    """Some kilobytes."""
    connection.send(whole(zeros(2), head=JSON + b"Content-Encoding: gzip, gzip\r\n"))


def a_packed_page(connection: Connection) -> None:
    connection.send(whole(zeros(), head=JSON + b"Content-Encoding: gzip\r\n"))


def a_page_without_end(connection: Connection) -> None:
    _chunked(connection, b"HTTP/1.1 503 Not now\r\nContent-Type: application/json\r\n", b"x" * MB)


def a_way_elsewhere_without_end(connection: Connection) -> None:
    _chunked(connection, FOUND, b"x" * MB)


def a_head_without_end(connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\n")
    _endless(connection, b"X-Header: " + b"x" * 8_000 + b"\r\n")


def a_line_without_end(connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nX-Header: ")
    _endless(connection, b"x" * MB)


def interim_answers_without_end(connection: Connection) -> None:
    _endless(connection, b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000)


def a_head_that_drips(connection: Connection) -> None:
    connection.drip(itertools.cycle(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"), 0.001)


def trailers_without_end(connection: Connection) -> None:
    connection.send(JSON + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
    _endless(connection, b"X-Trailer: " + b"x" * 8_000 + b"\r\n")


HIVEL = [
    a_page_packed_twice, a_packed_page, a_page_without_end, a_way_elsewhere_without_end,
    a_head_without_end, a_line_without_end, interim_answers_without_end, a_head_that_drips, trailers_without_end,
]  # fmt: skip


@pytest.mark.parametrize("answer", HIVEL, ids=lambda answer: answer.__name__)
def test_a_hivel_without_measure_takes_no_memory_along_and_gets_its_event_later(
    answer: Callable[[Connection], None], good: tuple[LocalJenkins, LocalServer], tmp_path: Path
) -> None:
    """Two attempts are answered so, the third one as it should be; builds are found meanwhile."""
    zeros(), zeros(2)
    jenkins, server = good
    attempts = itertools.count(1)

    def answered(_: str, connection: Connection) -> bool:
        if next(attempts) <= 2:
            with suppress(OSError):
                answer(connection)
        else:
            connection.send(whole(HIVEL_OK))
        return False

    with Scripted(answered) as hivel:
        agent = Agent.configured(tmp_path, jenkins=server, hivel=hivel.url, timeout="2s")
        jenkins.add_builds(JOB, 1, repo=REPO)
        with running(agent) as process:
            wait_until(lambda: len(hivel.paths) >= 2, "it was tried twice")
            jenkins.add_builds(JOB, 1, repo=REPO)
            wait_until(lambda: delivered(agent) == 2, "both builds are delivered")
            used = most_at_once(process)
    assert "MemoryError" not in agent.log()
    assert used < MOST


def delivered(agent: Agent) -> int:
    return int(agent.json("status")["events"]["delivered"])
