"""Standard output and error of a verb: without secrets, and without a trace where nobody takes what is printed."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any, cast

from agent.model.secrets import redact

if TYPE_CHECKING:
    from typing import NoReturn, TextIO

# What a shell says of a program that was ended by SIGPIPE, as `| head` does it to most.
ENDED_BY_PIPE = 141


class PrintError(Exception):
    """Standard output takes nothing; the message says why. ``code``: how the process ends."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"what there is to say cannot be written to standard output: {error.strerror or error}")
        self.code = ENDED_BY_PIPE if error.errno == errno.EPIPE else 1
        self.quiet = error.errno == errno.EPIPE


def take() -> None:
    """From here on standard output and error are those of this module."""
    sys.stdout = cast("TextIO", _Printed(sys.stdout, _raise))
    sys.stderr = cast("TextIO", _Printed(sys.stderr, lambda _: None))  # nobody else can be told


def _raise(error: OSError) -> NoReturn:
    raise PrintError(error) from None


class _Printed:
    """A stream of text; ``failed`` is called with what goes wrong. What it was to write then is forgotten."""

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
        # Python would try again when it ends, and end with 120.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        self._failed(error)
