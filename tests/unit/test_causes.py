"""The cause of a failed deployment: what differs from one to the next is left out, what tells causes apart is not."""

from __future__ import annotations

import time

import pytest

from agent.model.causes import MOST, cause_of


@pytest.mark.parametrize(
    ("one", "other", "cause"),
    [
        ("HTTP 400: unknown project 17", "HTTP 400: unknown project 4711", "HTTP 400: unknown project …"),
        (
            "HTTP 422: main:deploy/shop#7 is older than 2026-01-05T10:00:00.000Z",
            "HTTP 422: main:team/api#12:staging is older than 2026-02-06T11:30:00Z",
            "HTTP 422: … is older than …",
        ),
        (
            "HTTP 400: request 5f0cdd5e-9c1b-4b1e-8f5e-0123456789ab refused",
            "HTTP 400: request 0badcafe-0000-4b1e-8f5e-abcdefabcdef refused",
            "HTTP 400: request … refused",
        ),
        (
            "HTTP 400: cannot reach https://git.example.test/acme/shop (trace 4bf92f3577b34da6)",
            "HTTP 400: cannot reach https://git.example.test/acme/api?x=1 (trace 00f067aa0ba902b7)",
            "HTTP 400: cannot reach … (trace …)",
        ),
        ("HTTP 400: no repository 'acme/shop'", "HTTP 400: no repository 'acme/api'", "HTTP 400: no repository …"),
        ("cannot connect to 10.0.0.1:443", "cannot connect to 10.0.0.2:8443", "cannot connect to …"),
        ("HTTP 400:  a\nb", "HTTP 400: a b", "HTTP 400: a b"),
        ("repo_url is 300 characters long, more than 255", "repo_url is 301 characters long, more than 255",
         "repo_url is … characters long, more than …"),
    ],
)  # fmt: skip
def test_equal_causes_are_together(one: str, other: str, cause: str) -> None:
    assert cause_of(one) == cause_of(other) == cause


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("HTTP 400: refused", "HTTP 422: refused"),
        ("no repo_url", "no repo_url, no branch"),
        ("HTTP 400: 'repo_url' is required", "HTTP 400: 'environment' is required"),
        ('HTTP 400: "branch" is too long', 'HTTP 400: "image" is too long'),
        ("HTTP 400: Unknown project 1", "HTTP 400: Unknown user 1"),
    ],
)
def test_different_causes_are_apart(one: str, other: str) -> None:
    assert cause_of(one) != cause_of(other)


def test_a_deployment_without_a_reason_has_no_cause() -> None:
    assert (cause_of(None), cause_of(""), cause_of(" \n")) == ("", "", "")


def test_a_cause_is_short_and_is_its_own_cause() -> None:
    assert len(cause_of("word " * 500)) == MOST
    for reason in ("HTTP 400: unknown project 17", "word " * 500, "a 'b c' \"d\" https://x.test/1"):
        assert cause_of(cause_of(reason)) == cause_of(reason)


@pytest.mark.parametrize("piece", ["a", "1", "#", "a#", "'", '"', "`", "-", "a1", "h://", "_-", "1:", "2026-01-01T"])
def test_no_answer_makes_it_slow(piece: str) -> None:
    """An answer comes from another machine. A thousand reasons of the worst kind take a moment, not minutes."""
    began = time.process_time()
    for n in range(200):
        cause_of(f"{piece * 5_000}{n}")
    assert time.process_time() - began < 20
