"""The client of Jenkins: bounds in time and size, an end from outside, errors that say whose they are."""

from __future__ import annotations

import gc
import gzip
import itertools
import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from starlette.responses import JSONResponse, Response

from agent.config.settings import JenkinsSettings, TlsSettings
from agent.sources.jenkins import client as clients
from agent.sources.jenkins import transport
from agent.sources.jenkins.client import (
    BadAnswerError,
    ControllerDownError,
    ForbiddenError,
    JenkinsClient,
    JenkinsError,
    Job,
    NotFoundError,
    PageError,
    StoppedError,
    TooLargeError,
    UnauthorizedError,
    UnreachableError,
)
from agent.sources.jenkins.traffic import Kind
from tests.integration.network import Authority
from tests.integration.scripted import JSON, Connection, Scripted, whole
from tests.integration.support import REPO, Agent, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

SHOP = Job("shop", 8, branch_job=False)
BUILDS = b'{"builds": []}'
CHUNKED = JSON + b"Transfer-Encoding: chunked\r\n\r\n"


def settings(url: str, *, timeout_ms: int = 30_000, **changes: Any) -> JenkinsSettings:
    made = JenkinsSettings("main", url, None, None, poll_interval_ms=15_000, since="now", timeout_ms=timeout_ms)
    return replace(made, **changes)


@contextmanager
def client_of(url: str, **changes: Any) -> Iterator[JenkinsClient]:
    client = JenkinsClient(settings(url, **changes))
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least deadline of an answer."""
    monkeypatch.setattr(transport, "WHOLE_LEAST_S", 0.5)


# ---- bounds in time


def drip_status_line(connection: Connection) -> None:
    connection.drip(itertools.chain(b"HTTP/1.1 200 ", itertools.cycle(b"OK")))


def drip_headers(connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\n")
    connection.drip(itertools.chain(b"X-Jenkins: ", itertools.cycle(b"2")))


def drip_body(connection: Connection) -> None:
    connection.send(JSON + b"Content-Length: 1000000\r\n\r\n")
    connection.drip(itertools.cycle(b" "))


def drip_until_closed(connection: Connection) -> None:
    connection.send(JSON + b"Connection: close\r\n\r\n")
    connection.drip(itertools.cycle(b" "))


def drip_chunks(connection: Connection) -> None:
    connection.send(CHUNKED)
    connection.drip(itertools.cycle(b"1\r\n \r\n"))


def drip_a_chunk_size(connection: Connection) -> None:
    connection.send(CHUNKED)
    connection.drip(itertools.cycle(b"0"))


def drip_continues(connection: Connection) -> None:
    connection.drip(itertools.cycle(b"HTTP/1.1 100 Continue\r\n\r\n"), 0.002)


DRIPS = [
    drip_status_line, drip_headers, drip_body, drip_until_closed, drip_chunks, drip_a_chunk_size, drip_continues,
]  # fmt: skip


@pytest.mark.usefixtures("half_a_second")
@pytest.mark.parametrize("drip", DRIPS)
def test_an_answer_that_drips_ends_at_the_deadline_and_names_the_page(drip: Callable[[Connection], None]) -> None:
    with Scripted(lambda _, connection: drip(connection)) as server, client_of(server.url, timeout_ms=100) as client:
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=r"/job/shop/api/json: the answer was not complete after 0.5 s") as e:
            client.builds(SHOP, 0, 5)
        assert 0.4 < time.monotonic() - began < 3
        assert not isinstance(e.value, ControllerDownError)
        assert client.progress > 10


@pytest.mark.usefixtures("half_a_second")
@pytest.mark.parametrize("drip", [drip_headers, drip_body])
def test_the_deadline_holds_over_tls(drip: Callable[[Connection], None], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    tls = TlsSettings(ca_file=authority.file)
    with (
        Scripted(lambda _, connection: drip(connection), authority.issue("127.0.0.1")) as server,
        client_of(server.url, timeout_ms=100, tls=tls) as client,
        pytest.raises(UnreachableError, match=r"the answer was not complete after 0.5 s"),
    ):
        client.snapshot()


@pytest.mark.usefixtures("half_a_second")
def test_the_deadline_holds_for_what_a_proxy_says_before_it_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    with Scripted(lambda _, connection: drip_headers(connection)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with (
            client_of("https://jenkins.example.test/", timeout_ms=100) as client,
            pytest.raises(ControllerDownError, match=r"the answer was not complete after 0.5 s"),
        ):
            client.snapshot()


def test_silence_ends_after_the_timeout_and_not_only_at_the_deadline() -> None:
    def answer(path: str, connection: Connection) -> None:
        if "wfapi" in path:
            connection.send(JSON + b"Content-Length: 100\r\n\r\n{")
        connection.say_nothing()

    with Scripted(answer) as server, client_of(server.url, timeout_ms=200) as client:
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=r"/api/json: no data received for 0.2 s"):
            client.snapshot()
        with pytest.raises(UnreachableError, match=r"/job/shop/7/wfapi/describe: no data received for 0.2 s"):
            client.page("shop", 7, "wfapi/describe")
        assert time.monotonic() - began < 5


def test_a_large_answer_that_gets_on_may_take_longer_than_the_timeout() -> None:
    body = b'{"jobs": [' + b" " * 60 + b"]}"

    def answer(_: str, connection: Connection) -> None:
        connection.drip(whole(body))

    with Scripted(answer) as server, client_of(server.url, timeout_ms=1_000) as client:
        began = time.monotonic()
        assert client.snapshot().jobs == []
        assert time.monotonic() - began > 1


def test_the_whole_answer_has_four_timeouts_and_a_minute_at_least() -> None:
    found = []
    for timeout_ms in (1_000, 30_000):
        with (
            client_of("http://127.0.0.1:1/", timeout_ms=timeout_ms) as client,
            client._transport._exchange(Kind.JOBS, 1_000) as one,
        ):
            found.append(one._deadline - time.monotonic())
    assert found == pytest.approx([60, 120], abs=1)


# ---- an end from outside


@contextmanager
def never_accepting() -> Iterator[str]:
    """A server whose queue of connections is full: connecting to it takes as long as the client lets it."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
            waiting.append(sock)
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        for sock in waiting:
            sock.close()


