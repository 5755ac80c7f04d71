"""The log: one line for each important step, as key=value or JSON, on standard error."""

from __future__ import annotations

import atexit
import json
import logging
import sys
from typing import TYPE_CHECKING, Any, cast

import structlog

from agent.daemon.log_queue import LogQueue, LogState, LogStream
from agent.model.secrets import redact
from agent.model.terminal import printable

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import TextIO

    from structlog.typing import Processor

_STDERR = 2
_queue: LogQueue | None = None


def configure(*, quiet: bool = False, as_json: bool = False) -> None:
    """Set up structlog, and standard logging for the libraries. ``quiet``: warnings and errors only."""
    global _queue  # noqa: PLW0603 - there is one standard error
    level = logging.WARNING if quiet else logging.INFO
    renderer = structlog.processors.JSONRenderer(ensure_ascii=False) if as_json else _logfmt
    before: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    line = _Line([*before, structlog.processors.format_exc_info, renderer, _as_line])

    def told(lines: int, reason: str) -> str:
        return line(None, "error", {"event": "log lines were lost", "lines": lines, "reason": reason})

    _queue = LogQueue(_STDERR, told)
    atexit.register(_queue.flush)
    logger = _Logger(_queue)
    structlog.configure(
        processors=[line],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: logger,
        cache_logger_on_first_use=False,
    )
    _configure_libraries(before, renderer, _queue)


_render_logfmt = structlog.processors.LogfmtRenderer(key_order=("timestamp", "level", "event"), drop_missing=True)


def _logfmt(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    """The event as key=value, without keys that have no value: they would be printed as ``reason=``."""
    return _render_logfmt(logger, method, {key: value for key, value in event.items() if value is not None})


def take_standard_error() -> None:
    """Send other output on standard error, such as the trace of a thread, through the same queue."""
    if (queue := _queue) is not None:
        sys.stderr = cast("TextIO", LogStream(lambda text: queue.put(_as_line(None, "", text))))


def state() -> LogState:
    """The state of the log."""
    return LogState() if _queue is None else _queue.state


def flush() -> None:
    """Write waiting lines; call it before the process ends without Python's cleanup."""
    if _queue is not None:
        _queue.flush()


class _Line:
    """Renders an event as a line. Never raises: if an event cannot be rendered, the line says so."""

    def __init__(self, processors: list[Processor]) -> None:
        self._processors = processors

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        done: Any = event
        try:
            for processor in self._processors:
                done = processor(logger, method, done)
        except Exception as error:  # noqa: BLE001 - logging must never fail for the caller
            plain = {"level": method, "event": "cannot format a log line", "reason": type(error).__name__}
            return json.dumps(plain)
        return str(done)


class _Logger:
    """The logger that receives lines from structlog."""

    def __init__(self, queue: LogQueue) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.exception = queue.put


class _Handler(logging.Handler):
    """Takes log records of libraries."""

    def __init__(self, queue: LogQueue) -> None:
        super().__init__()
        self._queue = queue

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._queue.put(self.format(record))
        except Exception:  # noqa: BLE001 - as above
            self._queue.put(f'level=error event="cannot format a log line" logger={record.name}')


def _configure_libraries(before: list[Processor], renderer: Processor, queue: LogQueue) -> None:
    """Log records of libraries, and tracebacks, get the same form."""
    handler = _Handler(queue)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *before],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
                _as_line,
            ],
        )
    )
    # python-jenkins would log the headers in this variable, which can be credentials.
    handler.addFilter(lambda record: "JENKINS_API_EXTRA_HEADERS" not in str(record.msg))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # The agent itself logs what they warn of (a failed connection), or it is normal (a poll that takes longer than its
    # interval).
    for library in ("urllib3", "apscheduler"):
        logging.getLogger(library).setLevel(logging.ERROR)


def _as_line(_logger: Any, _method: str, rendered: Any) -> str:
    """Removes secrets and control characters, so that no job name can break a line or control a terminal."""
    return printable(redact(str(rendered)))
