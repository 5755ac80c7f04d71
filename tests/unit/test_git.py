"""Names of branches, and URLs of repositories without their secrets."""

from __future__ import annotations

import string
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.model.git import (
    BRANCH_PARAMETERS,
    branch_name,
    branch_of_parameters,
    is_commit,
    is_tag,
    pull_request_of,
    remote_of,
    remotes_of,
    without_credentials,
)

SHA = "6dacad59e2225cb80021a8ec0f67c2f0fa6e87e2"


@pytest.mark.parametrize(
    ("name", "branch"),
    [
        ("main", "main"),
        ("feature/x", "feature/x"),
        ("größe", "größe"),
        ("fix#42", "fix#42"),
        ("origin/main", "main"),
        ("upstream/main", "main"),
        ("origin/feature/x", "feature/x"),
        ("remotes/origin/main", "main"),
        ("refs/remotes/origin/main", "main"),
        ("refs/remotes/fork/feature/x", "feature/x"),
        ("refs/heads/feature/x", "feature/x"),
        ("refs/tags/v1.0.0", "v1.0.0"),
        ("originals/x", "originals/x"),
        ("dependabot/npm_and_yarn/lodash-4.17.21", "dependabot/npm_and_yarn/lodash-4.17.21"),
    ],
)
def test_a_branch_loses_refs_and_remotes(name: str, branch: str) -> None:
    assert branch_name(name) == branch


@pytest.mark.parametrize(
    "name", ["", "detached", "HEAD", "origin/HEAD", "refs/remotes/origin/HEAD", "refs/heads/", SHA, SHA[:12]]
)
def test_a_detached_head_has_no_branch(name: str) -> None:
    assert branch_name(name) is None


@pytest.mark.parametrize("name", ["refs/tags/20250922", "refs/heads/20250922", "refs/remotes/origin/20250922"])
def test_a_tag_or_branch_named_by_its_date_is_not_taken_for_a_commit(name: str) -> None:
    assert branch_name(name) == "20250922"


_PREFIXES = st.sampled_from(
    ["", "refs/", "refs/heads/", "refs/tags/", "refs/remotes/origin/", "remotes/", "origin/", "upstream/", "HEAD", SHA]
)
_GIT_NAMES = st.builds("".join, st.lists(_PREFIXES | st.text("abf0/-", max_size=8), max_size=4)) | st.text()


@given(_GIT_NAMES)
@example("refs/remotes/origin/refs/heads/x")
def test_no_branch_ever_starts_with_refs(name: str) -> None:
    branch = branch_name(name)
    assert branch is None or (branch and not branch.startswith("refs/"))


@given(_GIT_NAMES)
@example("refs/heads/origin/main")
@example("refs/remotes/origin/pr/71/fix")
@example("refs/heads/detached")
def test_what_is_known_to_be_a_branchs_name_stays_as_it_is(name: str) -> None:
    branch = branch_name(name)
    assert branch is None or branch_name(branch, is_name=True) == branch


@given(_GIT_NAMES)
def test_a_branch_without_a_slash_is_its_own_branch_name(name: str) -> None:
    branch = branch_name(name)
    if branch and "/" not in branch and branch != "detached" and not is_commit(branch):
        assert branch_name(branch) == branch_name(branch, ()) == branch


@given(_GIT_NAMES, st.sampled_from(["origin", "gitlab", "company"]))
def test_a_remote_before_a_branch_changes_nothing_but_that_it_is_one(name: str, remote: str) -> None:
    branch = branch_name(name, (), is_name=True)
    if branch and not branch.startswith(("refs/", "heads/", "tags/")) and pull_request_of(branch) is None:
        assert branch_name(f"refs/remotes/{remote}/{branch}") == branch
        assert branch_name(f"{remote}/{branch}", (remote,)) == branch
        assert remote_of(f"{remote}/{branch}", (remote,)) == remote


@given(
    st.none() | _GIT_NAMES,
    st.none() | st.lists(_GIT_NAMES, max_size=2).map(tuple),
    st.none() | st.sampled_from(["", SHA]),
    st.booleans(),
)
def test_no_name_breaks_it(
    name: str | None, remotes: tuple[str, ...] | None, commit: str | None, is_name: bool
) -> None:
    branch = branch_name(name, remotes, commit=commit, is_name=is_name)
    assert branch is None or branch == branch.strip() != ""
    assert branch is None or pull_request_of(name, remotes) is None or is_name, "a branch or a pull request"
    assert not is_tag(name, remotes) or pull_request_of(name, remotes) is None
    assert remote_of(name, remotes_of((name,), 2)) in (name or "")


