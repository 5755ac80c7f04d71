"""What an answer of Hivel means. The one place where this is decided."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from agent.model.times import parse_retry_after

# So much of an answer is read, in bytes, and so much of it is looked at when it is unpacked; and of a Location.
BODY_LIMIT = 64 * 1024
LOCATION_LIMIT = 300
# How a refusal says that this very event is known, in lower case and without the id that it may name; beside it there
# may be what kind of refusal it is. Everything else that speaks of something that exists is about something else.
_ALREADY_THERE = (
    "deployment already exists", "deployment event already exists", "deployment_id already exists",
    "duplicate deployment_id",
)  # fmt: skip
_KINDS_OF_REFUSAL = ("", "bad request", "conflict", "unprocessable entity", "validation failed")
_SAY_NO_MORE = {"message", "error", "deployment_id", "success", "status", "statusCode"}
_MARKS = str.maketrans("'\"`:", "    ")


class Verdict(enum.StrEnum):
    """What to do with a deployment after an attempt."""

    DELIVERED = "delivered"
    RETRY = "retry"  # something is out of order for a while: again later
    FAILED = "failed"  # this deployment is refused, others are not: a person has to look
    PAUSED = "paused"  # the configuration is wrong: every deployment waits, no attempt is burnt


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
class Outcome:
    """What came of an attempt: the verdict with its reason in words, and what it was made of.

    ``retry_after_ms``: the pause that Hivel asked for. ``already_there``: Hivel knew the id before. ``kind``: what
    came, in a word for counting.
    """

    verdict: Verdict
    reason: str | None = None
    retry_after_ms: int | None = None
    already_there: bool = False
    http_status: int | None = None
    answer: str = ""
    kind: str = "error"


def classify(answer: Answer, deployment_id: str, now_ms: int) -> Outcome:
    """The outcome of an attempt that was answered so; never raises, whatever the answer holds.

    ``now_ms`` (UTC) is for a Retry-After that is a date.
    """
    outcome = _classify(answer, deployment_id, now_ms)
    return replace(outcome, http_status=answer.status, answer=answer.body, kind=answer.kind)


def _classify(answer: Answer, deployment_id: str, now_ms: int) -> Outcome:  # noqa: PLR0911 - one line a class
    status = answer.status
    if status is None:
        if answer.untrusted_certificate:
            return Outcome(Verdict.PAUSED, answer.body)  # with advice: see agent.model.tls
        return Outcome(Verdict.RETRY, answer.body)
    if 200 <= status < 300:
        return _classify_success(answer, deployment_id)
    text = f"HTTP {status}: {_first_words(answer.body)}"
    if status == 409 or (status in (400, 422) and _says_already_there(answer.body, deployment_id)):
        return Outcome(Verdict.DELIVERED, f"was already there ({text})", already_there=True)
    if status in (408, 425, 429) or status >= 500:
        return Outcome(Verdict.RETRY, text, parse_retry_after(answer.retry_after, now_ms))
    if status in (400, 413, 414, 422, 431) and not _is_web_page(answer):
        return Outcome(Verdict.FAILED, text)
    return Outcome(Verdict.PAUSED, f"{text}; {_advice(answer)}")


def _classify_success(answer: Answer, deployment_id: str) -> Outcome:
    """A 2xx is only Hivel's when it says what section 10 of Hivel's page says."""
    if _is_web_page(answer):
        return Outcome(
            Verdict.PAUSED, f"HTTP {answer.status} with a web page: [hivel] url leads to a login page or a proxy"
        )
    content = _json(answer.body)
    if isinstance(content, dict):
        if content.get("success") is False:
            if _says_already_there(answer.body, deployment_id):
                reason = f"was already there ({_first_words(answer.body)})"
                return Outcome(Verdict.DELIVERED, reason, already_there=True)
            return Outcome(Verdict.FAILED, f"HTTP {answer.status}: {_first_words(answer.body)}")
        if content.get("success") is True or content.get("deployment_id") == deployment_id:
            return Outcome(Verdict.DELIVERED)
    return Outcome(Verdict.RETRY, f"HTTP {answer.status}, but not Hivel's answer: {_first_words(answer.body)}")


def _is_web_page(answer: Answer) -> bool:
    """Hivel speaks JSON; pages come from proxies, load balancers and logins before it."""
    return "html" in answer.content_type.lower() or answer.body.lstrip()[:1] == "<"


def _json(body: str) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def _says_already_there(body: str, deployment_id: str) -> bool:
    """Whether the answer says that Hivel has this very id, and nothing else.

    What is taken for a delivery is sent to nobody any more: in doubt a person has to look.
    """
    content = _json(body)
    if not isinstance(content, dict) or not content.keys() <= _SAY_NO_MORE:
        return False
    if content.get("deployment_id", deployment_id) != deployment_id:
        return False
    said = [content[key] for key in ("message", "error") if key in content]
    already = [words for words in said if _is_already_there(words, deployment_id)]
    return bool(already) and all(words in already or _bare(words) in _KINDS_OF_REFUSAL for words in said)


def _is_already_there(words: object, deployment_id: str) -> bool:
    if not isinstance(words, str):
        return False
    without_id = words.lower().replace(deployment_id.lower(), " ")
    return _bare(words) in _ALREADY_THERE or _bare(without_id) in _ALREADY_THERE


def _bare(words: object) -> str:
    """In lower case, without marks around what they name."""
    return " ".join(str(words).lower().translate(_MARKS).split()).removesuffix(".").rstrip()


def _advice(answer: Answer) -> str:
    match answer.status:
        case 401 | 403:
            return "the token is not accepted: check [hivel] token_file and the key's organization in Hivel"
        case status if status is not None and 300 <= status < 400:
            return f"a redirect to {answer.location}: set [hivel] url to where Hivel really is"
        case 404 | 405 | 410:
            return "there is no Deployment Events API: check [hivel] url (https://app.hivel.ai or https://app.hivel.in)"
        case 407:
            return "the proxy wants credentials: check HTTPS_PROXY, and write it as http://user:password@host:port"
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