def close_while_it_asks(client: JenkinsClient, under_way: Callable[[], bool]) -> JenkinsError | None:
    """What a question ends with when the client is closed in its middle; it must end at once."""
    ended: list[JenkinsError] = []

    def ask() -> None:
        try:
            client.snapshot()
        except JenkinsError as error:
            ended.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(under_way, "the question is under way")
    began = time.monotonic()
    client.close()
    thread.join(20)
    assert not thread.is_alive() and time.monotonic() - began < 5
    return ended[0] if ended else None


def wait_for_nothing(connection: Connection) -> None:
    connection.say_nothing()


def stop_in_the_body(connection: Connection) -> None:
    connection.send(JSON + b"Content-Length: 100\r\n\r\n{")
    connection.say_nothing()


def stop_in_a_body_without_length(connection: Connection) -> None:
    connection.send(JSON + b'Connection: close\r\n\r\n{"jobs": []}')
    connection.say_nothing()


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(
    "answer", [wait_for_nothing, stop_in_the_body, stop_in_a_body_without_length, drip_headers, drip_body]
)
def test_close_ends_an_answer_under_way(answer: Callable[[Connection], None], secure: bool, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    certificate = authority.issue("127.0.0.1") if secure else None
    tls = TlsSettings(ca_file=authority.file)
    with Scripted(lambda _, connection: answer(connection), certificate) as server:
        client = JenkinsClient(settings(server.url, tls=tls))
        assert isinstance(close_while_it_asks(client, server.asked.is_set), StoppedError)


def test_close_ends_a_question_over_a_connection_that_served_another_one() -> None:
    def answer(_: str, connection: Connection) -> None:
        if len(server.paths) == 1:
            connection.send(whole(b'{"jobs": []}'))
        else:
            connection.say_nothing()

    with Scripted(answer) as server:
        client = JenkinsClient(settings(server.url))
        client.snapshot()
        assert isinstance(close_while_it_asks(client, lambda: len(server.paths) == 2), StoppedError)
        assert server.accepted == 1


def test_close_ends_connecting() -> None:
    with never_accepting() as url:
        client = JenkinsClient(settings(url))
        assert isinstance(close_while_it_asks(client, lambda: client.requests == 1), StoppedError)


def test_close_ends_a_tls_handshake() -> None:
    with Scripted(lambda *_: None) as server:  # which waits for a request in plain text

        def accepted() -> bool:
            return server.accepted == 1

        client = JenkinsClient(settings(server.url.replace("http://", "https://")))
        assert isinstance(close_while_it_asks(client, accepted), StoppedError)


def test_close_ends_the_wait_for_the_next_minute() -> None:
    with Scripted(lambda _, connection: connection.send(whole(b'{"jobs": []}'))) as server:
        client = JenkinsClient(settings(server.url, requests_per_minute=1))
        client.snapshot()
        assert isinstance(close_while_it_asks(client, lambda: True), StoppedError)
        assert len(server.paths) == 1


def test_close_ends_those_who_wait_for_their_turn() -> None:
    with Scripted(lambda _, connection: connection.say_nothing()) as server:
        client = JenkinsClient(settings(server.url, concurrency=1))
        ended: list[type[BaseException]] = []

        def ask() -> None:
            try:
                client.running()
            except JenkinsError as error:
                ended.append(type(error))

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        wait_until(server.asked.is_set, "the first one is under way")
        client.close()
        for thread in threads:
            thread.join(5)
        assert ended == [StoppedError] * 5
        assert len(server.paths) == 1


def test_a_closed_client_asks_nothing_more() -> None:
    with Scripted(lambda _, connection: connection.send(whole(b"{}"))) as server:
        client = JenkinsClient(settings(server.url))
        client.close()
        with pytest.raises(StoppedError, match="the agent is stopping"):
            client.snapshot()
        assert (server.accepted, client.requests) == (0, 0)


@pytest.mark.usefixtures("half_a_second")
def test_nothing_is_left_behind_by_questions_that_fail_and_by_a_client_that_is_closed() -> None:
    """No thread and no open file, however the questions ended."""

    def answer(path: str, connection: Connection) -> bool | None:
        kind = path.split("/")[2]
        if kind == "drip":
            drip_headers(connection)
        elif kind == "silent":
            connection.say_nothing()
        elif kind == "missing":
            connection.send(whole(b"no", head=b"HTTP/1.1 404 Not Found\r\n"))
        elif kind == "fine":
            connection.send(whole(BUILDS))
        return kind != "cut"

    with Scripted(answer) as server:
        threads, files = [], []
        for _ in range(3):
            with client_of(server.url, timeout_ms=100) as client:
                for name in ("drip", "silent", "missing", "fine", "cut", "fine"):
                    with _ignored(JenkinsError):
                        client.builds(replace(SHOP, full_name=name), 0, 5)
            wait_until(lambda: not [s for s in server._open if s.fileno() != -1 and not _hung_up(s)], "all is closed")
            threads.append({thread.name for thread in threading.enumerate()} - {"scripted"})
            gc.collect()  # files of tests before this one
            files.append(len(list(Path("/proc/self/fd").iterdir())) - sum(sock.fileno() != -1 for sock in server._open))
    assert threads[0] == threads[1] == threads[2]
    assert files[0] == files[1] == files[2]


@contextmanager
def _ignored(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind:
        return


def _hung_up(sock: socket.socket) -> bool:
    """Whether the other side has closed its end."""
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except OSError as error:
        return not isinstance(error, BlockingIOError)


# ---- bounds in size


def endless(connection: Connection) -> None:
    for _ in itertools.count():
        connection.send(b" " * 65_536)


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (b"HTTP/1.1 500 Oops\r\n", PageError),
        (b"HTTP/1.1 503 Starting\r\n", UnreachableError),
        (b"HTTP/1.1 403 No\r\n", ForbiddenError),
        (b"HTTP/1.1 302 Found\r\nLocation: https://login.example.test/\r\n", BadAnswerError),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n", BadAnswerError),
    ],
)
def test_the_page_of_an_error_is_not_read_to_its_end(head: bytes, error: type[JenkinsError]) -> None:
    def answer(_: str, connection: Connection) -> None:
        connection.send(head + b"Content-Length: 1000000000000\r\n\r\n")
        endless(connection)

    with Scripted(answer) as server, client_of(server.url) as client:
        with pytest.raises(error):
            client.snapshot()
        assert client.progress < 1_000_000


