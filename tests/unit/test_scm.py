"""Repositories: which checkout is the application's, and how its URL is written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.config.rules import Pattern
from agent.deployments.repository import sources
from agent.deployments.urls import https_form, path_of, plain
from agent.model.build import Build, Checkout

SHOP = "https://github.com/acme/shop.git"
INFRA = "https://github.com/acme/infra.git"
LIBRARY = "https://github.com/acme/deploy-lib.git"
TOOLS = "https://github.com/acme/pipeline-tools.git"


def checkout(
    *urls: str, branches: tuple[str, ...] = ("refs/remotes/origin/main",), commit: str | None = "c"
) -> Checkout:
    return Checkout(urls, branches, commit)


def build(*checkouts: Checkout, **fields: Any) -> Build:
    common = {"controller": "main", "job": "shop", "number": 7, "started_at": 0, "ended_at": 1, "checkouts": checkouts}
    return Build(**{**common, **fields})


def test_a_library_is_never_taken_when_there_is_an_application() -> None:
    [source] = sources(build(checkout(LIBRARY), checkout(SHOP)))
    assert source.repo_url == SHOP
    [source] = sources(build(checkout(TOOLS), checkout(SHOP)), libraries=[Pattern.parse("**/pipeline-tools")])
    assert source.repo_url == SHOP


def test_a_library_alone_is_taken_and_said_to_be_one() -> None:
    [source] = sources(build(checkout(LIBRARY)))
    assert source.repo_url == LIBRARY
    assert "only a library" in source.origins["repo_url"]


def test_two_applications_are_an_ambiguity_that_is_said_aloud() -> None:
    [source] = sources(build(checkout(SHOP), checkout(INFRA)))
    assert source.repo_url == SHOP
    assert f"2 checkouts could be the application's: {SHOP}, {INFRA}" in source.origins["repo_url"]


def test_a_rule_chooses_among_checkouts_and_among_remotes() -> None:
    chosen = Pattern.parse("github.com/acme/infra")
    [source] = sources(build(checkout(SHOP), checkout(INFRA)), repository=chosen)
    assert source.repo_url == INFRA
    two = checkout("https://gitlab.com/mirror/shop.git", SHOP, branches=("upstream/main", "origin/main"))
    assert sources(build(two))[0].repo_url == SHOP
    [source] = sources(build(two), repository=Pattern.parse("gitlab.com/**"))
    assert (source.repo_url, source.branch) == ("https://gitlab.com/mirror/shop.git", "main")


def test_a_choice_that_matches_nothing_takes_nothing() -> None:
    [source] = sources(build(checkout(SHOP)), repository=Pattern.parse("github.com/acme/infra"))
    assert source.repo_url is None
    assert "no checkout matches" in source.origins["repo_url"]


def test_the_jenkinsfiles_own_repository_is_preferred_in_a_branch_job() -> None:
    own = checkout(SHOP, branches=("feature/x",))
    [source] = sources(build(checkout(INFRA), own, job="shop/feature%2Fx", branch_job=True))
    assert (source.repo_url, source.branch) == (SHOP, "feature/x")


def test_each_gives_every_application_once_and_no_library() -> None:
    found = sources(build(checkout(LIBRARY), checkout(SHOP), checkout(INFRA), checkout(SHOP)), each=True)
    assert [source.repo_url for source in found] == [SHOP, INFRA]


def test_a_downstream_build_takes_all_from_the_one_that_had_a_checkout() -> None:
    upstream = build(checkout(SHOP, branches=("refs/tags/v1",)), job="build/shop", number=12)
    between = build(job="release", inherited=upstream)
    [source] = sources(build(inherited=between))
    assert (source.repo_url, source.branch, source.commit) == (SHOP, "v1", "c")
    assert "upstream build build/shop#12" in source.origins["repo_url"]


def test_a_detached_head_above_takes_the_branch_from_the_parameters_of_the_deployment() -> None:
    upstream = build(checkout(SHOP, branches=("detached",)), job="build/shop", number=12)
    [source] = sources(build(inherited=upstream, parameters={"BRANCH": "release"}))
    assert (source.repo_url, source.branch, source.origins["branch"]) == (SHOP, "release", "parameter BRANCH")


@pytest.mark.parametrize(
    ("fields", "branch"),
    [
        ({"job": "shop/feature%2Fx", "branch_job": True}, "feature/x"),
        ({"parameters": {"GIT_BRANCH": "origin/release"}}, "release"),
        ({"parameters": {"BRANCH": "detached"}}, None),
    ],
)
def test_a_detached_head_takes_the_branch_from_the_job_or_the_parameters(
    fields: dict[str, Any], branch: str | None
) -> None:
    [source] = sources(build(checkout(SHOP, branches=("detached",)), **fields))
    assert source.branch == branch


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("git@github.com:acme/shop.git", "https://github.com/acme/shop"),
        ("ssh://git@github.com:22/acme/shop.git", "https://github.com/acme/shop"),
        ("https://bot:secret@github.com/acme/shop.git/", "https://github.com/acme/shop"),
        ("https://git.example.com:8443/acme/shop.git", "https://git.example.com:8443/acme/shop"),
        ("git://github.com/acme/shop.git", "https://github.com/acme/shop"),
        ("git@ssh.dev.azure.com:v3/org/project/repo", "https://dev.azure.com/org/project/_git/repo"),
        ("org@vs-ssh.visualstudio.com:v3/org/project/repo", "https://dev.azure.com/org/project/_git/repo"),
        ("https://u:p@dev.azure.com/org/project/_git/repo", "https://dev.azure.com/org/project/_git/repo"),
        ("git@github.com:/acme/shop.git", "https://github.com/acme/shop"),
        ("ssh://git@[::1]:22/acme/shop.git", "https://[::1]/acme/shop"),
        ("http://bot:secret@git.example.com/acme/shop.git", "http://git.example.com/acme/shop.git"),
        ("svn://h/trunk", "svn://h/trunk"),
        ("https://h/.git", "https://h/.git"),
        ("shop", "shop"),
        ("/srv/git/shop.git", "/srv/git/shop.git"),
        ("C:/git/shop.git", "C:/git/shop.git"),
        ("file:///srv/git/shop.git", "file:///srv/git/shop.git"),
    ],
)
def test_urls_have_one_canonical_https_form_or_stay_as_they_are(url: str, written: str) -> None:
    assert https_form(url) == written
    assert https_form(written) == written


def test_patterns_see_host_and_path() -> None:
    assert {plain(url) for url in ("git@GitHub.com:acme/shop.git", SHOP)} == {"github.com/acme/shop"}


_URLS = st.from_regex(
    r"(https|ssh|git)://(u(:s3cr3t)?@)?h\.example(:[0-9]{1,4})?/[a-z/.]{1,12}(\.git)?/?", fullmatch=True
)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (SHOP, "acme/shop"),
        ("git@github.com:acme/shop.git", "acme/shop"),
        ("/srv/git/shop.git", "/srv/git/shop"),
        ("http://h/acme/shop", "acme/shop"),
    ],
)
def test_a_repository_is_named_by_its_path(url: str, path: str) -> None:
    assert path_of(url) == path


def test_two_remotes_without_an_origin_are_an_ambiguity_that_is_said_aloud() -> None:
    [source] = sources(build(checkout(INFRA, SHOP, branches=("detached",))))
    assert source.repo_url == INFRA
    assert f"2 remotes: {INFRA}, {SHOP}; the first one is used" in source.origins["repo_url"]


_SCP = st.from_regex(r"((u|u:s3cr3t)@)?h\.example:[a-z/.]{1,12}(\.git)?", fullmatch=True)


@example("@\r0")  # white space behind what was taken away
@given(_URLS | _SCP | st.text())
def test_the_canonical_form_is_final_and_shows_no_password(url: str) -> None:
    written = https_form(url)
    assert https_form(written) == written
    assert "s3cr3t" not in written
