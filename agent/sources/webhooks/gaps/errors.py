"""Errors of requests to a platform's API. The messages say what happened and what to do. They contain no secrets."""

from __future__ import annotations

from agent.model.secrets import redact

# Characters of a message. Foreign text in it is redacted before it is cut.
_LONGEST = 500


class ApiError(Exception):
    """A look at a project failed. The next one starts where this one began."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message)[:_LONGEST])


class WaitError(ApiError):
    """The platform limits the number of requests. All projects of the hook wait for ``wait_ms``."""

    def __init__(self, message: str, wait_ms: int) -> None:
        super().__init__(message)
        self.wait_ms = wait_ms


class GoneError(ApiError):
    """404 or 410: what was asked for does not exist, or the token may not see it."""


class SpentError(ApiError):
    """One look has used all its requests, bytes or time. It is continued by the next look."""