def test_the_page_of_an_error_that_drips_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_REST_S", 0.1)

    def answer(_: str, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 1000\r\n\r\n")
        connection.drip(itertools.cycle(b" "))

    with Scripted(answer) as server, client_of(server.url) as client:
        began = time.monotonic()
        with pytest.raises(NotFoundError):
            client.build("shop", 7)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000000000", b"Connection: close"])
def test_an_answer_without_end_is_not_read_to_its_end(framing: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BODY_LIMIT", 1_000_000)

    def answer(_: str, connection: Connection) -> None:
        connection.send(JSON + framing + b"\r\n\r\n")
        endless(connection)

    with Scripted(answer) as server, client_of(server.url) as client:
        with pytest.raises(BadAnswerError, match="/api/json returned more than 1000000 bytes"):
            client.snapshot()
        assert client.progress < 2_000_000


def test_what_comes_besides_a_body_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BODY_LIMIT", 1_000_000)

    def answer(_: str, connection: Connection) -> None:
        for _ in itertools.count():
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    with Scripted(answer) as server, client_of(server.url) as client:
        with pytest.raises(UnreachableError, match=r"/api/json: more than \d+ bytes received"):
            client.snapshot()
        assert client.progress < 3_000_000


def packed(body: bytes, encoding: bytes = b"gzip", times: int = 1) -> bytes:
    for _ in range(times):
        body = gzip.compress(body)
    return whole(body, head=JSON + b"Content-Encoding: " + encoding + b"\r\n")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (packed(b'{"jobs":[' + b" " * 50_000_000 + b"]}"), "returned more than 1000000 bytes"),
        (packed(b'{"jobs": []}', b"gzip, gzip", 2), "has Content-Encoding gzip, gzip, which the agent did not request"),
        (packed(b'{"jobs": []}', b"br"), "has Content-Encoding br, which the agent did not request"),
        (whole(b'{"jobs": []}', head=JSON + b"Content-Encoding: gzip\r\n"), "cannot be decompressed"),
        (whole(gzip.compress(b'{"jobs": []}')[:-9], head=JSON + b"Content-Encoding: gzip\r\n"), "is truncated"),
    ],
)  # fmt: skip
def test_a_packed_answer_is_unpacked_within_bounds(answer: bytes, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BODY_LIMIT", 1_000_000)
    with (
        Scripted(lambda _, connection: connection.send(answer)) as server,
        client_of(server.url) as client,
        pytest.raises(BadAnswerError, match=rf"/api/json .*{reason}"),
    ):
        client.snapshot()


@pytest.mark.parametrize("encoding", [b"gzip", b"GZIP", b"x-gzip"])
def test_a_packed_answer_is_read(encoding: bytes) -> None:
    answer = packed(b'{"jobs": [{"fullName": "shop", "nextBuildNumber": 8}]}', encoding)
    with Scripted(lambda _, connection: connection.send(answer)) as server, client_of(server.url) as client:
        assert client.snapshot().jobs == [SHOP]


# ---- more than there is memory for


def sized(path: str, connection: Connection, sizes: dict[int, int]) -> None:
    """A job with these builds, each with a parameter of so many characters."""
    builds = [
        {"number": number, "result": "SUCCESS", "duration": 1, "timestamp": number, "actions": [
            {"parameters": [{"name": "TEXT", "value": "x" * size}]}
        ]}
        for number, size in sorted(sizes.items(), reverse=True)
    ]  # fmt: skip
    if found := re.search(r"builds.*(?:%7B|\{)(\d+)(?:%2C|,)(\d+)", path):
        connection.send(whole(json.dumps({"builds": builds[int(found[1]) : int(found[2])]}).encode()))
    else:
        [asked] = [each for each in builds if f"/{each['number']}/" in path]
        connection.send(whole(json.dumps(asked).encode()))


@examples(max_examples=25)
@given(st.dictionaries(st.integers(1, 30), st.sampled_from([10, 2_000, 15_000, 50_000]), max_size=12))
def test_builds_that_are_too_large_for_one_answer_are_asked_for_in_several(sizes: dict[int, int]) -> None:
    with (
        pytest.MonkeyPatch.context() as patch,
        Scripted(lambda path, connection: sized(path, connection, sizes)) as server,
        client_of(server.url) as client,
    ):
        patch.setattr(transport, "BODY_LIMIT", 20_000)
        listing = client.builds(SHOP, 0, 16)
        assert [raw.number for raw in listing.builds] == sorted((n for n in sizes if sizes[n] < 20_000), reverse=True)
        assert listing.places == len(sizes)
        for number in (n for n in sizes if sizes[n] > 20_000):
            with pytest.raises(TooLargeError, match=f"/job/shop/{number}/api/json returned more than 20000 bytes"):
                client.build("shop", number)


def test_an_answer_that_should_not_wait_is_not_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "AHEAD_LIMIT", 5_000)
    with (
        Scripted(lambda path, connection: sized(path, connection, {6: 2_000, 7: 10_000})) as server,
        client_of(server.url) as client,
    ):
        assert client.build("shop", 6, ahead=True).number == 6
        for question in (
            lambda ahead: client.builds(SHOP, 0, 2, ahead=ahead),
            lambda ahead: client.build("shop", 7, ahead=ahead),
        ):
            with pytest.raises(TooLargeError):
                question(True)
            question(False)