@given(st.dictionaries(st.sampled_from(BRANCH_PARAMETERS), _GIT_NAMES))
def test_parameters_tell_a_branch_or_nothing(parameters: dict[str, str]) -> None:
    branch, origin = branch_of_parameters(parameters)
    assert (branch is None) == (origin == "")
    assert branch is None or parameters[origin].strip().endswith(branch)


_PIECES = st.sampled_from(
    ["refs/", "refs/heads/", "refs/remotes/o/", "origin/", "pr/7/", "1/", "a", "*", " ", "@", "(", ":"]
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(_PIECES, min_size=1, max_size=3).map("".join), st.sampled_from(["", "refs/heads/", "origin/", "https://"])
)
def test_a_name_of_100_kb_takes_no_longer_than_it_must(piece: str, start: str) -> None:
    name = start + piece * (100_000 // len(piece))
    began = time.process_time()
    branch_name(name)
    branch_name(name, remotes_of((name,) * 2, 2), commit=SHA)
    pull_request_of(name)
    branch_of_parameters(dict.fromkeys(BRANCH_PARAMETERS, name))
    without_credentials(name)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (SHA, True),
        (SHA + SHA[:24], True),
        (SHA[:7], True),
        ("cafe1234", True),
        ("deadbeef", False),
        ("20250922", False),
        ("abc123", False),
        ("feb2026", False),
        ("Dec1999", False),
        ("feb2126", True),
    ],
)
def test_a_commit_is_told_from_words_dates_and_months(name: str, told: bool) -> None:
    assert is_commit(name) is told


def test_a_name_that_looks_like_a_commit_is_one_only_if_it_is_what_was_checked_out() -> None:
    assert branch_name("cafe1234", commit=SHA) == branch_name("cafe1234", commit="") == "cafe1234"
    assert branch_name("cafe1234") is branch_name("cafe1234", commit="CAFE1234" + SHA[8:]) is None
    assert branch_name(SHA, commit="") is None, "a whole hash is no branch, whatever was checked out"


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://github.com/acme/shop.git", "https://github.com/acme/shop.git"),
        ("https://user:secret@github.com/acme/shop.git", "https://github.com/acme/shop.git"),
        ("https://secret-token@github.com/acme/shop", "https://github.com/acme/shop"),
        ("https://us@er:se@cret@github.com:8443/acme/shop", "https://github.com:8443/acme/shop"),
        ("https://user:secret@[::1]:8443/acme/shop", "https://[::1]:8443/acme/shop"),
        ("HTTPS://user:secret@github.com", "HTTPS://github.com"),
        ("https://user:secret@github.com/acme//shop.git", "https://github.com/acme//shop.git"),
        ("ssh://git:secret@github.com//srv/shop.git", "ssh://git@github.com//srv/shop.git"),
        ("git@github.com:acme//shop.git", "git@github.com:acme//shop.git"),
        ("https://github.com/acme/shop@v1", "https://github.com/acme/shop@v1"),
        ("git@github.com:acme/shop.git", "git@github.com:acme/shop.git"),
        ("ssh://git@github.com/acme/shop.git", "ssh://git@github.com/acme/shop.git"),
        ("ssh://git:secret@github.com:22/acme/shop.git", "ssh://git@github.com:22/acme/shop.git"),
        ("/srv/git/shop.git", "/srv/git/shop.git"),
        ("file:///srv/git/shop.git", "file:///srv/git/shop.git"),
        ("", ""),
    ],
)
def test_credentials_leave_the_url_and_nothing_else_does(url: str, clean: str) -> None:
    assert without_credentials(url) == clean


_SCHEME = st.from_regex(r"[A-Za-z][A-Za-z0-9+.-]{0,9}", fullmatch=True)
_USERINFO = st.text(string.ascii_letters + string.digits + "-_.~%!$&'()*+,;=:@?#[]{} ", max_size=12)


@given(
    scheme=_SCHEME,
    user=st.sampled_from(["git", "bot", ""]),
    password=_USERINFO,
    path=st.text("/:@acme", max_size=8).map("/".__add__),
)
def test_no_password_survives_whatever_the_scheme(scheme: str, user: str, password: str, path: str) -> None:
    clean = without_credentials(f"{scheme}://{user}:{password}@host.example{path}")
    assert clean in {f"{scheme}://host.example{path}", f"{scheme}://{user}@host.example{path}"}


@pytest.mark.parametrize("url", ["bot:secret@github.com/acme/shop", "//bot:secret@github.com/acme/shop"])
def test_no_password_survives_where_the_scheme_was_forgotten(url: str) -> None:
    assert "secret" not in without_credentials(url)


@given(st.text())
def test_taking_credentials_out_twice_changes_nothing_more(url: str) -> None:
    once = without_credentials(url)
    assert without_credentials(once) == once
