"""The log: one line for each thing that matters, key=value or JSON, on standard error."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import structlog

from agent.model.terminal import printable

if TYPE_CHECKING:
    from structlog.typing import Processor


def configure(*, quiet: bool = False, as_json: bool = False) -> None:
    """Set up structlog and, for the libraries, the standard logging. ``quiet``: warnings and errors only."""
    level = logging.WARNING if quiet else logging.INFO
    renderer = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.processors.LogfmtRenderer(key_order=("timestamp", "level", "event"), drop_missing=True)
    )
    before: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*before, structlog.processors.format_exc_info, renderer, _on_one_line],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    _configure_libraries(before, renderer)


def _configure_libraries(before: list[Processor], renderer: Processor) -> None:
    """What libraries have to say comes in lines of the same form, a traceback too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *before],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
                _on_one_line,
            ],
        )
    )
    # python-jenkins would tell the headers that this variable holds, and those may be credentials.
    handler.addFilter(lambda record: "JENKINS_API_EXTRA_HEADERS" not in str(record.msg))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # What they warn of is told in the agent's own words (a failed connection) or is as it should be (a poll that
    # takes longer than its interval).
    for library in ("urllib3", "apscheduler"):
        logging.getLogger(library).setLevel(logging.ERROR)


def _on_one_line(_logger: Any, _method: str, rendered: Any) -> str:
    """No name of a job breaks the line or colours the terminal of whoever reads it."""
    return printable(str(rendered))
