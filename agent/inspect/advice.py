"""What a person can do about a failed deployment, by its reason."""

from __future__ import annotations

import re

_ADVICE = tuple(
    (re.compile(pattern), advice)
    for pattern, advice in (
        (
            r"^HTTP (400|413|414|422|431)\b",
            "Hivel refused the event. Its answer says why. Correct the rule or the pipeline, then replay.",
        ),
        (r"^HTTP \d+", "Hivel answered with an error. Read its answer, correct the cause, then replay."),
        (
            r"^given up: ",
            "The limits in [delivery] ended the attempts. When Hivel accepts events again, replay.",
        ),
        (
            r"not JSON|unknown field|the report ",
            "The report cannot be used, and a replay does not change that. Correct the pipeline, then discard.",
        ),
        (
            # Older versions stored: "of which Jenkins tells", "is not kept".
            r" parameter, (of|for) which Jenkins |(is not kept|was not stored): the parameters",
            "The rule reads a parameter whose value is not known. Use another field in the rule, then replay.",
        ),
        (
            r"listed in \[repositories\] libraries",
            "The build checked out only repositories that are listed as libraries. Correct [repositories] libraries, "
            "or set repo_url in the rule, then replay.",
        ),
        (r"characters long, more than", "Make the value shorter in the rule or in the report, then replay."),
        (
            r"\bno (repo_url|environment|branch)\b",
            "Set the missing fields in the rule, or report them from the pipeline, then replay.",
        ),
    )
)
_OTHER = "Read the reason, correct the cause, then replay. Discard it if it cannot be corrected."


def what_to_do(reason: str | None) -> str:
    """Advice in one or two sentences. A replay derives failed deployments again by the current rules."""
    return next((advice for pattern, advice in _ADVICE if pattern.search(reason or "")), _OTHER)
