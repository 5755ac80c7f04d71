"""One client in a process of its own: ``python -m tests.benchmarks.clients NAME URL JOBS DIRECTORY``.

It gets ready (imports, a first connection, a first listing of the jobs; for the agent the poll before), says so on
standard output, and then finds the new builds once for every line on standard input. Each answer is one line of
JSON: seconds, CPU seconds, how many builds were found, the share of the jobs that was looked at, and the largest
memory that the process ever had resident.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.controller import TOKEN, USERNAME, known_builds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    # Finds what is new; returns how many builds, and the share of the jobs that was looked at.
    Find = Callable[[], Awaitable[tuple[int, float]]]

WIDTH = 16
DEPTH = 10  # of folders; what the documentation of python-jenkins and ujenkins uses
LIMIT_S = 270.0  # longer than this python-jenkins is not watched: its time is then scaled, and the table says so

CONFIGURATION = """
[hivel]
url = "http://127.0.0.1:9"
token_file = "token"
[[jenkins]]
name = "main"
url = "{url}"
username = "{username}"
token_file = "token"
[[deployment]]
job = "**"
environment = "{{params.ENVIRONMENT}}|{{job.environment}}"
[outbox]
path = "outbox.db"
"""


async def agent(url: str, jobs: int, directory: Path) -> AsyncIterator[Find]:
    """The product: what the daemon puts together from its configuration, and its poll in a thread as there."""
    from agent.config import file as config
    from agent.daemon import logs
    from agent.daemon.composition import assembled
    from agent.model.times import Clock

    (directory / "token").write_text(TOKEN)
    (directory / "token").chmod(0o600)
    (directory / "config.toml").write_text(CONFIGURATION.format(url=url, username=USERNAME))
    settings = config.load(directory / "config.toml")
    logs.configure()
    async with assembled(settings, Clock()) as parts:
        [controller] = parts.controllers

        async def find() -> tuple[int, float]:
            report = await controller.poll()
            if report.problems or report.jobs != jobs:
                raise RuntimeError(f"{report.jobs} jobs; {report.problems}")
            return len(report.enqueued), 1.0

        await find()
        yield find


async def python_jenkins(url: str, jobs: int, _: Path) -> AsyncIterator[Find]:
    """As its documentation says: all jobs, the info of each, the info of each build that is new."""
    import jenkins

    server = jenkins.Jenkins(url, username=USERNAME, password=TOKEN)
    known = known_builds(jobs)

    async def find() -> tuple[int, float]:
        found, looked_at, until = 0, 0, time.monotonic() + LIMIT_S
        for job in server.get_all_jobs():
            if "jobs" in job:
                continue
            name = job["fullname"]
            for build in server.get_job_info(name)["builds"]:
                if build["number"] <= known[name]:
                    break
                found += not server.get_build_info(name, build["number"])["building"]
            looked_at += 1
            if time.monotonic() > until:
                break
        return found, looked_at / jobs

    server.get_all_jobs()
    yield find


async def ujenkins(url: str, jobs: int, _: Path) -> AsyncIterator[Find]:
    """As its documentation says, with its asynchronous client: all jobs, the info of each and of each new build."""
    from ujenkins import AsyncJenkinsClient

    client = AsyncJenkinsClient(url, USERNAME, TOKEN)
    known = known_builds(jobs)

    async def names() -> list[str]:
        found = await client.jobs.get(depth=DEPTH)
        return [f"{folder}/{job['name']}" for folder, content in found.items() for job in content["jobs"]]

    async def look(name: str) -> int:
        info = await client.jobs.get_info(name)
        new = [build["number"] for build in info["builds"] if build["number"] > known[name]]
        return sum([not (await client.builds.get_info(name, number))["building"] for number in new])

    async def find() -> tuple[int, float]:
        return await concurrently(look, await names()), 1.0

    await names()
    yield find
    await client.close()


async def api4jenkins(url: str, jobs: int, _: Path) -> AsyncIterator[Find]:
    """As its documentation says, with its asynchronous client: all jobs, the builds of each, each new build."""
    from api4jenkins import AsyncJenkins
    from api4jenkins.job import AsyncProject

    client = AsyncJenkins(url, auth=(USERNAME, TOKEN))
    known = known_builds(jobs)

    async def projects() -> list[Any]:
        return [job async for job in client.aiter(depth=DEPTH) if isinstance(job, AsyncProject)]

    async def look(job: Any) -> int:
        found = 0
        async for build in job.aiter():
            if int(build.url.rstrip("/").rpartition("/")[2]) <= known[job.full_name]:
                break
            found += not (await build.api_json())["building"]
        return found

    async def find() -> tuple[int, float]:
        return await concurrently(look, await projects()), 1.0

    await projects()
    yield find
    await client.http_client.aclose()


async def concurrently(look: Callable[[Any], Awaitable[int]], items: Iterable[Any]) -> int:
    """Look at everything, so many at once; returns the sum."""
    rest = iter(items)

    async def worker() -> int:
        return sum([await look(item) for item in rest])

    return sum(await asyncio.gather(*(worker() for _ in range(WIDTH))))


async def bare_msgspec(url: str, _: int, __: Path) -> AsyncIterator[Find]:
    """The bare cost of asking: fetch the agent's own URL on a kept-alive connection and decode the least of it."""
    from tests.benchmarks import bare

    async for find in _fetch_and(bare.decode, url):
        yield find


async def bare_json(url: str, _: int, __: Path) -> AsyncIterator[Find]:
    """The same with ``json.loads``."""
    async for find in _fetch_and(json.loads, url):
        yield find


async def _fetch_and(decode: Callable[[bytes], Any], url: str) -> AsyncIterator[Find]:
    import requests

    with requests.Session() as session:
        session.auth = (USERNAME, TOKEN)

        def fetch() -> None:
            response = session.get(url, timeout=30)
            response.raise_for_status()
            decode(response.content)

        async def find() -> tuple[int, float]:
            await asyncio.to_thread(fetch)
            return 0, 1.0

        await find()
        yield find


CLIENTS = {
    "agent": agent,
    "python-jenkins": python_jenkins,
    "ujenkins": ujenkins,
    "api4jenkins": api4jenkins,
    "bare-msgspec": bare_msgspec,
    "bare-json": bare_json,
}


async def main(name: str, url: str, jobs: str, directory: str) -> None:
    """Get ready, then find as often as told."""
    async for find in CLIENTS[name](url, int(jobs), Path(directory)):
        say({"ready": True})
        while await asyncio.to_thread(sys.stdin.readline):
            start, cpu = time.perf_counter(), time.process_time()
            found, share = await find()
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            say({"seconds": seconds, "cpu": cpu, "found": found, "share": share, "peak": peak})


def say(message: dict[str, Any]) -> None:
    """One line to whoever started this."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