@pytest.mark.parametrize("body", [b'{"jobs": [%s]}', b"[%s]", b'{"other": {"a": [%s]}}'])
def test_an_answer_of_more_values_than_there_is_memory_for_is_not_decoded(body: bytes) -> None:
    answer = whole(body % b",".join([b"{}"] * 400_000))
    with (
        Scripted(lambda _, connection: connection.send(answer)) as server,
        client_of(server.url) as client,
        pytest.raises(TooLargeError, match=r"/api/json returned 80000\d JSON values, more than 699050"),
    ):
        client.snapshot()


def test_a_name_beyond_all_measure_hides_no_other_job() -> None:
    jobs = [{"fullName": name, "nextBuildNumber": 8} for name in ("deploy/" + "x" * 5_000, "shop")]
    answer = whole(json.dumps({"jobs": jobs}).encode())
    with Scripted(lambda _, connection: connection.send(answer)) as server, client_of(server.url) as client:
        snapshot = client.snapshot()
    assert snapshot.jobs == [SHOP]
    [problem] = snapshot.problems
    assert "its name has 5007 characters, more than 2000" in problem and len(problem) < 200


def test_more_jobs_than_there_is_memory_for_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_ROOM_FOR_JOBS", 500)
    jobs = [{"fullName": f"deploy/{number}", "nextBuildNumber": 8} for number in range(3)]
    answer = whole(json.dumps({"jobs": jobs}).encode())
    with (
        Scripted(lambda _, connection: connection.send(answer)) as server,
        client_of(server.url) as client,
        pytest.raises(
            BadAnswerError,
            match=r"more jobs than fit in the memory limit; list only some folders in \[\[jenkins\]\] roots",
        ),
    ):
        client.snapshot()


