"""What can come of a question to Jenkins other than an answer.

An error is about the question that was asked: whoever asked knows whether that was the controller, a job or a build.
Two are about the controller whatever the question was: :class:`ControllerDownError` (with
:class:`AskedToWaitError`) and, unless it is a :class:`ForbiddenError`, :class:`UnauthorizedError`.
"""

from __future__ import annotations

from agent.model.secrets import redact


class JenkinsError(Exception):
    """A question was not answered; the message says which page, why and what to do. No secret is in it.

    ``status``: the HTTP status, None without an answer. ``from_jenkins``: whether the headers are Jenkins' own.
    """

    status: int | None = None
    from_jenkins: bool = False

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


class StoppedError(JenkinsError):
    """The client was closed before the answer was there. Nothing is wrong with Jenkins."""


class UnreachableError(JenkinsError):
    """No usable answer to this question for now: silence, a cut connection, 429, 503 and the like.

    ``retry_after_ms``: how long Jenkins or a proxy asked to wait (Retry-After), if it did.
    """

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class ControllerDownError(UnreachableError):
    """No connection: refused, no such host, TLS or a proxy in between fails. Other questions fare no better."""


class AskedToWaitError(ControllerDownError):
    """429 or 503 with a Retry-After: until it is over, nothing is asked of the controller at all.

    ``asked`` False: it is not over yet, and this question was not sent.
    """

    def __init__(self, message: str, *, retry_after_ms: int, asked: bool) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.asked = asked


class UnauthorizedError(JenkinsError):
    """Jenkins knows the user or the token not, or does not let the user see this."""


class ForbiddenError(UnauthorizedError):
    """403: the user may not see this one page, or nobody who is not known."""


class NotFoundError(JenkinsError):
    """404: not there, or not visible to this user."""


class BadAnswerError(JenkinsError):
    """An answer, but not one of Jenkins' API: a login page, a redirect, cut or wrong JSON."""


class PageError(BadAnswerError):
    """A failure or another shape: this one page has nothing to tell, others may be fine."""


class TooLargeError(PageError):
    """More than may be read of one page, or than there is memory for once it is unpacked and decoded."""


# What says that there is nothing to tell. Anything else (an outage, a login page, a revoked token) may be mended.
_NOTHING_TO_TELL = (NotFoundError, ForbiddenError, PageError, ValueError)


def raise_unless_nothing_to_tell(error: Exception, *, give_up: bool = False) -> None:
    """Raise what may be mended, unless nobody waits for it any longer (``give_up``)."""
    if isinstance(error, _NOTHING_TO_TELL):
        return
    if not give_up or isinstance(error, (ControllerDownError, StoppedError)):
        raise error
