"""The shape of a report: what a build says of its own deployment, through whichever door.

A report is a JSON object with the fields of Hivel's API (v2), all of them optional, and with what says which build it
is: for Jenkins ``job``, ``build_number`` and ``build_url``, for other systems ``run`` or ``deployment_id``.

Every door checks a report here before anything reads it: what passes is short, and its addresses can be taken apart.

This module is imported by ``emit``, which has to start like a shell tool: nothing but the standard library.
"""

from __future__ import annotations

import json

from agent.model.git import without_credentials

# Larger ones are refused: no report has a reason to be.
MOST_BYTES = 64 * 1024
MOST_PULL_REQUESTS = 1_000
# Characters. No event has longer texts than 255; what is a little longer is refused where it is known what it is for.
LONGEST_TEXT = 1_000
LONGEST_URL = 2_000
LONGEST_NUMBER = 100  # a time in words has some 40
MOST_DIGITS = 10

TEXTS = (
    "provider", "controller", "job", "build_url", "run", "stage", "deployment_id", "event_type", "status", "repo_url",
    "branch", "commit_hash", "environment", "image", "logs_url",
)  # fmt: skip
TEXTS_OR_NUMBERS = ("build_number", "pr_number", "start_time", "end_time")
# Names of fields that somebody wrote down: a flag, an argument of a step. What is not among them was found in the
# environment of the build, where the checkout of a shared library leaves its own repository, branch and commit.
GIVEN = "given"
FIELDS = (*TEXTS, *TEXTS_OR_NUMBERS, "pr_numbers", GIVEN)
URLS = ("build_url", "repo_url", "logs_url")
_LONGEST = dict.fromkeys(TEXTS, LONGEST_TEXT) | dict.fromkeys(URLS, LONGEST_URL)


class ReportError(Exception):
    """The report is wrong; the message names the field and says what belongs there."""


class UnknownWordError(ReportError):
    """The status is no word of the report's provider."""


def decode(body: bytes) -> dict[str, object]:
    """The report of a JSON document. Raises :class:`ReportError`."""
    if len(body) > MOST_BYTES:
        raise ReportError(f"the report has {len(body)} bytes, more than {MOST_BYTES}")
    try:
        value = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ReportError(f"the report is no UTF-8: {error.reason} at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise ReportError(f"the report is no JSON: {error}") from None
    return checked(value)


def checked(value: object) -> dict[str, object]:
    """The report without empty fields, its texts stripped and short, its addresses readable and without credentials.

    Raises :class:`ReportError` for anything of another shape.
    """
    if not isinstance(value, dict):
        raise ReportError(f"the report is {_kind(value)}; an object with the fields of the event is expected")
    report: dict[str, object] = {}
    for name, content in value.items():
        if name not in FIELDS:
            raise ReportError(f"{name!r:.100}: there is no such field; there are {', '.join(FIELDS)}")
        field = _field(name, content)
        if field not in (None, "", []):
            report[name] = field
    if report.get("event_type", "completed") != "completed":
        raise ReportError("event_type: only completed deployments are reported")
    return report


def _field(name: str, content: object) -> object:
    if content is None:
        return None
    if name == "pr_numbers":
        return _numbers(content)
    if name == GIVEN:
        return _names(content)
    if isinstance(content, str):
        # Half a surrogate pair can be stored nowhere; it comes from bytes that are no UTF-8.
        text = content.strip().encode("utf-8", "replace").decode()
        return _within_bounds(name, without_credentials(text) if name in URLS else text)
    if name in TEXTS_OR_NUMBERS and isinstance(content, int | float) and not isinstance(content, bool):
        if isinstance(content, float) and not content.is_integer():
            return repr(content)
        return _within_bounds(name, str(int(content)) if abs(content) < 2**62 else repr(content))
    raise ReportError(f"{name}: {'text or a number' if name in TEXTS_OR_NUMBERS else 'text'} is expected, "
                      f"not {_kind(content)}")  # fmt: skip


def _within_bounds(name: str, text: str) -> str:
    longest = _LONGEST.get(name, LONGEST_NUMBER)
    if len(text) > longest:
        raise ReportError(f"{name}: {text[:40]!r}… has {len(text)} characters, more than {longest}")
    if name == "pr_number" and text.isdigit() and len(text) > MOST_DIGITS:
        raise ReportError(f"{name}: {text:.40} has {len(text)} digits, more than {MOST_DIGITS}")
    if name in URLS and (reason := _unreadable(text)):
        raise ReportError(f"{name}: {text!r:.60} is no URL: {reason}")
    return text


def _unreadable(url: str) -> str | None:
    """Why nobody could take this URL apart; nothing but brackets and what is not ASCII can be the reason."""
    if url.isascii() and "[" not in url and "]" not in url:
        return None
    from urllib.parse import urlsplit  # noqa: PLC0415 - emit has to start fast

    try:
        urlsplit(url)
    except ValueError as error:
        return str(error)
    return None


def _numbers(content: object) -> list[int]:
    if isinstance(content, list) and all(type(n) is int and 0 < n < 2**31 for n in content):
        return list(dict.fromkeys(content))[:MOST_PULL_REQUESTS]
    raise ReportError("pr_numbers: a list of whole numbers above 0 is expected")


def _names(content: object) -> list[str]:
    if isinstance(content, list) and all(isinstance(name, str) and name in FIELDS for name in content):
        return list(dict.fromkeys(content))
    raise ReportError("given: a list of names of fields is expected")


def _kind(value: object) -> str:
    """What a JSON value is, in JSON's words."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