def test_few_cookies_are_kept_and_those_of_a_sticky_session_always() -> None:
    numbers = itertools.count()

    def answer(_: str, connection: Connection) -> None:
        cookies = [f"c{next(numbers)}={'v' * 100}" for _ in range(15)] + [f"large={'v' * 5_000}", "replica=1"]
        head = "".join(f"Set-Cookie: {each}; Path=/\r\n" for each in cookies).encode()
        connection.send(whole(b'{"jobs": []}', head=JSON + head))

    with Scripted(answer) as server, client_of(server.url) as client:
        for _ in range(20):
            client.snapshot()
            cookies = client._transport.session.cookies
            assert len(cookies) <= 20
            assert cookies.get("replica") == "1"
            assert "large" not in cookies


def test_cookies_may_come_while_a_request_takes_those_that_there_are() -> None:
    with client_of("http://127.0.0.1:1/") as client:
        cookies = client._transport.session.cookies
        cookies.set("replica", "1")
        for cookie in cookies:
            cookies.set(f"{cookie.name}-{len(cookies)}", "2", path="/other")
        assert len(cookies) == 2


# ---- errors, and whose they are


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_a_controller_without_a_connection_is_down_and_any_question_says_so() -> None:
    for url, reason in [
        (f"http://127.0.0.1:{free_port()}/", "Connection refused"),
        ("http://jenkins.invalid/", "Name or service not known|Temporary failure in name resolution"),
    ]:
        with client_of(url) as client:
            for ask in (client.snapshot, lambda c=client: c.build("shop", 7)):
                with pytest.raises(ControllerDownError, match=reason):
                    ask()  # type: ignore[operator]


def test_a_controller_that_never_accepts_is_down_after_the_timeout() -> None:
    with never_accepting() as url, client_of(url, timeout_ms=200) as client:
        began = time.monotonic()
        with pytest.raises(ControllerDownError, match="timed out"):
            client.snapshot()
        assert time.monotonic() - began < 5


