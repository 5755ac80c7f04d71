"""Background tasks: actions on many deployments, with progress."""

from __future__ import annotations


class Tasks:
    """The tasks of this process, by number. Only the newest are kept."""
