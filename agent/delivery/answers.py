"""What an answer of Hivel means. Nothing else decides this."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from agent.model.times import parse_retry_after

# Limits in bytes: how much of a body is read (and how much is kept after decompression), and of a Location header.
BODY_LIMIT = 64 * 1024
LOCATION_LIMIT = 300
# The messages with which Hivel says that it already has this event: lower case, without the deployment_id. The second
# tuple lists what the other field may contain. Any other "already exists" is about something else.
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
    RETRY = "retry"  # a temporary problem: try again later
    FAILED = "failed"  # Hivel refuses this deployment only: a person must check it
    PAUSED = "paused"  # the configuration is wrong: all deployments wait, and no attempt is counted


@dataclass(frozen=True)
class Answer:
    """The HTTP answer to one POST. ``status`` None: there was no answer, and ``body`` says what happened instead."""

    status: int | None
    body: str = ""
    content_type: str = ""
    retry_after: str | None = None
    location: str | None = None
    untrusted_certificate: bool = False
    timed_out: bool = False

    @property
    def kind(self) -> str:
        """Label for counting: ``http_503``, ``timeout`` or ``network``."""
        if self.status is not None:
            return f"http_{self.status}"
        return "timeout" if self.timed_out else "network"


@dataclass(frozen=True)
class Outcome:
    """The result of one attempt: the verdict, its reason for people, and the answer that it is based on.

    ``retry_after_ms``: the pause that Hivel asked for. ``already_there``: Hivel already had this deployment_id.
    ``kind``: label for counting, see :attr:`Answer.kind`.
    """

    verdict: Verdict
    reason: str | None = None
    retry_after_ms: int | None = None
    already_there: bool = False
    http_status: int | None = None
    answer: str = ""
    kind: str = "error"


def classify(answer: Answer, deployment_id: str, now_ms: int) -> Outcome:
    """Classify an answer. Never raises, whatever the answer contains.

    ``now_ms`` (UTC) resolves a Retry-After that is a date.
    """
    outcome = _classify(answer, deployment_id, now_ms)
    return replace(outcome, http_status=answer.status, answer=answer.body, kind=answer.kind)


def _classify(answer: Answer, deployment_id: str, now_ms: int) -> Outcome:  # noqa: PLR0911 - one line a class
    status = answer.status
    if status is None:
        if answer.untrusted_certificate:
            return Outcome(Verdict.PAUSED, answer.body)  # includes advice from agent.model.tls
        return Outcome(Verdict.RETRY, answer.body)
    if 200 <= status < 300:
        return _classify_success(answer, deployment_id)
    text = f"HTTP {status}: {_first_words(answer.body)}"
    if status == 409 or (status in (400, 422) and _says_already_there(answer.body, deployment_id)):
        return Outcome(Verdict.DELIVERED, f"Hivel already had this deployment_id ({text})", already_there=True)
    if status in (408, 425, 429) or status >= 500:
        return Outcome(Verdict.RETRY, text, parse_retry_after(answer.retry_after, now_ms))
    if status in (400, 413, 414, 422, 431) and not _is_web_page(answer):
        return Outcome(Verdict.FAILED, text)
    return Outcome(Verdict.PAUSED, f"{text}; {_advice(answer)}")


def _classify_success(answer: Answer, deployment_id: str) -> Outcome:
    """A 2xx counts as delivered only if the body is what section 10 of Hivel's page describes."""
    if _is_web_page(answer):
        return Outcome(
            Verdict.PAUSED,
            f"HTTP {answer.status} with a web page: [hivel] url leads to a login page or a proxy; correct it",
        )
    content = _json(answer.body)
    if isinstance(content, dict):
        if content.get("success") is False:
            if _says_already_there(answer.body, deployment_id):
                reason = f"Hivel already had this deployment_id ({_first_words(answer.body)})"
                return Outcome(Verdict.DELIVERED, reason, already_there=True)
            return Outcome(Verdict.FAILED, f"HTTP {answer.status}: {_first_words(answer.body)}")
        if content.get("success") is True or content.get("deployment_id") == deployment_id:
            return Outcome(Verdict.DELIVERED)
    return Outcome(Verdict.RETRY, f"HTTP {answer.status} with an unexpected body: {_first_words(answer.body)}")


def _is_web_page(answer: Answer) -> bool:
    """Hivel answers in JSON. Web pages come from proxies, load balancers and login pages in front of it."""
    return "html" in answer.content_type.lower() or answer.body.lstrip()[:1] == "<"


def _json(body: str) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def _says_already_there(body: str, deployment_id: str) -> bool:
    """Whether the answer says that Hivel already has this deployment_id, and says nothing else.

    A deployment that counts as delivered is never sent again, so in doubt the answer is a failure that a person sees.
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
    """Lower case, without quotation marks, colons and the final period."""
    return " ".join(str(words).lower().translate(_MARKS).split()).removesuffix(".").rstrip()


def _advice(answer: Answer) -> str:
    match answer.status:
        case 401 | 403:
            return "the token is not accepted: check [hivel] token_file and the key's organization in Hivel"
        case status if status is not None and 300 <= status < 400:
            return f"the server redirects to {answer.location}: set [hivel] url to the address of Hivel"
        case 404 | 405 | 410:
            return "no Deployment Events API at this address: check [hivel] url (https://app.hivel.ai or https://app.hivel.in)"
        case 407:
            return "the proxy requires credentials: check HTTPS_PROXY, and write it as http://user:password@host:port"
        case _:
            return "this answer is not about the event: check [hivel] url and the token"


def _first_words(body: str) -> str:
    """The most useful part of an answer: Hivel's error message, else the beginning of the body on one line."""
    content = _json(body)
    if isinstance(content, dict):
        told = [str(content[key]) for key in ("message", "error") if content.get(key)]
        if told:
            return ": ".join(told)[:300]
    return " ".join(body.split())[:200] or "(empty)"