def test_all_addresses_of_a_controller_are_tried_within_one_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that swallows packets (a route for IPv6 that leads nowhere) must not take the time of the one that works."""
    with never_accepting() as dead, Scripted(lambda _, c: c.send(whole(b'{"jobs": []}'))) as server:
        ports = [int(url.rsplit(":")[-1].strip("/")) for url in (dead, server.url)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with client_of(server.url, timeout_ms=1_000) as client:
            began = time.monotonic()
            assert client.snapshot().jobs == []
            assert 0.4 < time.monotonic() - began < 0.95


def test_a_controller_that_cannot_be_trusted_is_down(tmp_path: Path) -> None:
    certificate = Authority(tmp_path / "nobody's").issue("127.0.0.1")
    with (
        Scripted(lambda *_: None, certificate) as server,
        client_of(server.url) as client,
        pytest.raises(ControllerDownError, match=r"CERTIFICATE_VERIFY_FAILED.*set \[\[jenkins\]\] ca_file"),
    ):
        client.snapshot()


def test_a_file_of_authorities_that_is_gone_is_an_error_in_words(tmp_path: Path) -> None:
    tls = TlsSettings(ca_file=tmp_path / "gone.pem")
    with (
        client_of("https://127.0.0.1:1/", tls=tls) as client,
        pytest.raises(ControllerDownError, match=r"gone\.pem"),
    ):
        client.snapshot()


@pytest.mark.parametrize("status", [408, 425, 502, 504, 520, 524, 599])
def test_a_page_that_is_out_of_order_for_now_says_which_and_until_when(status: int) -> None:
    head = b"HTTP/1.1 %d Later\r\nRetry-After: 7\r\n" % status
    with Scripted(lambda _, c: c.send(whole(b"", head=head))) as server, client_of(server.url) as client:
        with pytest.raises(UnreachableError, match=f"HTTP {status} from /job/shop/7/wfapi/describe") as caught:
            client.page("shop", 7, "wfapi/describe")
        assert caught.value.retry_after_ms == 7_000
        assert not isinstance(caught.value, ControllerDownError)


@pytest.mark.parametrize(
    "sent",
    [b"", b"HTTP/1.1 200", b"nonsense\r\n\r\n", JSON, JSON + b"Content-Length: 100\r\n\r\n{", CHUNKED + b"5\r\n{"],
)
def test_an_answer_that_is_cut_off_is_no_answer_of_that_page(sent: bytes) -> None:
    def answer(_: str, connection: Connection) -> bool:
        connection.send(sent)
        return False

    with Scripted(answer) as server, client_of(server.url) as client:
        with pytest.raises(UnreachableError, match="/job/shop/7/api/json: ") as caught:
            client.build("shop", 7)
        assert not isinstance(caught.value, ControllerDownError)
        assert caught.value.retry_after_ms is None


FAILURES: list[tuple[bytes, type[JenkinsError]]] = [
    (b"HTTP/1.1 401 No\r\n", UnauthorizedError),
    (b"HTTP/1.1 403 No\r\n", ForbiddenError),
    (b"HTTP/1.1 404 Not Found\r\n", NotFoundError),
    (b"HTTP/1.1 407 Who\r\n", BadAnswerError),
    (b"HTTP/1.1 500 Oops\r\n", PageError),
    (b"HTTP/1.1 504 Late\r\n", UnreachableError),
    (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n", BadAnswerError),
    (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n", BadAnswerError),
]


def test_a_page_that_fails_takes_no_connection_along() -> None:
    """The pages of errors are a few kilobytes: a plugin that is missing must not cost a connection for each build."""
    heads = iter([head for head, _ in FAILURES] + [JSON])

    def answer(_: str, connection: Connection) -> None:
        head = next(heads)
        connection.send(whole(BUILDS if head == JSON else b"<html>" * 2_000, head=head))

    with Scripted(answer) as server, client_of(server.url) as client:
        for _, error in FAILURES:
            with pytest.raises(error, match="/job/shop/api/json"):
                client.builds(SHOP, 0, 5)
        assert client.builds(SHOP, 0, 5).builds == []
        assert server.accepted == 1


@pytest.mark.usefixtures("half_a_second")
def test_after_a_question_that_got_no_answer_the_others_are_answered() -> None:
    bad: list[Callable[[Connection], object]] = [wait_for_nothing, drip_headers, stop_in_the_body, lambda _: False]

    def answer(path: str, connection: Connection) -> bool | None:
        index = path.split("/")[2]
        if index != "fine":
            return bad[int(index)](connection) is not False
        connection.send(whole(BUILDS))
        return None

    with Scripted(answer) as server, client_of(server.url, timeout_ms=100, concurrency=1) as client:
        for index in range(len(bad)):
            with pytest.raises(UnreachableError, match=f"/job/{index}/api/json"):
                client.builds(replace(SHOP, full_name=str(index)), 0, 5)
            assert client.builds(replace(SHOP, full_name="fine"), 0, 5).builds == []


def test_an_odd_shape_and_a_damaged_answer_name_the_page() -> None:
    bodies = iter([b"[]", b'{"builds": [', b'{"builds": 7, "x": "\xff"}', b"[" * 200_000, b"{}"])
    with (
        Scripted(lambda _, connection: connection.send(whole(next(bodies)))) as server,
        client_of(server.url) as client,
    ):
        for error in (PageError, BadAnswerError, PageError, PageError, PageError):
            with pytest.raises(error, match="/job/shop/api/json"):
                client.builds(SHOP, 0, 5)


# ---- the questions


def ask_everything(client: JenkinsClient) -> None:
    client.about()
    client.running()
    for job in client.snapshot().jobs:
        client.builds(job, 0, 5)
        client.builds(job, 95, 195)
        client.build(job.full_name, 1)


def assert_every_question_has_a_tree(jenkins: LocalJenkins) -> None:
    asked = [request for request in jenkins.requests if request.path.endswith("/api/json")]
    assert asked
    assert [request for request in asked if not request.query.startswith("tree=")] == []
    assert {request.method for request in jenkins.requests} == {"GET"}


def deep_and_wide(jenkins: LocalJenkins) -> None:
    """A job below the nested question, a branch job with a build of before its checkout, a build that runs."""
    folder = ""
    for level in range(9):
        folder = f"{folder}/f{level}".lstrip("/")
        jenkins.add_folder(folder)
    jenkins.add_folder("mb", "multibranch")
    for name in (f"{folder}/deploy", "mb/deploy", "deploy/shop"):
        jenkins.add_job(name)
        jenkins.add_builds(name, 2, repo=REPO)
        jenkins.start_build(name, repo=REPO)


def test_every_question_of_the_client_carries_a_tree(jenkins: LocalJenkins, controller: JenkinsSettings) -> None:
    deep_and_wide(jenkins)
    client = JenkinsClient(controller)
    ask_everything(client)
    client.close()
    assert len({request.path for request in jenkins.requests}) > 8
    assert_every_question_has_a_tree(jenkins)


@pytest.mark.parametrize(
    "verb",
    ["check", "once", "preview --since 3650d", "explain {build}", "backfill --since 3650d"],
    ids=lambda verb: verb.split()[0],
)
def test_every_question_of_every_verb_carries_a_tree(
    jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path, verb: str
) -> None:
    deep_and_wide(jenkins)
    agent = Agent.configured(tmp_path, jenkins=jenkins_server, hivel=hivel_server)
    done = agent.run(*verb.format(build=f"{jenkins_server.url}/job/deploy/job/shop/1/").split())
    assert "Traceback" not in done.stderr and jenkins.requests, done.stderr
    assert_every_question_has_a_tree(jenkins)


def test_who_am_i_is_answered_when_only_two_fields_are_asked_for(
    jenkins: LocalJenkins, controller: JenkinsSettings
) -> None:
    with client_of(controller.url, username=controller.username, token=controller.token) as client:
        about = client.about()
    assert (about.user, about.anonymous, about.version) == ("hivel-agent", False, "2.516.2")
    assert jenkins.requests[-1].target == "/whoAmI/api/json?tree=name,anonymous"


def test_what_ended_does_not_run_though_it_occupies_an_executor(
    jenkins: LocalJenkins, controller: JenkinsSettings
) -> None:
    root = "http://127.0.0.1:8080/job/"
    node = {
        "executors": [
            {"currentExecutable": {"url": f"{root}shop/1/", "building": True}},
            {"currentExecutable": {"url": f"{root}shop/2/", "building": False}},
            {"currentExecutable": {"url": f"{root}old-version/3/"}},
            {"currentExecutable": {"url": f"{root}matrix/JDK=17/4/", "building": True}},
            {"currentExecutable": {"_class": "hudson.model.Queue$Task"}},
            {"currentExecutable": {"url": None, "building": None}},
            {"currentExecutable": None},
            {},
        ],
        "oneOffExecutors": [{"currentExecutable": {"url": f"{root}pipeline/{n}/", "building": n == 9}} for n in (8, 9)],
    }
    jenkins.break_with(lambda *_: JSONResponse({"computer": [node, {}]}))
    with client_of(controller.url) as client:
        assert client.running() == {("shop", 1), ("old-version", 3), ("pipeline", 9)}
    assert jenkins.requests[-1].query.count("currentExecutable[url,building]") == 2


@pytest.mark.parametrize(
    "url",
    [
        "https://[your-jenkins]/job/a/2/", "https://[::1/job/a/2/", "http://x/job/a/" + "9" * 4_400 + "/",
        f"http://x/job/a/{2**63}/", "http://x/job/../2/", "http://x/job/a/\u0663/", "\x00", "",
    ],
)  # fmt: skip
def test_an_address_on_an_executor_that_means_no_build_hides_nothing_but_itself(
    jenkins: LocalJenkins, controller: JenkinsSettings, url: str
) -> None:
    """It was a traceback at every poll, and no poll stored anything any more."""
    urls = [url, "http://x/job/shop/7/"]
    node = {"executors": [{"currentExecutable": {"url": each, "building": True}} for each in urls]}
    jenkins.break_with(lambda *_: JSONResponse({"computer": [node]}))
    with client_of(controller.url) as client:
        assert client.running() == {("shop", 7)}


def test_the_local_jenkins_says_what_runs(jenkins: LocalJenkins, controller: JenkinsSettings) -> None:
    jenkins.add_job("deploy/shop")
    jenkins.add_builds("deploy/shop", 2)
    number = jenkins.start_build("deploy/shop")
    with client_of(controller.url, username=controller.username, token=controller.token) as client:
        assert client.running() == {("deploy/shop", number)}


@pytest.mark.parametrize("status", [403, 404, 500, 504])
def test_a_deep_folder_that_cannot_be_read_hides_nothing_but_itself(
    jenkins: LocalJenkins, controller: JenkinsSettings, status: int
) -> None:
    deep_and_wide(jenkins)
    deep = "/".join(f"f{level}" for level in range(8))
    jenkins.break_with(lambda path, _: Response(b"", status) if path.endswith("/f7/api/json") else None)
    with client_of(controller.url, username=controller.username, token=controller.token) as client:
        snapshot = client.snapshot()
        assert {job.full_name for job in snapshot.jobs} == {"mb/deploy", "deploy/shop"}
        assert snapshot.unread == (deep,)
        assert f"folder {deep}: HTTP {status} from /job/f0/" in snapshot.problems[0]
        jenkins.break_with(None)
        assert f"{deep}/f8/deploy" in {job.full_name for job in client.snapshot().jobs}


def test_a_folder_that_is_listed_within_itself_is_asked_for_once() -> None:
    def nested(levels: int) -> str:
        below = f', "jobs": [{nested(levels - 1)}]' if levels > 1 else ""
        return f'{{"fullName": "f/{levels}", "_class": "Folder"{below}}}'

    body = f'{{"jobs": [{nested(8)}]}}'.encode()
    with Scripted(lambda _, connection: connection.send(whole(body))) as server, client_of(server.url) as client:
        snapshot = client.snapshot()
        assert snapshot.problems == ("folder f/1: it is listed within itself",)
        assert len(server.paths) == 2


def test_jenkins_clock_without_a_zone_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = whole(b'{"jobs": []}', head=JSON + b"Date: Mon, 23 Nov 2026 12:00:00\r\n")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        with Scripted(lambda _, c: c.send(answer)) as server, client_of(server.url) as client:
            assert client.snapshot().server_time == 1_795_435_200_000
    finally:
        monkeypatch.undo()
        time.tzset()


def test_progress_is_seen_while_an_answer_comes_in() -> None:
    go_on = threading.Event()

    def answer(_: str, connection: Connection) -> None:
        data = whole(b'{"jobs": []}')
        connection.send(data[:-1])
        go_on.wait(120)
        connection.send(data[-1:])

    with Scripted(answer) as server, client_of(server.url) as client:
        thread = threading.Thread(target=client.snapshot)
        thread.start()
        wait_until(lambda: client.progress > 50, "the first bytes are counted")
        seen = client.progress
        go_on.set()
        thread.join(20)
        assert client.progress == seen + 1
        assert client.requests == 1


@pytest.mark.parametrize("location", [b"http://\xff\xfe/", b"/\xc3\x28", b"//[", b"\x80" * 50], ids=repr)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308, 200, 500])
def test_a_location_that_is_no_address_is_an_error_in_words(location: bytes, status: int) -> None:
    head = b"HTTP/1.1 %d Odd\r\nLocation: %s\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n"
    answer = head % (status, location)
    with (
        Scripted(lambda _, connection: connection.send(answer)) as server,
        client_of(server.url) as client,
        pytest.raises(BadAnswerError, match=r"/api/json"),
    ):
        client.snapshot()
