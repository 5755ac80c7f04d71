"""What every event needs: repository, environment and branch, none longer than Hivel accepts.

`emit` loads this module at its start, so it imports nothing heavy.
"""

from __future__ import annotations

# Characters. The maximum for any text in an event: without a valid required field there is no event, longer optional
# fields are left out, and ids are shortened so that they stay unique.
LONGEST = 255


def why_no_event(repo_url: str | None, environment: str | None, branch: str | None) -> str | None:
    """What is missing or too long, for people; None if an event can be created."""
    required = {"repo_url": repo_url, "environment": environment, "branch": branch}
    if missing := [name for name, value in required.items() if not (value and value.strip())]:
        return f"no {', no '.join(missing)}"
    return ", ".join(problem for name, value in required.items() if (problem := excess(name, value))) or None


def excess(name: str, value: str | None) -> str | None:
    """Why a text is too long for an event, for people; None if it is short enough."""
    if value is None or len(value) <= LONGEST:
        return None
    return f"{name} is {len(value)} characters long, more than {LONGEST}"
