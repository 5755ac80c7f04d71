"""``emit --direct``: sends one report to Hivel as the event that an agent would send. Nothing is stored."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from agent.config.credentials import TokenError, find_token
from agent.config.settings import DeliverySettings, HivelSettings
from agent.delivery.answers import Outcome, Verdict
from agent.delivery.hivel import HivelClient
from agent.delivery.retry import Backoff
from agent.deployments.derive import Rules, derive
from agent.deployments.plan import Moment, plan
from agent.model import fact as facts
from agent.model.deployment import event_of
from agent.model.report import ReportError
from agent.model.times import Clock
from agent.outbox.values import Claimed
from agent.sources.reports.parse import parse
from agent.sources.reports.sending import SendError, base_address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

TOKEN = "HIVEL_API_TOKEN"  # noqa: S105 - the name of a variable
TRIES = 5
# The time limit of `emit` ends the attempts earlier.
_BACKOFF = Backoff(2_000, 10_000)
_PART_OF_TIMEOUT = 0.95
# How an answer's advice names the settings, and what they are here.
_HERE = (
    ("[hivel] token_file", TOKEN),
    ("[hivel] url", "the address after --direct"),
    ("[hivel] ca_file", "SSL_CERT_FILE"),
)


class HivelDirect:
    """Hivel at one address, with the API key from the environment."""

    def __init__(
        self, url: str, clock: Clock | None = None, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """Raises :class:`agent.sources.reports.sending.SendError` if the address or the token cannot be used."""
        if not os.environ.get(TOKEN, "").strip():
            raise SendError(f"the environment variable {TOKEN} is empty or not set; set it to the API key of Hivel")
        try:
            token = find_token(None, TOKEN, "")
        except TokenError as error:
            raise SendError(str(error)) from None
        if token is None:  # pragma: no cover - checked above
            raise SendError(TOKEN)
        self._settings = HivelSettings(base_address("--direct", url, TOKEN).geturl(), token)
        self._clock = clock or Clock()
        self._sleep = sleep

    def event(self, report: Mapping[str, object]) -> dict[str, Any]:
        """The event of a report. Raises :class:`agent.model.report.ReportError`."""
        claimed = claimed_of(report, self._clock.now_ms())
        built: dict[str, Any] = msgspec.to_builtins(event_of(claimed.deployment_id, claimed.content))
        return built

    def send(self, report: Mapping[str, object], timeout_s: float) -> str:
        """Send the event, with a few retries within ``timeout_s``; returns the result for people.

        Raises :class:`agent.model.report.ReportError` and :class:`agent.sources.reports.sending.SendError`.
        """
        claimed = claimed_of(report, self._clock.now_ms())
        outcome = asyncio.run(self._deliver(claimed, timeout_s))
        if outcome.verdict is not Verdict.DELIVERED:
            raise SendError(f"{self._settings.url}: {_words(outcome)}")
        return f"sent to {self._settings.url}: {claimed.deployment_id}" + (
            " (Hivel already had it)" if outcome.already_there else ""
        )

    async def _deliver(self, claimed: Claimed, timeout_s: float) -> Outcome:
        """Attempt until the outcome is final, at most :data:`TRIES` times. Ends before `emit` gives up."""
        outcome = Outcome(Verdict.RETRY, f"no answer within {timeout_s:g} s")
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s * _PART_OF_TIMEOUT):
                async for outcome in self._attempts(claimed, timeout_s):  # noqa: B007 - the last one counts
                    pass
        return outcome

    async def _attempts(self, claimed: Claimed, timeout_s: float) -> AsyncIterator[Outcome]:
        """The outcome of each attempt."""
        deadline = self._clock.monotonic() + timeout_s
        delivery = DeliverySettings(concurrency=1, timeout_ms=int(min(10.0, timeout_s) * 1000))
        async with HivelClient(self._settings, delivery, self._clock) as client:
            for attempt in range(1, TRIES + 1):
                outcome = await client.send(claimed)
                yield outcome
                wait_s = max(_BACKOFF.delay_ms(attempt), outcome.retry_after_ms or 0) / 1000
                too_late = self._clock.monotonic() + wait_s >= deadline
                if outcome.verdict is not Verdict.RETRY or attempt == TRIES or too_late:
                    return
                await self._sleep(wait_s)


def claimed_of(report: Mapping[str, object], now_ms: int) -> Claimed:
    """The deployment of a report, as an agent without configured rules and controllers derives it.

    Raises :class:`agent.model.report.ReportError` if it gives no event.
    """
    parsed = parse(report, ())
    fact = facts.report(parsed.run, parsed.said, source="emit", at=now_ms)
    [row] = plan(derive([fact], Rules(())), [], Moment(now_ms, 0))
    if row.content.problem is not None:
        raise ReportError(f"invalid report: {row.content.problem}")
    return Claimed(0, row.deployment_id or "", row.revision, row.content, 0, now_ms)


def _words(outcome: Outcome) -> str:
    words = outcome.reason or outcome.verdict.value
    for name, here in _HERE:
        words = words.replace(name, here)
    return words
