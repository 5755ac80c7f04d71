"""Standard output and error of a verb: secrets are redacted, and a closed output gives no traceback."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any, cast

from agent.model.secrets import redact

if TYPE_CHECKING:
    from typing import NoReturn, TextIO

# The exit code that a shell shows for a program that SIGPIPE ended, as with `| head`.
ENDED_BY_PIPE = 141


class PrintError(Exception):
    """Standard output cannot be written; the message says why. ``code``: the exit code of the process."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output: {error.strerror or error}")
        self.code = ENDED_BY_PIPE if error.errno == errno.EPIPE else 1
        self.quiet = error.errno == errno.EPIPE


def take() -> None:
    """Replace standard output and error by those of this module."""
    sys.stdout = cast("TextIO", _Printed(sys.stdout, _raise))
    sys.stderr = cast("TextIO", _Printed(sys.stderr, lambda _: None))  # there is no other place to report it


def _raise(error: OSError) -> NoReturn:
    raise PrintError(error) from None


class _Printed:
    """A text stream. ``failed`` is called with an error, and the text that could not be written is dropped."""

    def __init__(self, stream: TextIO, failed: Any) -> None:
        self._stream = stream
        self._failed = failed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(redact(text))
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        # Otherwise Python tries again at exit, and ends with 120.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        self._failed(error)
