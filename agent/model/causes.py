"""The cause of a failed deployment: its reason without the parts that differ between deployments.

Deployments that failed for the same cause are shown together: ``HTTP 400: unknown project 17 (request 5f0c…)`` and
``HTTP 400: unknown project 18 (request 77ab…)`` have the cause ``HTTP 400: unknown project … (request …)``.
"""

from __future__ import annotations

import re

# Replaces a part that was left out.
LEFT_OUT = "…"
# A cause is a heading on a page. Longer reasons quote an answer, and its end is not useful in a heading.
MOST = 200
_READ = 1_000
# In this order: a URL may contain an id, and an id numbers. The HTTP status is the cause itself, so it is kept. So is a
# quoted word without digits, which is usually the name of a field.
_VARIABLE = re.compile(
    r"""
    (?P<kept> \bHTTP\ \d{3}\b | (?P<quote>["'`])[a-z_]{1,40}(?P=quote))
    | \b[a-z][a-z0-9+.-]{1,9}://[^\s"'<>)]+                                     # a URL
    | "[^"]{0,300}" | '[^'\s]{0,300}' | `[^`]{0,300}`                           # a quoted value
    | (?<![^\s"'`,;()])[^\s"'`,;()\#]{1,300}\#\d[^\s"'`,;()]*                   # a deployment_id: controller:job#12
    | \b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b                           # a UUID
    | \b\d{4}-\d\d-\d\d(?:[T ][\d:.]{5,15}(?:Z|[+-]\d\d:?\d\d)?)?               # a time
    | \b(?=[a-z_-]{0,40}\d)(?=[\d_-]{0,40}[a-z])[0-9a-z_-]{6,64}(?![0-9a-z_-])  # letters and digits: a hash, a token
    | (?<![a-z])\d+(?:[.,:]\d+)*                                                # a number, an address, a version
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)


def cause_of(reason: str | None) -> str:
    """The reason on one line, without URLs, quoted values, ids, times and numbers; empty if there is no reason."""
    if not reason:
        return ""
    line = " ".join(reason[:_READ].split())
    cause = _VARIABLE.sub(lambda found: found["kept"] or LEFT_OUT, line)
    return cause if len(cause) <= MOST else cause[: MOST - 1] + LEFT_OUT
