"""What git writes: names of branches, URLs of repositories.

A name comes as ``refs/heads/main``, ``refs/remotes/origin/main``, ``remotes/origin/main``, ``origin/main``, ``main``,
``refs/tags/v1.0``, ``refs/pull/71/merge``, or says that there is none (``detached``, ``FETCH_HEAD``, a commit, null).
``hivel-agent emit`` loads this module before it does anything: it imports nothing.
"""

from __future__ import annotations

# Remotes that everybody has, and those that are called after where they are.
_REMOTES = ("origin", "upstream")
_HOSTS = (
    "azure", "bitbucket", "codeberg", "forgejo", "fork", "gerrit", "gitea", "github", "gitlab", "mirror", "stash",
)  # fmt: skip
_TRUNKS = ("main", "master", "trunk", "develop")
# What stands before a slash within the names of branches, and is no remote unless git says so.
_TOPICS = (
    "bug", "bugfix", "build", "chore", "ci", "dependabot", "docs", "env", "epic", "feat", "feature", "features",
    "fix", "heads", "hotfix", "issue", "merge-requests", "pr", "pull", "pull-requests", "refactor", "refs", "release",
    "releases", "renovate", "revert", "story", "support", "tags", "task", "test", "tests", "topic", "user", "users",
    "wip",
)  # fmt: skip
# Where the refs of pull requests are, and what stands behind the number.
_PULLS = ("pull", "pull-requests", "merge-requests", "pr")
_PULL_PARTS = ("", "head", "merge", "from", "to", "train")
_NO_BRANCH = ("HEAD", "FETCH_HEAD", "ORIG_HEAD", "MERGE_HEAD")
_DETACHED = ("(no branch)", "(HEAD detached", "(detached")  # how git itself says it
_HEX = frozenset("0123456789abcdefABCDEF")

# Parameters that tell a build's branch, the likeliest first. The first ones are written by plugins, which know the
# branch of a pull request or change: ghprb, gitlab, github-pullrequest, gerrit-trigger.
_PLUGINS = ("ghprbSourceBranch", "gitlabSourceBranch", "gitlabBranch", "GITHUB_PR_SOURCE_BRANCH", "GERRIT_BRANCH")
BRANCH_PARAMETERS = (*_PLUGINS, "BRANCH_NAME", "GIT_BRANCH", "BRANCH")


# ---- names of branches


def branch_name(
    name: str | None, remotes: tuple[str, ...] | None = None, *, commit: str | None = None, is_name: bool = False
) -> str | None:
    """The plain name behind git's spellings: no ``refs/…``, no remote; a tag's name; None where there is no branch.

    ``remotes``: what may stand before a branch as the name of a remote, see :func:`remotes_of`; without it ``origin``
    and ``upstream``, and before ``main`` and the like also ``gitlab``, ``fork`` and so on.
    ``commit``: the commit that was checked out; a name such as ``cafe1234`` is a short hash only if this begins with
    it. ``""``: it is known that no commit is meant. None: nothing is known, and what looks like a short hash is one.
    ``is_name``: the name is known to be that of a branch (a branch job's own): of a name without ``refs/`` nothing is
    taken away.
    """
    namespace, text = _resolved(name, remotes, is_name=is_name)
    if namespace not in ("", "heads", "tags") or not text or text in _NO_BRANCH or _is_whole_commit(text):
        return None
    if "*" in text or text.startswith("refs/"):
        return None
    if not namespace and (text == "detached" or text.startswith(_DETACHED) or _is_short_commit(text, commit)):
        return None
    return text


def branch_of_parameters(parameters: dict[str, str], *, commit: str | None = None) -> tuple[str | None, str]:
    """The branch that a build's parameters tell, and the name of the one that does; ``(None, "")`` if none does.

    ``commit`` as for :func:`branch_name`.
    """
    for parameter in BRANCH_PARAMETERS:
        value = parameters.get(parameter)
        if branch := branch_name(value, commit=commit, is_name=parameter in _PLUGINS and value != "detached"):
            return branch, parameter
    return None, ""


