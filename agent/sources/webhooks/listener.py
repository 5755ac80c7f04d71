"""The listener for webhooks: ``POST /v1/hooks/<name>``. Each platform sends its deployments to a hook of its own.

A delivery is checked, read, stored and then answered: 202 ``{"deployment_id": "…", "state": "pending"}`` for a
deployment, 200 ``{"ignored": "why"}`` for anything else that is signed. Platforms turn a webhook off after some errors,
so a known webhook never gets 404, 410 or 500. Errors are ``{"error": "…"}``: 400 for a body of another shape, 401 for
the signature, 413 for the size, 429 for too many deliveries at a time, 503 to try again later.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.routing import Route

from agent.config.credentials import TokenError
from agent.model.part import Part
from agent.outbox.hooks import Verdict
from agent.outbox.values import OutboxError
from agent.sources.posted import RETRY_AFTER_S, Refused, error_answer, json_answer, not_now, too_large
from agent.sources.webhooks.headers import event_of, id_of
from agent.sources.webhooks.platforms import READERS
from agent.sources.webhooks.room import Place, Room
from agent.sources.webhooks.signatures import can_be_signed, is_signed
from agent.sources.webhooks.values import Delivery, Ignored, Invalid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from agent.config.settings import Platform, WebhookSettings
    from agent.model.times import Clock
    from agent.outbox.hooks import HookDelivery
    from agent.sources.webhooks.values import Meaning

    Accept = Callable[[WebhookSettings, Delivery, Meaning | Invalid], Awaitable[HookDelivery]]

log = structlog.get_logger("webhooks")

# Bytes of one body. An Application of Argo CD with a long history has a megabyte. What GitHub and CircleCI send of
# deployments and runs has 30 KB, and they sign the body: it has to be read before one knows who sent it.
MOST_BYTES = 4 * 1024 * 1024
_LESS_BYTES: dict[Platform, int] = {"github": 1024 * 1024, "circleci": 1024 * 1024}
# Signed deliveries in work at a time.
MOST_REQUESTS = 128
# Refused requests are logged at most this often for each webhook.
LOGGED_EVERY_S = 10.0


@dataclass
class Answers:
    """How often each webhook was answered with each status since the start of the process.

    ``last``: when each webhook got its last signed delivery, UTC ms.
    """

    counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    last: dict[str, int] = field(default_factory=dict)


class Hooks:
    """The application of ``[webhooks] listen``.

    ``accept`` stores a delivery and its meaning. It raises :class:`agent.outbox.values.OutboxError` and must not block
    the event loop.
    """

    def __init__(self, hooks: Sequence[WebhookSettings], accept: Accept, clock: Clock, answers: Answers) -> None:
        self._hooks = {hook.name: hook for hook in hooks}
        self._secrets = {hook.name: _secrets(hook) for hook in hooks}
        self._accept = accept
        self._clock = clock
        self._answers = answers
        self._room = Room()
        self._signed = 0
        self._logged_at: dict[str, float] = {}
        self.app = Starlette(
            routes=[Route("/v1/hooks/{name}" + slash, self._deliver, methods=["POST"]) for slash in ("", "/")],
            exception_handlers={404: _unknown, 405: _unknown},
        )
        self.app.router.redirect_slashes = False

    async def _deliver(self, request: Request) -> Response:
        hook = self._hooks.get(request.path_params["name"])
        if hook is None:
            return error_answer(404, "unknown webhook; see [[webhook]] in the configuration")
        answer = await self._answer(request, hook)
        self._answers.counts[hook.name, answer.status_code] += 1
        return answer

    async def _answer(self, request: Request, hook: WebhookSettings) -> Response:
        try:
            stored = await self._store(request, hook)
        except Refused as error:
            return self._refusal(hook, error)
        except OutboxError as error:
            log.error("delivery cannot be stored", hook=hook.name, reason=str(error))
            return not_now("delivery", str(error))
        except Exception as error:
            log.exception("delivery cannot be stored", hook=hook.name)
            return not_now("delivery", f"internal error of the agent ({type(error).__name__}); see its log")
        return _told(stored)

    async def _store(self, request: Request, hook: WebhookSettings) -> HookDelivery:
        secrets = self._secrets[hook.name]
        if not secrets:
            raise Refused(503, "the secret of the webhook cannot be read")
        most_bytes = _LESS_BYTES.get(hook.platform, MOST_BYTES)
        _refuse_declared(request, most_bytes)
        if not can_be_signed(hook.platform, secrets, request.headers, self._clock.now_ms()):
            raise _unsigned()
        with self._room.place() as place:
            body = await place.read(request, most_bytes)
            now = self._clock.now_ms()
            if not is_signed(hook.platform, secrets, request.headers, body, now):
                raise _unsigned()
            self._answers.last[hook.name] = now
            if self._signed >= MOST_REQUESTS:
                raise Refused(429, "too many deliveries at a time")
            self._signed += 1
            try:
                return await self._accepted(request, hook, body, now, place)
            finally:
                self._signed -= 1

    async def _accepted(
        self, request: Request, hook: WebhookSettings, body: bytes, now: int, place: Place
    ) -> HookDelivery:
        try:
            json = payload_of(body) if _is_form(request) else body
            place.take_values(json)
            part, problem = Part(decoded(json), ""), ""
        except ValueError as error:
            part, problem = Part(None, ""), str(error)
        event = event_of(hook.platform, request.headers, part)
        delivery = Delivery(event=event, id=id_of(hook.platform, request.headers, part), body=part, received_at=now)
        return await self._accept(hook, delivery, Invalid(problem) if problem else meaning_of(delivery, hook))

    def _refusal(self, hook: WebhookSettings, refused: Refused) -> Response:
        """Log some of the refused requests, because anybody can send them."""
        now = self._clock.monotonic()
        if now - self._logged_at.get(hook.name, -LOGGED_EVERY_S) >= LOGGED_EVERY_S:
            self._logged_at[hook.name] = now
            log.warning("delivery refused", hook=hook.name, status=refused.status, reason=str(refused))
        headers = {"Retry-After": RETRY_AFTER_S} if refused.status in (429, 503) else {}
        # The rest of the body is not read.
        closing = {"Connection": "close"} if refused.status in (408, 413, 429) else {}
        return error_answer(refused.status, str(refused), headers | closing)


def meaning_of(delivery: Delivery, hook: WebhookSettings) -> Meaning | Invalid:
    """What a delivery means."""
    reader = READERS.get(hook.platform)
    if reader is None:
        return Ignored(f"platform {hook.platform} is not supported yet")
    try:
        return reader(delivery, hook)
    except ValueError as error:
        return Invalid(f"the body is not what {hook.platform} sends: {error}")


def decoded(body: bytes) -> object:
    """The JSON of a body. Raises :class:`ValueError`."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the body is not JSON: {error}") from None


