"""The pages without a daemon, over an outbox."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import httpx

from agent.config.credentials import Token
from agent.config.settings import Address, WebSettings
from agent.model.times import Clock
from agent.web.app import application
from agent.web.task_file import TaskFile
from agent.web.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.config.settings import Settings
    from agent.ingest.ingest import Ingest
    from agent.inspect.asked import Asked
    from agent.inspect.silent import SilentJob
    from agent.outbox.interface import Outbox

T = TypeVar("T")
TOKEN = "token-of-the-test"


@dataclass
class Bare:
    """What the pages need, with nothing else going on. ``outbox`` can be replaced between requests."""

    settings: Settings
    outbox: Outbox
    clock: Clock = field(default_factory=Clock)

    async def read(self, look: Callable[[Outbox], T]) -> T:
        return look(self.outbox)

    async def change(self, act: Callable[[Ingest], T]) -> T:
        raise NotImplementedError

    def asked(self) -> Sequence[Asked]:
        return ()

    def silent_jobs(self) -> Sequence[SilentJob]:
        return ()

    def problems(self) -> Sequence[str]:
        return ()

    def wake(self, controller: str) -> None:
        raise NotImplementedError

    def client(self) -> httpx.AsyncClient:
        """A client of these pages that may act."""
        web = WebSettings(Address("127.0.0.1", 0), token=Token(TOKEN))
        self.settings = replace(self.settings, web=web)

        async def present() -> Bare:
            return self

        tasks = Tasks(TaskFile(self.settings.outbox), present, self.clock)
        transport = httpx.ASGITransport(app=application(web, present, self.clock, tasks))
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers)
