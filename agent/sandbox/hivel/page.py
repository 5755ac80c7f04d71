"""The web page with the received events."""

from __future__ import annotations

import html
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from agent.model.times import describe_duration, rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.model.event import DeploymentEvent
    from agent.sandbox.hivel.store import Deployment

# The maximum number of events on the page, which reloads every two seconds.
MAX_ROWS = 200

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; }
h1 { font-size: 1.3rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #8884; }
td { overflow-wrap: anywhere; }
.status { color: #fff; border-radius: .3rem; padding: .05rem .5rem; }
.success { background: #18794e; } .failed { background: #c62a2f; }
.canceled { background: #8a5300; } .unknown { background: #60646c; }
"""
_COLUMNS = (
    "Status", "Environment", "Repository", "Branch", "Commit", "Started", "Took",
    "Deployment", "Received", "Posted",
)  # fmt: skip


def _duration(event: DeploymentEvent) -> str:
    took = datetime.fromisoformat(event.end_time) - datetime.fromisoformat(event.start_time)
    return describe_duration(took // timedelta(milliseconds=1))


def _link(text: str, url: str | None) -> str:
    """Return a link to the logs, only with http(s): an event could contain a ``javascript:`` address."""
    shown = html.escape(text)
    if url is None or not url.lower().startswith(("http://", "https://")):
        return shown
    return f'<a href="{html.escape(url)}" rel="noreferrer">{shown}</a>'


def _row(deployment: Deployment) -> str:
    event = deployment.event
    texts = (
        event.environment,
        event.repo_url,
        event.branch,
        (event.commit_hash or "")[:12],
        event.start_time,
        _duration(event),
    )
    cells = [
        f'<span class="status {event.status.value}">{event.status.value}</span>',
        *(html.escape(text) for text in texts),
        _link(event.deployment_id, event.logs_url),
        rfc3339(deployment.received_at_ms),
        f"{deployment.times_posted} ×",
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def page(newest: Iterable[Deployment], total: int) -> str:
    rows = "\n".join(_row(deployment) for deployment in newest)
    head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
    shown = f", the newest {MAX_ROWS} are shown" if total > MAX_ROWS else ""
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>Local Hivel</title>
<style>{_STYLE}</style></head>
<body><h1>Local Hivel</h1>
<p>{total} deployment{"" if total == 1 else "s"} received{shown}.</p>
<table><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table></body>
</html>
"""
