"""Helpers for CI systems' variables and Argo's resources. ``emit`` loads this module, so its imports are light."""

from __future__ import annotations

from agent.model.git import branch_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def first(values: Mapping[str, str], *names: str) -> str:
    """The first of these variables that is not empty."""
    for name in names:
        value = values.get(name)
        if value and not value.isspace():
            return value
    return ""


def run_name(system: str, project: str, run: str, *names: str, attempt: str = "") -> str:
    """``system:project#run``, with names within the run and the attempt if not the first; "" without project or run."""
    if not project or not run:
        return ""
    within = "".join(f"/{name}" for name in names if name)
    return f"{system}:{project}#{run}{within}{f'.{attempt}' if is_retry(attempt) else ''}"


def is_retry(attempt: str) -> bool:
    return attempt not in {"", "1"}


def branch_of_target(revision: str) -> str:
    """The branch in Argo CD's target revision, which may also be a tag, a commit, HEAD, or a version range."""
    if revision.startswith(("<", ">", "=", "!")) or any(character in revision for character in "*^~ "):
        return ""
    return branch_name(revision) or ""
