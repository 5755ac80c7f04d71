"""How many statements a page makes. With a database on another machine each takes a round trip."""

from __future__ import annotations

import asyncio
import re
from contextlib import closing
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from agent.config.file import load
from agent.model.deployment import State
from agent.outbox.values import Change, JobCursor, OpenBuild, Progress, Renamed
from tests.conformance.things import (
    claim_of,
    content,
    deployment,
    finished,
    inserted,
    refusal,
    reported,
    retry,
    run,
    stored,
    success,
)
from tests.engines import traced
from tests.integration.support import NOON
from tests.web.bare import Bare

if TYPE_CHECKING:
    from pathlib import Path

    from agent.outbox.interface import Outbox
    from tests.engines import Engine

MOST = 5
CONFIGURATION = """
[hivel]
url = "http://127.0.0.1:9"
[[jenkins]]
name = "main"
url = "http://127.0.0.1:9"
[outbox]
path = "outbox.db"
"""
SHOP = "https://git.example.test/acme/shop"
HELD, FAILED, DELIVERED = 1, 2, 3
FILTERS = (
    "",
    "state=held",
    "state=held&state=failed&state=delivered",
    "environment=production",
    f"repo={SHOP}",
    f"repo={SHOP}&environment=production&status=success&since=2020-01-01",
    "controller=main&job=deploy/shop&state=held",
    "job=deploy/**&status=success",
    "text=main:deploy&status=success",
    "state=failed&cause=HTTP+400",
    "cause=HTTP+400&state=held&state=failed",
)
RANGES = ("limit=5", "limit=5&before=20", "limit=5&after=10")
PAGES = (
    "/",
    "/failed",
    *(f"/deployments?{each}&{between}" for each in FILTERS for between in RANGES),
    *(f"/deployments/{number}" for number in (HELD, FAILED, DELIVERED, 31, 32)),
)


def fill(outbox: Outbox) -> None:
    """Deployments in all states. Their job was renamed, and some of the builds are still open."""
    said = content(repo_url=SHOP)
    first = [deployment(n, State.HELD if n % 3 == HELD else State.PENDING, content=said) for n in range(1, 31)]
    outbox.store(
        [Change(facts=(finished(each.run), reported(each.run)), inserted=(each,)) for each in first],
    )
    outbox.settle([retry(claim_of(outbox, FAILED))])
    outbox.settle([refusal(claim_of(outbox, FAILED))])
    outbox.settle([success(claim_of(outbox, DELIVERED))])
    opened = {"deploy/new": (OpenBuild(31, seen=True, first_seen_at=NOON, started_at=NOON),)}
    outbox.save_progress(
        Progress("main", renamed=(Renamed(JobCursor("deploy/shop", 5, NOON), "deploy/new"),), open_builds=opened)
    )
    inserted(
        outbox,
        deployment(of=run(31, "deploy/new"), state=State.HELD, content=said),
        deployment(of=run(32, "deploy/other"), state=State.HELD, content=content("staging")),
    )
    assert [stored(outbox, n).state for n in (HELD, FAILED, DELIVERED)] == [State.HELD, State.FAILED, State.DELIVERED]


def with_small_sets(monkeypatch: pytest.MonkeyPatch, outbox: Outbox) -> None:
    """Sets that are too large to be read or counted, as with many deployments."""
    pages = import_module(type(outbox).__module__.replace("engine", "pages"))
    for name in ("CHOSEN", "COUNTED"):
        if hasattr(pages, name):
            monkeypatch.setattr(pages, name, 1)
    monkeypatch.setattr(pages, "WALKED", 20)


@pytest.mark.parametrize("large", [False, True])
def test_a_list_and_a_page_of_one_deployment_make_at_most_five_statements(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, large: bool
) -> None:
    """Whatever is selected, and also if nothing is in any cache: held deployments show the id that they would get."""
    (tmp_path / "config.toml").write_text(CONFIGURATION)
    with closing(engine.open()) as outbox:
        fill(outbox)
        if large:
            with_small_sets(monkeypatch, outbox)
    statements: dict[str, list[str]] = {}

    async def ask() -> None:
        for page in PAGES:
            with closing(engine.open()) as cold, traced(cold) as those:
                async with Bare(load(tmp_path / "config.toml", tokens=False), cold).client() as client:
                    answer = await client.get(page)
            assert answer.status_code == 200, (page, answer.text)
            statements[page] = [each for each in those if not re.match("BEGIN|COMMIT", each)]

    asyncio.run(ask())
    assert all(statements.values()), "every page reads the outbox"
    assert {page: those for page, those in statements.items() if len(those) > MOST} == {}
