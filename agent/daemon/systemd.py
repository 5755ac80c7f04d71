"""Telling systemd how the service is: ready, reloading, stopping, alive (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time

import structlog

log = structlog.get_logger("service")

# A systemd that does not listen for so long must not hold up the agent.
TIMEOUT_S = 1.0


def notify(state: str) -> None:
    """Send ``READY=1`` or the like; does nothing when systemd does not listen (``$NOTIFY_SOCKET``)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # a name that is in no folder
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(address)
            sock.send(state.encode())
    except OSError as error:
        log.warning("systemd cannot be told", state=state, reason=str(error))


def notify_reloading() -> None:
    """The configuration is being read anew; ``READY=1`` has to follow."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def extend_timeout(seconds: float) -> None:
    """Let systemd wait so many seconds from now on for the start or the stop, beyond its own limit if need be.

    Has to be said again before they are over.
    """
    notify(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")


def watchdog_s() -> float | None:
    """In how many seconds systemd wants to hear ``WATCHDOG=1`` again; None: it does not (``$WATCHDOG_USEC``)."""
    microseconds, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not microseconds.isdigit() or int(microseconds) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(microseconds) / 1_000_000
