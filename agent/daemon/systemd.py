"""Messages to systemd: ready, reloading, stopping, alive (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time

import structlog

log = structlog.get_logger("service")

# Time limit in seconds: a systemd that does not read must not block the agent.
TIMEOUT_S = 1.0


def notify(state: str) -> None:
    """Send a message such as ``READY=1``; does nothing without ``$NOTIFY_SOCKET``."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(address)
            sock.send(state.encode())
    except OSError as error:
        log.warning("cannot notify systemd", state=state, reason=str(error))


def notify_reloading() -> None:
    """Say that the configuration is being read again; ``READY=1`` must follow."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def extend_timeout(seconds: float) -> None:
    """Ask systemd to wait for the start or stop for this many seconds from now, also beyond its own limit.

    Repeat it before they are over.
    """
    notify(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")


def watchdog_s() -> float | None:
    """The watchdog interval in seconds (``$WATCHDOG_USEC``); None: systemd expects no ``WATCHDOG=1``."""
    microseconds, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not microseconds.isdigit() or int(microseconds) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(microseconds) / 1_000_000
