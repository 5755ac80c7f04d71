"""Names of jobs and branches, and the URLs that they make."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urlsplit

_REMOTES = ("origin", "upstream")
_BUILD_PATH = re.compile(r"(?P<job>(?:/job/[^/]+)+)/(?P<number>\d+)/?$")
_HEX = re.compile(r"[0-9a-f]{1,64}", re.IGNORECASE)
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
        match = _BUILD_PATH.search(urlsplit(url).path)
    except ValueError:  # half an IPv6 address
        return None
    if match is None:
        return None
    parts = match["job"].removeprefix("/job/").split("/job/")
    return "/".join(unquote(part) for part in parts), int(match["number"])


def branch_name(name: str) -> str | None:
    """The plain name behind git's spellings: no ``refs/…``, no remote; a tag's name; None for a detached head."""
    name = name.strip()
    while (plain := _without_prefix(name)) != name:
        name = plain
    return None if not name or name in {"detached", "HEAD"} or _is_commit(name) else name


def _without_prefix(name: str) -> str:
    if name.startswith("refs/remotes/"):
        return name.removeprefix("refs/remotes/").partition("/")[2].strip()
    if name.startswith("refs/"):
        return name.removeprefix("refs/").partition("/")[2].strip()
    remote, slash, rest = name.removeprefix("remotes/").partition("/")
    return rest.strip() if slash and remote in _REMOTES else name


def _is_commit(name: str) -> bool:
    """A hash, whole or short. Digits alone are rather a date, letters alone rather a word."""
    if len(name) in (40, 64):
        return _HEX.fullmatch(name) is not None
    return len(name) >= 7 and _HEX.fullmatch(name) is not None and not name.isdigit() and not name.isalpha()


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
    scheme, separator, rest = repo_url.partition("//")
    if not separator or (scheme and not scheme.endswith(":")) or "@" in scheme:
        scheme, separator, rest = "", "", repo_url  # the slashes are the path's
    authority, slash, path = rest.partition("/")
    userinfo, at, host = authority.rpartition("@")
    if not at:
        return repo_url
    user, colon, _ = userinfo.partition(":")
    keeps_user = scheme.lower().endswith("ssh:") or (not separator and not colon)
    return f"{scheme}{separator}{user + '@' if keeps_user and user else ''}{host}{slash}{path}"
