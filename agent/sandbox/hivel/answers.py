"""The answers of the endpoint: Hivel's page, section 10."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import msgspec
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.exceptions import HTTPException
    from starlette.requests import Request


class Answer(msgspec.Struct, omit_defaults=True):
    """The JSON of an answer of the endpoint (Hivel's page, section 10); ``None`` fields are left out."""

    message: str
    error: str | None = None
    deployment_id: str | None = None
    success: bool | None = None


def json_answer(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def stored(deployment_id: str) -> Response:
    message = "Deployment event stored successfully"
    return json_answer(Answer(message=message, deployment_id=deployment_id, success=True))


def conflict(deployment_id: str) -> Response:
    error = "deployment_id already exists"
    return json_answer(Answer(message="Conflict", error=error, deployment_id=deployment_id), 409)


def refused(error: str, status: int = 400) -> Response:
    return json_answer(Answer(message="Validation failed", error=error), status)


def http_error(_: Request, error: Exception) -> Response:
    """Answer errors of routing (404, 405) with JSON too."""
    refusal = cast("HTTPException", error)  # the only kind this is registered for
    phrase = HTTPStatus(refusal.status_code).phrase
    response = json_answer(Answer(message=phrase, error=refusal.detail), refusal.status_code)
    response.headers.update(refusal.headers or {})
    return response
