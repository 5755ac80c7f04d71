"""Names of branches, and URLs of repositories without their secrets."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.model.git import branch_name, without_credentials

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
def test_the_name_of_a_branch_is_its_own_branch_name(name: str) -> None:
    branch = branch_name(name)
    assert branch is None or branch_name(branch) == branch


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
