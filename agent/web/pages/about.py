"""``/about``: version, configuration without secrets, licenses."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import msgspec
from starlette.concurrency import run_in_threadpool

from agent import __version__
from agent.inspect.licenses import Package, packages
from agent.inspect.redacted import without_values
from agent.web.access import Role
from agent.web.page import Page
from agent.web.rendering import Shown, Table

if TYPE_CHECKING:
    from pathlib import Path

    from agent.web.page import Visit

# Characters of the configuration that the page itself shows.
MOST_SHOWN = 8_000


class About(msgspec.Struct, frozen=True):
    """``/about.json``. ``configuration``: the file as it is now, without secrets and comments; None: not visible.

    ``problem``: why the file cannot be read.
    """

    version: str
    python: str
    configuration_file: str | None
    configuration: str | None
    problem: str | None
    packages: tuple[Package, ...]


async def show(visit: Visit) -> Shown:
    """The version for everybody; the configuration for those who may view."""
    may_view = visit.visitor.role >= Role.VIEW
    view = await run_in_threadpool(_about, visit.backend.settings.file if may_view else None)
    rows = [(each.name, each.version, each.license) for each in view.packages]
    table = Table(("package", "version", "license"), rows)
    return Shown("about.html", "About", view, table, {"most_shown": MOST_SHOWN})


def _about(file: Path | None) -> About:
    configuration, problem = None, None
    if file is not None:
        try:
            configuration = without_values(file.read_text(encoding="utf-8"), file.parent)
        except (OSError, UnicodeDecodeError) as error:
            problem = f"the configuration cannot be read: {error}"
    return About(
        version=__version__,
        python=platform.python_version(),
        configuration_file=None if file is None else str(file),
        configuration=configuration,
        problem=problem,
        packages=packages(),
    )


PAGE = Page("/about", show, role=Role.NOBODY)
