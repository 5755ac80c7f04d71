"""What only the poller of a controller writes, and so need not read at each poll."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.outbox.interface import Outbox
    from agent.outbox.values import ControllerState, OpenBuild


class Remembered:
    """The state of one controller, and whether it has open builds. An idle poll needs nothing else of the outbox."""

    def __init__(self, controller: str, outbox: Outbox) -> None:
        self._controller = controller
        self._outbox = outbox
        self._state: ControllerState | None = None
        self._nothing_open = False

    @contextmanager
    def poll(self) -> Iterator[None]:
        """A poll. After an error it is not known what is stored: the next poll reads it."""
        try:
            yield
        except BaseException:
            self._state, self._nothing_open = None, False
            raise

    def state(self) -> ControllerState | None:
        """See :meth:`agent.outbox.interface.Cursors.controller`."""
        if self._state is None:
            self._state = self._outbox.controller(self._controller)
        return self._state

    def save(self, state: ControllerState) -> None:
        """See :meth:`agent.outbox.interface.Cursors.save_controller`."""
        self._outbox.save_controller(state)
        self._state = state

    def open_builds(self) -> dict[str, list[OpenBuild]]:
        """See :meth:`agent.outbox.interface.Cursors.open_builds`."""
        if self._nothing_open:
            self._nothing_open = False  # the poll may open some
            return {}
        return self._outbox.open_builds(self._controller)

    def nothing_opened(self) -> None:
        """A poll that found no open builds opened none."""
        self._nothing_open = True
