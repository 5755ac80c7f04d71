"""Job names, and the URLs made from them."""

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
    """``shop-mb/feature%2Fx`` -> ``job/shop-mb/job/feature%252Fx``: names of branch jobs are already encoded once."""
    return "/".join(f"job/{quote(part, safe='')}" for part in full_name.split("/"))


def build_of_url(url: str) -> tuple[str, int] | None:
    """The job's full name and the build number in a build's ``url``; None for any other URL.

    Matrix cells (``/job/matrix/JDK=17/4/``) are not builds of their own and return None.
    """
    try:
        *folders, number = urlsplit(url).path.removesuffix("/").split("/")
    except ValueError:  # an incomplete IPv6 address
        return None
    if not (number.isascii() and number.isdigit()) or len(number) > _MOST_DIGITS:
        return None
    parts = []
    # From the end: job, name, job, name. The rest is the path of Jenkins itself.
    while len(folders) > 2 and folders[-2] == "job" and folders[-1]:
        parts.append(unquote(folders.pop()))
        folders.pop()
    if not parts or not {".", ".."}.isdisjoint(parts):  # not valid job names, and the URL would lead to another page
        return None
    return "/".join(reversed(parts)), int(number)


def environment_of_name(full_name: str) -> str:
    """The environment in a job's name: production, staging, dev, test or qa; production if there is none."""
    return environment_in_name(full_name) or "production"


def environment_in_name(full_name: str) -> str | None:
    """The environment in a job's name; None if there is none."""
    if "prod" in full_name.lower():
        return "production"
    for word in reversed(_NOT_A_WORD.split(full_name)):
        if environment := _ENVIRONMENT_WORDS.get(word.lower()):
            return environment
    return None