def remotes_of(names: tuple[str | None, ...], urls: int = 1) -> tuple[str, ...]:
    """What may stand as a remote before the branches of one checkout, for ``remotes`` of :func:`branch_name`.

    ``names``: all branch names that the checkout tells; one of them may show the remote of the others. ``urls``: how
    many remote URLs it has; with several, a name without ``refs/`` begins with a remote. Not for branch jobs, where
    the git plugin writes the bare name of the branch.
    """
    remotes = dict.fromkeys((*_REMOTES, *_HOSTS))
    for name in names:
        written = (name or "").strip()
        if written.startswith(("refs/remotes/", "remotes/")):
            remotes[_place(written, None)[0]] = None
        elif not written.startswith("refs/"):
            first, _, rest = written.partition("/")
            if rest and first not in _TOPICS and not _is_change(written) and (urls > 1 or rest in _TRUNKS):
                remotes[first] = None
    return tuple(remotes)


def remote_of(name: str | None, remotes: tuple[str, ...] | None = None) -> str:
    """The remote that stands before the branch, ``""`` where none does; ``remotes`` as for :func:`branch_name`."""
    return _place((name or "").strip(), remotes)[0]


def is_tag(name: str | None, remotes: tuple[str, ...] | None = None) -> bool:
    """Whether a name says that it is a tag's; ``v1.0`` alone does not."""
    return _resolved(name, remotes)[0] == "tags"


def pull_request_of(name: str | None, remotes: tuple[str, ...] | None = None) -> int | None:
    """The number in the ref of a pull request: ``refs/pull/71/merge``, ``origin/pr/71``, ``merge-requests/71/head``."""
    namespace, text = _resolved(name, remotes)
    return _pull_number(text) if namespace in _PULLS else None


def is_commit(name: str) -> bool:
    """A hash, whole or short. Digits alone are rather a date, letters alone rather a word, ``feb2026`` a month."""
    return _is_whole_commit(name) or _is_short_commit(name, None)


def _resolved(name: str | None, remotes: tuple[str, ...] | None, *, is_name: bool = False) -> tuple[str, str]:
    """The namespace (``heads``, ``tags``, ``pull``, …) and what stands in it; ``""`` where none is told."""
    written = (name or "").strip()
    if is_name and not written.startswith("refs/"):
        return "heads", written
    remote, written = _place(written, remotes)
    namespace, _, text = written.removeprefix("refs/").partition("/")
    text = text.strip()
    if written.startswith("refs/") or (namespace in ("heads", "tags") and text):
        return namespace, text
    if namespace in _PULLS and _pull_number(text) is not None:
        return namespace, text
    if _is_change(written):
        return "changes", written
    return ("heads" if remote else ""), written


def _place(name: str, remotes: tuple[str, ...] | None) -> tuple[str, str]:
    """The remote, and what stands behind it."""
    told = name.startswith(("refs/remotes/", "remotes/"))
    if not told and name.startswith("refs/"):
        return "", name
    remote, slash, rest = (name.partition("remotes/")[2] if told else name).partition("/")
    rest = rest.strip()
    if told or (slash and _is_remote(remote, rest, remotes)):
        return remote, rest
    return "", name


def _is_remote(name: str, rest: str, remotes: tuple[str, ...] | None) -> bool:
    if remotes is not None:
        return name in remotes or name == "*"  # */main: how the git plugin writes "of any remote"
    return name in _REMOTES or name == "*" or (name in _HOSTS and rest in _TRUNKS)


def _pull_number(text: str) -> int | None:
    number, _, part = text.partition("/")
    fits = 0 < len(number) <= 9 and number.isascii() and number.isdigit() and number[0] != "0"
    return int(number) if fits and part.lower() in _PULL_PARTS else None


def _is_change(name: str) -> bool:
    """Gerrit's, below ``refs/changes/``: the last two digits of the change, the change, the patch set."""
    parts = name.removeprefix("changes/").split("/", 3)
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        return False
    return len(parts[0]) == 2 and parts[1][-2:].zfill(2) == parts[0]


def _is_whole_commit(name: str) -> bool:
    return len(name) in (40, 64) and _HEX.issuperset(name)


def _is_short_commit(name: str, commit: str | None) -> bool:
    if not 7 <= len(name) < 64 or name.isdigit() or name.isalpha() or not _HEX.issuperset(name):
        return False
    if commit is not None:
        return bool(commit) and commit.lower().startswith(name.lower())
    is_month = (
        len(name) == 7 and name[:3].lower() in ("feb", "dec") and name[3:5] in ("19", "20") and name[3:].isdigit()
    )
    return not is_month


# ---- URLs of repositories


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
