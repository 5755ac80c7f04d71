"""Names of jobs and branches, and the URLs that they make."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urlsplit

_REMOTES = ("origin", "upstream")
_BUILD_PATH = re.compile(r"(?P<job>(?:/job/[^/]+)+)/(?P<number>\d+)/?$")
_SHA = re.compile(r"[0-9a-f]{7,64}", re.IGNORECASE)
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
    match = _BUILD_PATH.search(urlsplit(url).path)
    if match is None:
        return None
    parts = match["job"].removeprefix("/job/").split("/job/")
    return "/".join(unquote(part) for part in parts), int(match["number"])


def branch_name(name: str) -> str | None:
    """The plain name behind git's spellings: no ``refs/…``, no remote; a tag's name; None for a detached head."""
    if name.startswith("refs/remotes/"):
        name = name.removeprefix("refs/remotes/").partition("/")[2]
    elif name.startswith("refs/"):
        name = name.removeprefix("refs/").partition("/")[2]
    else:
        remote, slash, rest = name.removeprefix("remotes/").partition("/")
        if slash and remote in _REMOTES:
            name = rest
    if not name or name in {"detached", "HEAD"} or _SHA.fullmatch(name):
        return None
    return name


def environment_of_name(full_name: str) -> str:
    """The environment that a job's name tells: production, staging, dev, test or qa; production if it says none."""
    if "prod" in full_name.lower():
        return "production"
    for word in reversed(_NOT_A_WORD.split(full_name)):
        if environment := _ENVIRONMENT_WORDS.get(word.lower()):
            return environment
    return "production"


def without_credentials(repo_url: str) -> str:
    """The URL without ``user:password@``. The user of ssh and scp-like URLs (``git@``) is no secret and stays."""
    scheme, separator, rest = repo_url.partition("://")
    if not separator:
        return repo_url
    authority, slash, path = rest.partition("/")
    userinfo, at, host = authority.rpartition("@")
    if not at:
        return repo_url
    user = userinfo.partition(":")[0] if scheme.lower().endswith("ssh") else ""
    return f"{scheme}://{user}{'@' if user else ''}{host}{slash}{path}"
