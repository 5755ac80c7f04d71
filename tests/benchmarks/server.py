"""A controller that costs next to nothing: HTTP/1.1 on loopback, documents rendered and compressed beforehand.

Run as ``python -m tests.benchmarks.server``: it prints its port, and ends when its standard input does. Documents
are made from the recorded ones. What a client asks for with ``tree=`` is rendered when it is asked for the first
time. Latency is added to each answer without holding up others. ``/control/…`` is for the benchmark: no latency,
not counted.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from agent.sandbox.jenkins.tree import parse
from tests.benchmarks.controller import BUILDS, JOBS_IN_A_FOLDER, folder_name, fresh_jobs, job_name, newest_build

RECORDED = Path(__file__).parents[1] / "data" / "recorded-jenkins"
RUN = "org.jenkinsci.plugins.workflow.job.WorkflowRun"
JOB = "org.jenkinsci.plugins.workflow.job.WorkflowJob"
FOLDER = "com.cloudbees.hudson.plugins.folder.Folder"
# Asked of every job by some client.
PREPARED = ("", "builds[number,url]")
HEAD = (
    "HTTP/1.1 200 OK\r\nX-Content-Type-Options: nosniff\r\nX-Jenkins: 2.516.2\r\nX-Jenkins-Session: 580f5180\r\n"
    "Content-Type: application/json;charset=UTF-8\r\n"
)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html;charset=utf-8\r\nContent-Length: 0\r\n\r\n"


def recorded(name: str) -> Any:
    """A recorded document."""
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))


@dataclass
class Document:
    """The bytes of one answer, plain and compressed."""

    plain: bytes
    gzipped: bytes

    @classmethod
    def of(cls, content: Any) -> Document:
        plain = json.dumps(content, separators=(",", ":")).encode()
        return cls(plain, gzip.compress(plain, 6, mtime=0))


@dataclass
class Stats:
    """What was asked since the last ``/control/zero``. ``root_target``: the last request for all jobs."""

    requests: int = 0
    bytes: int = 0
    root_target: str = ""


class Jenkins:
    """The documents of a controller with so many jobs, before and after the new builds."""

    def __init__(self, url: str, jobs: int) -> None:
        self.url = url
        self.jobs = jobs
        self.fresh = frozenset(fresh_jobs(jobs))
        self._job_numbers = {job_name(job): job for job in range(jobs)}
        self._job = recorded("jobs/pipe-deploy.json")
        self._build = recorded("builds/pipe-deploy-10.json")
        self._build["actions"].append(recorded("builds/deploy-param-7.json")["actions"][3])
        self._root = recorded("root.json")
        self._now_ms = int(time.time() * 1000)
        self._rendered: dict[tuple[bool, tuple[str, ...], str], Document | None] = {}
        for job in range(jobs):
            for tree in PREPARED:
                self.document(self._segments(job), tree, after=job in self.fresh)

    def prepare_after(self) -> None:
        """Render what was asked of all jobs once more as it is after the new builds."""
        for after, segments, tree in list(self._rendered):
            if not after and not segments:
                self.document(segments, tree, after=True)

    def document(self, segments: tuple[str, ...], tree: str, *, after: bool) -> Document | None:
        """The document below a path, None for 404."""
        key = (after, segments, tree)
        if key not in self._rendered:
            content = self._content(segments, after=after)
            if content is not None and tree:
                content = parse(tree).apply(content)
            self._rendered[key] = None if content is None else Document.of(content)
        return self._rendered[key]

    def _content(self, segments: tuple[str, ...], *, after: bool) -> Any:
        match segments:
            case ():
                return self._all(after=after)
            case ("crumbIssuer",) | ("whoAmI",):
                return recorded("crumb.json" if segments[0] == "crumbIssuer" else "whoami.json")
            case ("computer",):
                # Nothing runs. With tree=, an idle executor says `currentExecutable: null`.
                computer = recorded("computer.json")
                computer["computer"][0] |= {"executors": [{"currentExecutable": None}] * 4, "oneOffExecutors": []}
                return computer
            case ("job", _, "job", name, *number) if name in self._job_numbers:
                return self._below(self._job_numbers[name], number, after=after)
        return None

    def _below(self, job: int, number: list[str], *, after: bool) -> Any:
        """A job, or one of its builds."""
        if not number:
            return self._one(job, after=after)
        exists = number[0].isdecimal() and int(number[0]) in self.kept(job, self._last(job, after=after))
        return self._one_build(job, int(number[0])) if exists else None

    def _segments(self, job: int) -> tuple[str, ...]:
        return ("job", folder_name(job // JOBS_IN_A_FOLDER), "job", job_name(job))

    def kept(self, job: int, last: int) -> range:
        """The numbers of the builds of a job, newest first."""
        return range(last, newest_build(job) - BUILDS, -1)

    def _url(self, job: int) -> str:
        return self.url + "/".join(self._segments(job)) + "/"

    def _last(self, job: int, *, after: bool) -> int:
        return newest_build(job) + (1 if after and job in self.fresh else 0)

    def _all(self, *, after: bool) -> Any:
        folders = []
        for folder in range(self.jobs // JOBS_IN_A_FOLDER):
            first = folder * JOBS_IN_A_FOLDER
            name = folder_name(folder)
            folders.append(
                {
                    "_class": FOLDER, "name": name, "fullName": name, "url": f"{self.url}job/{name}/",
                    "jobs": [self._listed(job, name, after=after) for job in range(first, first + JOBS_IN_A_FOLDER)],
                }
            )  # fmt: skip
        return self._root | {"jobs": folders, "url": self.url}

    def _listed(self, job: int, folder: str, *, after: bool) -> Any:
        return {
            "_class": JOB, "name": job_name(job), "fullName": f"{folder}/{job_name(job)}", "url": self._url(job),
            "color": "blue", "nextBuildNumber": self._last(job, after=after) + 1,
        }  # fmt: skip

    def _one(self, job: int, *, after: bool) -> Any:
        last, url = self._last(job, after=after), self._url(job)
        folder, name = folder_name(job // JOBS_IN_A_FOLDER), job_name(job)
        first = self.kept(job, last)[-1]
        newest = {"_class": RUN, "number": last, "url": f"{url}{last}/"}
        shown = self._job | {
            "displayName": name, "fullDisplayName": f"{folder} » {name}", "fullName": f"{folder}/{name}", "name": name,
            "url": url, "nextBuildNumber": last + 1,
            "builds": _Builds(self, job, last),
            "firstBuild": {"_class": RUN, "number": first, "url": f"{url}{first}/"},
        }  # fmt: skip
        return shown | dict.fromkeys(("lastBuild", "lastCompletedBuild", "lastStableBuild"), newest)

    def _one_build(self, job: int, number: int) -> Any:
        folder, name, url = folder_name(job // JOBS_IN_A_FOLDER), job_name(job), self._url(job)
        started = self._now_ms - (newest_build(job) + 1 - number) * 3_600_000 - 10_000
        return self._build | {
            "displayName": f"#{number}", "fullDisplayName": f"{folder} » {name} #{number}", "id": str(number),
            "number": number, "queueId": 1_000 + number, "timestamp": started, "url": f"{url}{number}/",
            "nextBuild": None, "previousBuild": {"number": number - 1, "url": f"{url}{number - 1}/"},
        }  # fmt: skip


class _Builds(list[Any]):
    """The newest builds first: a list of `_class`, number and url, of whole builds once a tree cuts it down."""

    def __init__(self, jenkins: Jenkins, job: int, last: int) -> None:
        url = jenkins._url(job)
        super().__init__({"_class": RUN, "number": n, "url": f"{url}{n}/"} for n in jenkins.kept(job, last))
        self._jenkins, self._job, self._last = jenkins, job, last

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, slice):
            numbers = self._jenkins.kept(self._job, self._last)[item]
            return [self._jenkins._one_build(self._job, number) for number in numbers]
        return super().__getitem__(item)


@dataclass
class Server:
    """All connections, and what they have in common."""

    port: int = 0
    latency_s: float = 0.0
    after: bool = False
    stats: Stats = field(default_factory=Stats)
    controllers: dict[int, Jenkins] = field(default_factory=dict)
    jenkins: Jenkins | None = None

    def control(self, path: str, query: str) -> bytes:
        """What the benchmark says; the answer to each is the statistics."""
        values = {key: found[0] for key, found in parse_qs(query).items()}
        if path == "/control/reset":
            jobs, self.after, self.latency_s = int(values["jobs"]), False, float(values["latency_ms"]) / 1000
            if jobs not in self.controllers:
                self.controllers[jobs] = Jenkins(f"http://127.0.0.1:{self.port}/", jobs)
            self.jenkins = self.controllers[jobs]
        elif path == "/control/advance" and self.jenkins is not None:
            self.jenkins.prepare_after()
            self.after = True
        answer = json.dumps(asdict(self.stats)).encode()
        if path != "/control/stats":
            self.stats = Stats(root_target=self.stats.root_target)
        return f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode() + answer

    def answer(self, target: str, *, compressed: bool) -> bytes:
        """The whole response to one request."""
        path, _, query = target.partition("?")
        segments = [unquote(segment) for segment in path.split("/") if segment]
        tree = parse_qs(query).get("tree", [""])[0]
        if segments == ["api", "json"]:
            self.stats.root_target = target
        document = None
        if self.jenkins is not None and segments[-2:] == ["api", "json"]:
            document = self.jenkins.document(tuple(segments[:-2]), tree, after=self.after)
        if document is None:
            response = NOT_FOUND
        else:
            body = document.gzipped if compressed else document.plain
            encoding = "Content-Encoding: gzip\r\n" if compressed else ""
            head = f"{HEAD}{encoding}Content-Length: {len(body)}\r\nDate: {formatdate(usegmt=True)}\r\n\r\n"
            response = head.encode() + body
        self.stats.requests += 1
        self.stats.bytes += len(response)
        return response


class Connection(asyncio.Protocol):
    """One kept-alive connection; requests are GETs without a body."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            self._answer(head.decode("latin-1"))

    def _answer(self, head: str) -> None:
        request, _, headers = head.partition("\r\n")
        target = request.split(" ")[1]
        assert self._transport is not None
        if target.startswith("/control/"):
            path, _, query = target.partition("?")
            self._transport.write(self._server.control(path, query))
            return
        accepted = next((line for line in headers.lower().split("\r\n") if line.startswith("accept-encoding:")), "")
        send = partial(self._send, target, compressed="gzip" in accepted)
        if self._server.latency_s:
            asyncio.get_running_loop().call_later(self._server.latency_s, send)
        else:
            send()

    def _send(self, target: str, *, compressed: bool) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._server.answer(target, compressed=compressed))


async def main() -> None:
    """Serve until standard input ends."""
    state = Server()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", 0, backlog=256)
    state.port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"{state.port}\n")
    sys.stdout.flush()
    async with server:
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
