"""What an answer of Hivel means, and when to try again. The one place where this is decided."""

from __future__ import annotations

import email.utils
import enum
import random
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import msgspec

BODY_LIMIT = 64 * 1024


class Verdict(enum.StrEnum):
    """What to do with the event after an attempt."""

    DELIVERED = "delivered"
    RETRY = "retry"  # something is out of order for a while: again later
    FAILED = "failed"  # this event is wrong, others are not: a person has to look
    PAUSED = "paused"  # the configuration is wrong: every event waits, no attempt is burnt


@dataclass(frozen=True)
class Answer:
    """What came back for one POST. ``status`` None: no answer, ``body`` then says what happened instead."""

    status: int | None
    body: str = ""
    content_type: str = ""
    retry_after: str | None = None
    location: str | None = None
    untrusted_certificate: bool = False
    timed_out: bool = False

    @property
    def kind(self) -> str:
        """What came, in a word for counting: ``http_503``, ``timeout`` or ``network``."""
        if self.status is not None:
            return f"http_{self.status}"
        return "timeout" if self.timed_out else "network"


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason in words, and the pause that Hivel asked for (ms)."""

    verdict: Verdict
    reason: str | None = None
    retry_after_ms: int | None = None


def judge(answer: Answer, deployment_id: str, now_ms: int) -> Judgement:  # noqa: PLR0911 - one line a class
    """The classes of answers; never raises, whatever the answer holds. ``now_ms`` is for a Retry-After date."""
    status = answer.status
    if status is None:
        if answer.untrusted_certificate:
            return Judgement(
                Verdict.PAUSED,
                f"{answer.body}: the certificate of [hivel] url is not trusted here; if it comes from an authority of "
                "your own, name that in [hivel] ca_file",
            )
        return Judgement(Verdict.RETRY, answer.body)
    if 200 <= status < 300:
        return _judge_success(answer, deployment_id)
    text = f"HTTP {status}: {_first_words(answer.body)}"
    if status == 409 or (status in (400, 422) and _says_already_there(answer.body)):
        return Judgement(Verdict.DELIVERED, f"was already there ({text})")
    if status in (408, 425, 429) or status >= 500:
        return Judgement(Verdict.RETRY, text, parse_retry_after(answer.retry_after, now_ms))
    if status in (400, 413, 414, 422, 431) and not _is_web_page(answer):
        return Judgement(Verdict.FAILED, text)
    return Judgement(Verdict.PAUSED, f"{text}; {_advice(answer)}")


def _judge_success(answer: Answer, deployment_id: str) -> Judgement:
    """A 2xx is only Hivel's when it says what section 10 of Hivel's page says."""
    if _is_web_page(answer):
        return Judgement(
            Verdict.PAUSED, f"HTTP {answer.status} with a web page: [hivel] url leads to a login page or a proxy"
        )
    content = _json(answer.body)
    if isinstance(content, dict):
        if content.get("success") is False:
            if _says_already_there(answer.body):
                return Judgement(Verdict.DELIVERED, f"was already there ({_first_words(answer.body)})")
            return Judgement(Verdict.FAILED, f"HTTP {answer.status}: {_first_words(answer.body)}")
        if content.get("success") is True or content.get("deployment_id") == deployment_id:
            return Judgement(Verdict.DELIVERED)
    return Judgement(Verdict.RETRY, f"HTTP {answer.status}, but not Hivel's answer: {_first_words(answer.body)}")


def _is_web_page(answer: Answer) -> bool:
    """Hivel speaks JSON; pages come from proxies, load balancers and logins before it."""
    return "html" in answer.content_type.lower() or answer.body.lstrip()[:1] == "<"


def _json(body: str) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def _says_already_there(body: str) -> bool:
    words = body.lower()
    return "already exist" in words or ("duplicate" in words and "deployment_id" in words)


def _advice(answer: Answer) -> str:
    match answer.status:
        case 401 | 403:
            return "the token is not accepted: check [hivel] token_file and the key's organization in Hivel"
        case status if status is not None and 300 <= status < 400:
            return f"a redirect to {answer.location}: set [hivel] url to where Hivel really is"
        case 404 | 405 | 410:
            return "there is no Deployment Events API: check [hivel] url (https://app.hivel.ai or https://app.hivel.in)"
        case 407:
            return "the proxy wants credentials: check HTTPS_PROXY"
        case _:
            return "not an answer that an event can mend: check [hivel] url and the token"


def _first_words(body: str) -> str:
    """The part of an answer that tells a person most: Hivel's own error, else its beginning on one line."""
    content = _json(body)
    if isinstance(content, dict):
        told = [str(content[key]) for key in ("message", "error") if content.get(key)]
        if told:
            return ": ".join(told)[:300]
    return " ".join(body.split())[:200] or "(empty)"


def parse_retry_after(value: str | None, now_ms: int) -> int | None:
    """Milliseconds to wait as a Retry-After header says, in seconds or as a date; None for nonsense."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return int(text[:12]) * 1000
    try:
        moment = email.utils.parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0, int(moment.timestamp() * 1000) - now_ms)
    except (ValueError, OverflowError, TypeError):
        return None


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with full jitter: a random time up to ``initial_ms`` doubled with every attempt."""

    initial_ms: int
    max_ms: int

    def delay_ms(self, attempts: int, retry_after_ms: int | None = None, rng: random.Random | None = None) -> int:
        """How long to wait after ``attempts`` attempts (1: after the first), never beyond ``max_ms``."""
        ceiling = min(self.max_ms, self.initial_ms * 2 ** min(max(attempts - 1, 0), 40))
        delay = (rng or random).uniform(0, ceiling)
        return int(min(max(delay, retry_after_ms or 0), self.max_ms))
