"""What hostile clients of the listener for webhooks cost the others: waiting, and memory.

``python -m tests.benchmarks.webhooks_hostile`` runs it; see README.md beside this file.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from agent.sandbox.hivel import LocalHivel
from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer
from tests import webhooks
from tests.integration.hooked import Hooked, deployment_status

SLOW = 200
HONEST = 20
SIZE = 4 * 1024 * 1024
# What the listener reads of GitHub.
READ = 1024 * 1024
# Many values in few bytes.
NESTED = b"[" + b"[]," * (SIZE // 3 - 1) + b"0]"


async def keeps_waiting(url: str, size: int, sent: int) -> None:
    """A client with a forged signature that announces a body, does not send all of it, and comes back at once."""
    host, port = str(urlsplit(url).hostname), urlsplit(url).port
    head = (
        f"POST /v1/hooks/github HTTP/1.1\r\nHost: a\r\nX-Hub-Signature-256: sha256=00\r\nContent-Length: {size}\r\n\r\n"
    )
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(head.encode() + b" " * sent)
            await reader.read()
            writer.close()


async def honest(url: str) -> list[float]:
    """How long deliveries take, sent one after the other, and again after 0.1 s when they are refused."""
    took = []
    async with httpx.AsyncClient(timeout=120, trust_env=False, verify=False) as http:
        for number in range(1, HONEST + 1):
            body = webhooks.encoded(deployment_status(workflow_run__id=number))
            headers = webhooks.github(body, "deployment_status", delivery=str(number)) | {"Connection": "close"}
            began = time.perf_counter()
            while time.perf_counter() - began < 60:
                with suppress(httpx.TransportError):
                    if (await http.post(f"{url}/v1/hooks/github", content=body, headers=headers)).status_code == 202:
                        break
                await asyncio.sleep(0.1)
            took.append(time.perf_counter() - began)
    return took


async def beside(url: str, clients: int, size: int, sent: int) -> list[float]:
    """The times of honest deliveries beside so many slow clients."""
    slow = [asyncio.create_task(keeps_waiting(url, size, sent)) for _ in range(clients)]
    await asyncio.sleep(2)
    found = await honest(url)
    for each in slow:
        each.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    return found


async def at_once(url: str, bodies: int) -> list[int]:
    """Signed bodies with many values: the statuses."""
    now = time.time_ns() // 1_000_000
    headers = webhooks.gitlab(NESTED, "Deployment Hook", delivery="one", now_ms=now)
    async with httpx.AsyncClient(timeout=120, trust_env=False, verify=False) as http:
        posts = (http.post(f"{url}/v1/hooks/gitlab", content=NESTED, headers=headers) for _ in range(bodies))
        return [each.status_code for each in await asyncio.gather(*posts)]


def peak_mb(pid: int) -> float:
    """The most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Measure, and print one line for each figure."""
    with (
        LocalServer(LocalJenkins().app) as jenkins,
        LocalServer(LocalHivel().app) as hivel,
        tempfile.TemporaryDirectory() as folder,
    ):
        for name, clients, size, sent in (
            ("no other clients", 0, 0, 0),
            (f"{SLOW} slow clients that send no body", SLOW, 1_000, 0),
            ("80 slow clients that send 1 MiB but a byte", 80, READ, READ - 1),
        ):
            (Path(folder) / name).mkdir()
            daemon = Hooked.opened(Path(folder) / name, jenkins=jenkins, hivel=hivel)
            process = daemon.begin()
            try:
                took = sorted(asyncio.run(beside(daemon.url, clients, size, sent)))
                print(f"{name}: p50 {took[len(took) // 2] * 1000:.0f} ms, max {took[-1] * 1000:.0f} ms")  # noqa: T201
                if not clients:
                    for bodies in (1, 7):
                        before = peak_mb(process.pid)
                        statuses = asyncio.run(at_once(daemon.url, bodies))
                        more = peak_mb(process.pid) - before
                        print(f"{bodies} signed bodies of {len(NESTED) // 3} lists: {more:.0f} MB more, {statuses}")  # noqa: T201
            finally:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
