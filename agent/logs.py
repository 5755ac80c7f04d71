"""The log: one line for each thing that matters, key=value, on standard error."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(*, quiet: bool = False, as_json: bool = False) -> None:
    """Set up structlog and, for the libraries, the standard logging. ``quiet``: warnings and errors only."""
    level = logging.WARNING if quiet else logging.INFO
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="level=%(levelname)s logger=%(name)s event=%(message)r"
    )
    # What they warn of is told in the agent's own words (a failed connection) or is as it should be (a poll that
    # takes longer than its interval).
    for library in ("urllib3", "apscheduler"):
        logging.getLogger(library).setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(ensure_ascii=False)
            if as_json
            else structlog.processors.LogfmtRenderer(key_order=("timestamp", "level", "event"), drop_missing=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
