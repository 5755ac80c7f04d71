"""Repository URLs: spellings, comparison, and the repository of a web page."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from agent.model.git import without_credentials

_HOST = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]?#\\]+)"
_WITH_SCHEME = re.compile(
    rf"(?i:(?P<scheme>https|ssh|git\+ssh|ssh\+git|git))://(?:[^/]*@)?{_HOST}(?P<port>:[0-9]*)?/+(?P<path>.*)", re.DOTALL
)
# git@host:path. A single letter before the colon is a Windows drive.
_SCP_LIKE = re.compile(rf"(?:[^/:@\s]+@)?(?![A-Za-z]:){_HOST}:/*(?P<path>(?!//).*)", re.DOTALL)
_AZURE_HOSTS = ("ssh.dev.azure.com", "vs-ssh.visualstudio.com")
_AZURE_PATH = re.compile(r"v3/(?P<organisation>[^/]+)/(?P<project>[^/]+)/(?P<repository>[^/]+)\Z")
# What follows the repository in the URL of a branch, tag or pull request: GitHub, GitLab, Gitea, Forgejo and Bitbucket
# Cloud. Bitbucket Server and Azure Repos have other URLs.
_PAGE = re.compile(
    r"(?P<path>/[^/]+/[^/]+(?:/[^/]+)*?)/"
    r"(?:-|tree|pulls?|merge_requests|src/(?:branch|tag|commit)|releases|branch|commits?|pull-requests)/.+"
)
_BITBUCKET_SERVER = re.compile(r"(?P<root>(?:/[^/]+)*?)/(?P<of>projects|users)/(?P<key>[^/]+)/repos/(?P<name>[^/]+)/.*")
_AZURE_PAGE = re.compile(r"(?P<path>/(?:[^/]+/)+_git/[^/]+)(?:/.*)?")


@lru_cache(maxsize=1024)
def plain(url: str) -> str:
    """The URL without scheme, user and ``.git``, with the host in lower case: ``github.com/acme/shop``."""
    written = https_form(url)
    scheme, separator, rest = written.partition("://")
    if not separator or not scheme.isalnum():
        return _without_endings(written) or written
    host, slash, path = rest.partition("/")
    return f"{host.lower()}{slash}{_without_endings(path)}"


def _without_endings(text: str) -> str:
    """Without trailing slashes and ``.git``."""
    end = len(text)
    while True:
        if text.endswith("/", 0, end):
            end -= 1
        elif text.endswith(".git", 0, end):
            end -= 4
        else:
            return text[:end]


def path_of(url: str) -> str:
    """The path of the repository on its host: ``acme/shop``; the whole text if there is no host."""
    name = plain(url)
    has_host = name != url and not url.startswith(("/", "file:"))
    return (name.partition("/")[2] or name) if has_host else name


def https_form(url: str) -> str:
    """``https://host/path`` for an https, ssh, scp-like or git URL: no user, no ``.git``, no port except that of https.

    Anything else (a path, http, an unknown scheme) is only stripped of credentials. Azure DevOps' ssh URLs have another
    path than its web pages and are translated.
    """
    clean = without_credentials(url.strip()).strip()
    found = _WITH_SCHEME.fullmatch(clean) or (None if "://" in clean else _SCP_LIKE.fullmatch(clean))
    if found is None:
        return clean
    host, path = found["host"], _without_endings(found["path"])
    if not path:
        return clean
    if host.lower() in _AZURE_HOSTS and (azure := _AZURE_PATH.match(path)):
        return f"https://dev.azure.com/{azure['organisation']}/{azure['project']}/_git/{azure['repository']}"
    parts = found.groupdict()
    port = (parts.get("port") or "") if (parts.get("scheme") or "").lower() == "https" else ""
    return f"https://{host}{port if port != ':' else ''}/{path}"


def is_same(url: str, other: str) -> bool:
    """Whether two URLs mean the same repository: by host and path, or by path only if an SSH host has an alias."""
    if not url or not other:
        return False
    one, two = _place(url), _place(other)
    return one == two or ("/" in one[1] and one[1] == two[1])


def _place(url: str) -> tuple[str, str]:
    """Host and path for comparison: without port, lower case, without ``scm/`` in Bitbucket Server's clone URLs."""
    host, _, path = plain(url).partition("/")
    return host.partition(":")[0], unquote(path).lower().removeprefix("scm/")


def repository_of_page(page: str) -> str | None:
    """The repository of a page such as ``…/acme/shop/tree/main`` or ``…/acme/shop/pull/7``."""
    try:
        parts = urlsplit(without_credentials(page))
    except ValueError:  # an incomplete IPv6 address
        return None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return None
    root = f"{parts.scheme}://{parts.netloc}"
    if found := _BITBUCKET_SERVER.fullmatch(parts.path):
        owner = found["key"].lower() if found["of"] == "projects" else f"~{found['key'].lower()}"
        return f"{root}{found['root']}/scm/{owner}/{found['name']}.git"
    found = _AZURE_PAGE.fullmatch(parts.path) or _PAGE.fullmatch(parts.path)
    return root + found["path"] if found else None
