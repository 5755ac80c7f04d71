"""Names of jobs, and the URLs that they make."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urlsplit

_MOST_DIGITS = 10
_NOT_A_WORD = re.compile(r"(?i:deploy)|[^A-Za-z]+|(?<=[a-z])(?=[A-Z])")
_ENVIRONMENT_WORDS = {
    "staging": "staging",
    "stage": "staging",
    "stg": "staging",
    "dev": "dev",
    "development": "dev",
    "test": "test",
    "testing": "test",
    "qa": "qa",
}


def job_path(full_name: str) -> str:
    """``shop-mb/feature%2Fx`` -> ``job/shop-mb/job/feature%252Fx``: branch jobs are named already encoded."""
    return "/".join(f"job/{quote(part, safe='')}" for part in full_name.split("/"))


def build_of_url(url: str) -> tuple[str, int] | None:
    """The job's full name and the build's number that a build's ``url`` names; None for anything else.

    Matrix cells (``/job/matrix/JDK=17/4/``) are not builds of their own and give None.
    """
    try:
        *folders, number = urlsplit(url).path.removesuffix("/").split("/")
    except ValueError:  # half an IPv6 address
        return None
    if not (number.isascii() and number.isdigit()) or len(number) > _MOST_DIGITS:
        return None
    parts = []
    # From its end: job, name, job, name; before them is where Jenkins itself is.
    while len(folders) > 2 and folders[-2] == "job" and folders[-1]:
        parts.append(unquote(folders.pop()))
        folders.pop()
    if not parts or not {".", ".."}.isdisjoint(parts):  # no names of jobs, and another page when asked for
        return None
    return "/".join(reversed(parts)), int(number)


def environment_of_name(full_name: str) -> str:
    """The environment that a job's name tells: production, staging, dev, test or qa; production if it says none."""
    return environment_in_name(full_name) or "production"


def environment_in_name(full_name: str) -> str | None:
    """The environment that a job's name says; None if it says none."""
    if "prod" in full_name.lower():
        return "production"
    for word in reversed(_NOT_A_WORD.split(full_name)):
        if environment := _ENVIRONMENT_WORDS.get(word.lower()):
            return environment
    return None
