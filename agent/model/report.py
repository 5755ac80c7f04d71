"""The format of a report: what a build says about its own deployment.

A report is a JSON object with the fields of Hivel's API (v2), all optional, and fields that identify the build: for
Jenkins ``job``, ``build_number`` and ``build_url``, for other systems ``run`` or ``deployment_id``.

``emit``, intake and spool all check a report here first. A report that passes is short and has valid URLs.

``emit`` imports this module and must start as fast as a shell tool, so it uses only the standard library.
"""

from __future__ import annotations

import json

from agent.model.git import without_credentials

# Larger reports are refused. No valid report needs this much.
MOST_BYTES = 64 * 1024
MOST_PULL_REQUESTS = 1_000
# Characters. No text in an event may be longer than 255; texts between the two limits are refused later, when it
# is known what they are used for.
LONGEST_TEXT = 1_000
LONGEST_URL = 2_000
LONGEST_NUMBER = 100  # a time in words has about 40 characters
MOST_DIGITS = 10

TEXTS = (
    "provider", "controller", "job", "build_url", "run", "stage", "deployment_id", "event_type", "status", "repo_url",
    "branch", "commit_hash", "environment", "image", "logs_url",
)  # fmt: skip
TEXTS_OR_NUMBERS = ("build_number", "pr_number", "start_time", "end_time")
# Names of fields that a person wrote: a flag, an argument of a step. All others were found in the environment of the
# build, where the checkout of a shared library leaves its own repository, branch and commit.
GIVEN = "given"
FIELDS = (*TEXTS, *TEXTS_OR_NUMBERS, "pr_numbers", GIVEN)
URLS = ("build_url", "repo_url", "logs_url")
_LONGEST = dict.fromkeys(TEXTS, LONGEST_TEXT) | dict.fromkeys(URLS, LONGEST_URL)


class ReportError(Exception):
    """The report is invalid; the message names the field and says what is expected."""


class UnknownWordError(ReportError):
    """The provider does not know this status word."""


def decode(body: bytes) -> dict[str, object]:
    """Parse a report. Raises :class:`ReportError`."""
    if len(body) > MOST_BYTES:
        raise ReportError(f"the report has {len(body)} bytes; the maximum is {MOST_BYTES}")
    try:
        value = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ReportError(f"the report is not UTF-8: {error.reason} at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise ReportError(f"the report is not JSON: {error}") from None
    return checked(value)


def checked(value: object) -> dict[str, object]:
    """The report without empty fields: texts are stripped and short, URLs are valid and without credentials.

    Raises :class:`ReportError` for anything else.
    """
    if not isinstance(value, dict):
        raise ReportError(f"the report is {_kind(value)}; it must be an object with the fields of the event")
    report: dict[str, object] = {}
    for name, content in value.items():
        if name not in FIELDS:
            raise ReportError(f"unknown field {name!r:.100}; the fields are {', '.join(FIELDS)}")
        field = _field(name, content)
        if field not in (None, "", []):
            report[name] = field
    if report.get("event_type", "completed") != "completed":
        raise ReportError("event_type: must be 'completed'; only finished deployments can be reported")
    return report


def _field(name: str, content: object) -> object:
    if content is None:
        return None
    if name == "pr_numbers":
        return _numbers(content)
    if name == GIVEN:
        return _names(content)
    if isinstance(content, str):
        # Lone surrogates come from invalid UTF-8 and cannot be stored.
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
        raise ReportError(f"{name}: {text[:40]!r}… has {len(text)} characters; the maximum is {longest}")
    if name == "pr_number" and text.isdigit() and len(text) > MOST_DIGITS:
        raise ReportError(f"{name}: {text:.40} has {len(text)} digits; the maximum is {MOST_DIGITS}")
    if name in URLS and (reason := _unreadable(text)):
        raise ReportError(f"{name}: {text!r:.60} is not a URL: {reason}")
    return text


def _unreadable(url: str) -> str | None:
    """Why this URL cannot be parsed: brackets or non-ASCII characters are the only possible reasons."""
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
    raise ReportError("given: a list of field names is expected")


def _kind(value: object) -> str:
    """The JSON type of a value."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