def payload_of(body: bytes) -> bytes:
    """The JSON in a form, which GitHub can send. Raises :class:`ValueError`."""
    try:
        payload = parse_qs(body.decode("ascii"), max_num_fields=10).get("payload")
    except ValueError:
        payload = None
    if not payload:
        raise ValueError("the form has no field payload; choose application/json as the content type of the webhook")
    return payload[0].encode("utf-8", "replace")


def _is_form(request: Request) -> bool:
    content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return content == "application/x-www-form-urlencoded"


def _secrets(hook: WebhookSettings) -> tuple[str, ...]:
    found = []
    for secret in hook.secrets:
        try:
            found.append(secret.reveal())
        except TokenError as error:
            log.error("the secret of a webhook cannot be read", hook=hook.name, reason=str(error))
    return tuple(found)


def _refuse_declared(request: Request, most_bytes: int) -> None:
    """Refuse a body whose declared size is over the limit, before it is read."""
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:12]) > most_bytes:
        raise too_large(most_bytes)


def _unsigned() -> Refused:
    return Refused(401, "the signature is missing or wrong")


def _told(stored: HookDelivery) -> Response:
    """The answer. It depends only on what is stored, so that a repeated delivery gets the same one."""
    if stored.verdict is Verdict.STORED:
        return json_answer(202, {"deployment_id": stored.deployment_id, "state": stored.state})
    if stored.verdict is Verdict.STARTED:
        return json_answer(202, {"started": "the start is remembered until the deployment ends"})
    if stored.verdict is Verdict.REFUSED:
        return error_answer(400, stored.reason)
    return json_answer(200, {"ignored": stored.reason})


async def _unknown(request: Request, _: Exception) -> Response:
    if request.url.path.startswith("/v1/hooks/") and request.method != "POST":
        return error_answer(405, "only POST is allowed", {"Allow": "POST"})
    return error_answer(404, "unknown path; webhooks are sent to /v1/hooks/<name>")
