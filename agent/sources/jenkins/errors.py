"""Errors of requests to Jenkins.

An error concerns the request, and the caller knows whether that was about the controller, a job or a build. Two classes
always concern the whole controller: :class:`ControllerDownError` (with :class:`AskedToWaitError`) and
:class:`UnauthorizedError` (without :class:`ForbiddenError`).
"""

from __future__ import annotations

from agent.model.secrets import redact


class JenkinsError(Exception):
    """A request failed; the message says which page, why and what to do. It contains no secrets.

    ``status``: the HTTP status, None without an answer. ``from_jenkins``: whether the headers are Jenkins' own.
    """

    status: int | None = None
    from_jenkins: bool = False

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


class StoppedError(JenkinsError):
    """The client was closed before the answer arrived. Nothing is wrong with Jenkins."""


class UnreachableError(JenkinsError):
    """No usable answer to this request for now: no answer, a broken connection, 429, 503 and the like.

    ``retry_after_ms``: the wait that Jenkins or a proxy asked for (Retry-After), if any.
    """

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class ControllerDownError(UnreachableError):
    """No connection: refused, unknown host, TLS or proxy error. Other requests would fail too."""


class AskedToWaitError(ControllerDownError):
    """429 or 503 with a Retry-After: no requests are sent to the controller until that time is over.

    ``asked`` False: the time is not over, and this request was not sent.
    """

    def __init__(self, message: str, *, retry_after_ms: int, asked: bool) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.asked = asked


class UnauthorizedError(JenkinsError):
    """Jenkins does not know the user or token, or the user lacks the permission."""


class ForbiddenError(UnauthorizedError):
    """403: the user, or an anonymous client, may not see this page."""


class NotFoundError(JenkinsError):
    """404: the page does not exist or is not visible to this user."""


class BadAnswerError(JenkinsError):
    """An answer that is not from Jenkins' API: a login page, a redirect, truncated or invalid JSON."""


class PageError(BadAnswerError):
    """This page failed or has an unexpected shape; other pages may be fine."""


class TooLargeError(PageError):
    """The page is larger than the limit, or needs too much memory when decompressed and decoded."""


# Errors that mean that there is no data. Any other error (an outage, a login page, a revoked token) may be temporary.
_NOTHING_TO_TELL = (NotFoundError, ForbiddenError, PageError, ValueError)


def raise_unless_nothing_to_tell(error: Exception, *, give_up: bool = False) -> None:
    """Raise the error if it may be temporary, unless ``give_up`` is set."""
    if isinstance(error, _NOTHING_TO_TELL):
        return
    if not give_up or isinstance(error, (ControllerDownError, StoppedError)):
        raise error
