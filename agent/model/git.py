"""What git writes: names of branches, URLs of repositories.

``hivel-agent emit`` loads this module before it does anything: it imports nothing.
"""

from __future__ import annotations

_REMOTES = ("origin", "upstream")
_HEX = frozenset("0123456789abcdefABCDEF")


def branch_name(name: str) -> str | None:
    """The plain name behind git's spellings: no ``refs/…``, no remote; a tag's name; None for a detached head."""
    name = name.strip()
    while (plain := _without_prefix(name)) != name:
        name = plain
    return None if not name or name in {"detached", "HEAD"} or is_commit(name) else name


def _without_prefix(name: str) -> str:
    if name.startswith("refs/remotes/"):
        return name.removeprefix("refs/remotes/").partition("/")[2].strip()
    if name.startswith("refs/"):
        return name.removeprefix("refs/").partition("/")[2].strip()
    remote, slash, rest = name.removeprefix("remotes/").partition("/")
    return rest.strip() if slash and remote in _REMOTES else name


def is_commit(name: str) -> bool:
    """A hash, whole or short. Digits alone are rather a date, letters alone rather a word."""
    if len(name) in (40, 64):
        return _HEX.issuperset(name)
    return len(name) >= 7 and _HEX.issuperset(name) and not name.isdigit() and not name.isalpha()


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
