"""What every event needs: repository, environment and branch, none longer than Hivel takes.

`emit` loads this module before it does anything: it imports nothing heavy.
"""

from __future__ import annotations

# Characters. No text of an event is longer: without a required field that fits there is no event, longer optional
# fields are left out, and ids are cut so that they stay unique.
LONGEST = 255


def why_no_event(repo_url: str | None, environment: str | None, branch: str | None) -> str | None:
    """What is missing or too long, in words; None if an event can be made of these."""
    required = {"repo_url": repo_url, "environment": environment, "branch": branch}
    if missing := [name for name, value in required.items() if not (value and value.strip())]:
        return f"no {', no '.join(missing)}"
    return ", ".join(problem for name, value in required.items() if (problem := excess(name, value))) or None


def excess(name: str, value: str | None) -> str | None:
    """What is wrong with a text that no event can hold, in words; None when it is short enough."""
    if value is None or len(value) <= LONGEST:
        return None
    return f"{name} is {len(value)} characters long, more than {LONGEST}"
