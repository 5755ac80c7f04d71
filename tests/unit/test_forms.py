"""Posted forms that are too large, too slow, or no forms."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from starlette.requests import Request

from agent.web import forms
from agent.web.forms import read_fields
from agent.web.page import RefusedError

if TYPE_CHECKING:
    from starlette.types import Message, Receive


def _read(receive: Receive) -> list[tuple[str, str]]:
    scope: dict[str, Any] = {"type": "http", "method": "POST", "headers": []}
    return asyncio.run(read_fields(Request(scope, receive)))


def _sent(*messages: Message) -> Receive:
    left = iter(messages)

    async def receive() -> Message:
        await asyncio.sleep(0)
        return next(left)

    return receive


def test_fields_are_read_in_order_and_unusable_letters_are_replaced() -> None:
    body = {"type": "http.request", "body": b"a=1&b=%FF&a=%00", "more_body": False}
    assert _read(_sent(body)) == [("a", "1"), ("b", "\ufffd"), ("a", "\0")]


def test_a_form_that_does_not_arrive_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "PATIENCE_S", 0.01)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(RefusedError, match="did not arrive") as refused:
        _read(receive)
    assert refused.value.status == 408


def test_a_form_that_arrives_byte_by_byte_gets_no_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "PATIENCE_S", 0.01)

    async def receive() -> Message:
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": b"a", "more_body": True}

    with pytest.raises(RefusedError, match="did not arrive"):
        _read(receive)


def test_a_client_that_goes_away_is_no_error_of_the_agent() -> None:
    with pytest.raises(RefusedError, match="incomplete"):
        _read(_sent({"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"}))


@pytest.mark.parametrize(
    ("body", "status"), [(b"x" * (forms.MOST_BYTES + 1), 413), (b"\xff", 400), (b"a&" * (forms.MOST_FIELDS + 1), 400)]
)
def test_a_form_that_is_too_large_or_no_form_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(RefusedError) as refused:
        _read(_sent({"type": "http.request", "body": body, "more_body": False}))
    assert refused.value.status == status
