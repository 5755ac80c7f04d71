"""URLs of repositories: which are the same, and which repository a page on the web belongs to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.deployments.urls import is_same, repository_of_page


@pytest.mark.parametrize(
    ("page", "repository"),
    [
        ("https://github.com/acme/shop/tree/feature/x", "https://github.com/acme/shop"),
        ("https://github.com/acme/shop/pull/7", "https://github.com/acme/shop"),
        ("https://github.com/acme/tree/tree/main", "https://github.com/acme/tree"),
        ("https://gitlab.com/a/b/c/-/tree/main", "https://gitlab.com/a/b/c"),
        ("https://gitlab.com/a/b/c/-/merge_requests/7", "https://gitlab.com/a/b/c"),
        ("https://gitlab.com/a/b/merge_requests/7", "https://gitlab.com/a/b"),
        ("https://gitea.example.test/git/acme/shop/src/branch/main", "https://gitea.example.test/git/acme/shop"),
        ("https://gitea.example.test/acme/shop/pulls/7", "https://gitea.example.test/acme/shop"),
        ("https://gitea.example.test/acme/shop/releases/tag/v1", "https://gitea.example.test/acme/shop"),
        ("https://bitbucket.org/acme/shop/branch/feature/x", "https://bitbucket.org/acme/shop"),
        ("https://bitbucket.org/acme/shop/pull-requests/7", "https://bitbucket.org/acme/shop"),
        (
            "https://bb.example.test/projects/ACME/repos/shop/compare/commits?sourceBranch=refs/heads/x",
            "https://bb.example.test/scm/acme/shop.git",
        ),
        ("https://bb.example.test/x/users/jane/repos/shop/pull-requests/7/overview",
         "https://bb.example.test/x/scm/~jane/shop.git"),
        ("https://dev.azure.com/org/project/_git/shop?version=GBmain", "https://dev.azure.com/org/project/_git/shop"),
        ("https://dev.azure.com/org/project/_git/shop/pullrequest/7", "https://dev.azure.com/org/project/_git/shop"),
        ("https://u:s3cr3t@github.com/acme/shop/pull/7", "https://github.com/acme/shop"),
        ("https://github.com/acme/shop", None),  # nothing says that this is a repository
        ("https://wiki.example.test/tree/main", None),
        ("ftp://github.com/acme/shop/tree/main", None),
        ("https://[::1/acme/shop/tree/main", None),
        ("", None),
    ],
)  # fmt: skip
def test_the_repository_of_a_page(page: str, repository: str | None) -> None:
    assert repository_of_page(page) == repository


@pytest.mark.parametrize(
    ("url", "other", "same"),
    [
        ("git@github.com:Acme/shop.git", "https://github.com/acme/shop", True),
        ("ssh://git@bb.example.test:7999/acme/shop.git", "https://bb.example.test/scm/acme/shop.git", True),
        ("ssh://git@ssh.gitlab.example.test/a/b.git", "https://gitlab.example.test/a/b", True),
        ("https://bb.example.test/scm/~jane/my%20shop.git", "https://bb.example.test/scm/~jane/my shop", True),
        ("https://github.com/acme/shop", "https://github.com/acme/shop-web", False),
        ("/srv/git/shop.git", "/srv/git/shop.git", True),
        ("", "", False),
    ],
)
def test_urls_of_one_repository(url: str, other: str, same: bool) -> None:
    assert is_same(url, other) is same
    assert is_same(other, url) is same


@given(st.text() | st.text(st.sampled_from("/-tre:@[]?#%"), max_size=30).map("https://h".__add__))
def test_no_page_breaks_it(page: str) -> None:
    found = repository_of_page(page)
    assert found is None or found.startswith(("http://", "https://"))
    assert is_same(page, page) is bool(page)
