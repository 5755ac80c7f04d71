"""What git writes: branch names, repository URLs.

A branch may be spelled ``refs/heads/main``, ``refs/remotes/origin/main``, ``remotes/origin/main``, ``origin/main``,
``main``, ``refs/tags/v1.0`` or ``refs/pull/71/merge``. Or there is none: ``detached``, ``FETCH_HEAD``, a commit, null.
``hivel-agent emit`` loads this module at its start, so it imports nothing.
"""

from __future__ import annotations

# Usual names of remotes, and remotes named after their host.
_REMOTES = ("origin", "upstream")
_HOSTS = (
    "azure", "bitbucket", "codeberg", "forgejo", "fork", "gerrit", "gitea", "github", "gitlab", "mirror", "stash",
)  # fmt: skip
_TRUNKS = ("main", "master", "trunk", "develop")
# Usual prefixes within branch names. They are not remotes unless git says so.
_TOPICS = (
    "bug", "bugfix", "build", "chore", "ci", "dependabot", "docs", "env", "epic", "feat", "feature", "features",
    "fix", "heads", "hotfix", "issue", "merge-requests", "pr", "pull", "pull-requests", "refactor", "refs", "release",
    "releases", "renovate", "revert", "story", "support", "tags", "task", "test", "tests", "topic", "user", "users",
    "wip",
)  # fmt: skip
# Namespaces of pull request refs, and the suffixes after the number.
_PULLS = ("pull", "pull-requests", "merge-requests", "pr")
_PULL_PARTS = ("", "head", "merge", "from", "to", "train")
_NO_BRANCH = ("HEAD", "FETCH_HEAD", "ORIG_HEAD", "MERGE_HEAD")
_DETACHED = ("(no branch)", "(HEAD detached", "(detached")  # git's own spellings
_HEX = frozenset("0123456789abcdefABCDEF")

# Parameters that contain the branch of a build, most reliable first. The first ones are set by plugins, which know the
# branch of a pull request or change: ghprb, gitlab, github-pullrequest, gerrit-trigger.
_PLUGINS = ("ghprbSourceBranch", "gitlabSourceBranch", "gitlabBranch", "GITHUB_PR_SOURCE_BRANCH", "GERRIT_BRANCH")
BRANCH_PARAMETERS = (*_PLUGINS, "BRANCH_NAME", "GIT_BRANCH", "BRANCH")


# ---- branch names


def branch_name(
    name: str | None, remotes: tuple[str, ...] | None = None, *, commit: str | None = None, is_name: bool = False
) -> str | None:
    """The plain name without ``refs/…`` and remote; the name of a tag; None if there is no branch.

    ``remotes``: names that may precede a branch as its remote, see :func:`remotes_of`. Default: ``origin`` and
    ``upstream``, and before ``main`` and the like also ``gitlab``, ``fork`` and so on. ``commit``: the commit that was
    checked out; a name such as ``cafe1234`` counts as a short hash only if the commit begins with it. ``""``: the name
    is certainly no commit. None: unknown; a name that looks like a short hash is one. ``is_name``: the name is
    certainly a branch name (from a branch job): without ``refs/`` it is returned unchanged.
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
    """The branch in a build's parameters and the name of that parameter; ``(None, "")`` if there is none.

    ``commit`` as for :func:`branch_name`.
    """
    for parameter in BRANCH_PARAMETERS:
        value = parameters.get(parameter)
        if branch := branch_name(value, commit=commit, is_name=parameter in _PLUGINS and value != "detached"):
            return branch, parameter
    return None, ""


def remotes_of(names: tuple[str | None, ...], urls: int = 1) -> tuple[str, ...]:
    """The possible remotes before the branches of one checkout, for ``remotes`` of :func:`branch_name`.

    ``names``: all branch names of the checkout; one of them may show the remote of the others. ``urls``: the number of
    remote URLs; with several, a name without ``refs/`` begins with a remote. Not for branch jobs, where the git plugin
    writes the bare branch name.
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
    """The remote before the branch, ``""`` if there is none; ``remotes`` as for :func:`branch_name`."""
    return _place((name or "").strip(), remotes)[0]


def is_tag(name: str | None, remotes: tuple[str, ...] | None = None) -> bool:
    """Whether the name is explicitly a tag. ``v1.0`` alone is not."""
    return _resolved(name, remotes)[0] == "tags"


def pull_request_of(name: str | None, remotes: tuple[str, ...] | None = None) -> int | None:
    """The number in the ref of a pull request: ``refs/pull/71/merge``, ``origin/pr/71``, ``merge-requests/71/head``."""
    namespace, text = _resolved(name, remotes)
    return _pull_number(text) if namespace in _PULLS else None


def is_commit(name: str) -> bool:
    """Whether this is a full or short hash. Digits only, letters only and ``feb2026`` do not count."""
    return _is_whole_commit(name) or _is_short_commit(name, None)


def _resolved(name: str | None, remotes: tuple[str, ...] | None, *, is_name: bool = False) -> tuple[str, str]:
    """The namespace (``heads``, ``tags``, ``pull``, …; ``""`` if unknown) and the name within it."""
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
    """The remote, and the rest of the name."""
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
        return name in remotes or name == "*"  # */main: the git plugin's notation for "any remote"
    return name in _REMOTES or name == "*" or (name in _HOSTS and rest in _TRUNKS)


def _pull_number(text: str) -> int | None:
    number, _, part = text.partition("/")
    fits = 0 < len(number) <= 9 and number.isascii() and number.isdigit() and number[0] != "0"
    return int(number) if fits and part.lower() in _PULL_PARTS else None


def _is_change(name: str) -> bool:
    """A Gerrit ref below ``refs/changes/``: last two digits of the change, change, patch set."""
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


# ---- repository URLs


def without_credentials(repo_url: str) -> str:
    """The URL without ``user:password@``. The user in ssh and scp-like URLs (``git@``) is not secret and is kept."""
    scheme, separator, rest = repo_url.partition("//")
    if not separator or (scheme and not scheme.endswith(":")) or "@" in scheme:
        scheme, separator, rest = "", "", repo_url  # the slashes belong to the path
    authority, slash, path = rest.partition("/")
    userinfo, at, host = authority.rpartition("@")
    if not at:
        return repo_url
    user, colon, _ = userinfo.partition(":")
    keeps_user = scheme.lower().endswith("ssh:") or (not separator and not colon)
    return f"{scheme}{separator}{user + '@' if keeps_user and user else ''}{host}{slash}{path}"
