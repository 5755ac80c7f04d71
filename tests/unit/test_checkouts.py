"""Which of a build's checkouts is the application's: what a real Jenkins 2.504.3 said, and what is derived from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.rules import Pattern
from agent.deployments.checkouts import Wanted, of_build
from agent.deployments.repository import Source, sources
from agent.model.build import Build, ChangeSet, Checkout, Revision
from agent.sources.jenkins.raw import RawBuild, build_of

RECORDED = Path(__file__).parents[1] / "data" / "recorded-jenkins" / "2.504.3" / "checkouts"
STORE = "https://git.example.test/acme/store.git"
CONFIG = "https://git.example.test/acme/config.git"
SHARED = "https://git.example.test/acme/jenkins-shared.git"


def recorded(name: str, number: int) -> Build:
    job = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    (answer,) = (answer for answer in job["builds"] if answer["number"] == number)
    branch_job = job["fullName"].startswith("samples/store-mb/")
    raw = msgspec.convert(answer, RawBuild)
    return build_of(raw, controller="main", job=job["fullName"], branch_job=branch_job)


def source_of(build: Build, **wanted: Any) -> Source:
    [found] = sources(build, wanted=Wanted(**wanted))
    return found


# (recording, build, branch, start of the commit): all of store.git
APPLICATIONS = [
    ("app-twice-branch-then-tag", 1, "v2.0.0", "08db9cc"),
    ("app-twice-same-branch", 1, "main", "6a00b8a"),
    ("app-twice-tag-then-branch", 1, "main", "6a00b8a"),
    ("app-twice-two-branches", 1, "feb2026", "69ad35a"),
    ("branch-cafe1234", 1, "cafe1234", "bd81eeb"),
    ("branch-cafe1234-gitstep", 1, "cafe1234", "bd81eeb"),
    ("branch-cafe1234-refs", 1, "cafe1234", "bd81eeb"),
    ("branch-feb2026", 1, "feb2026", "69ad35a"),
    ("branch-feb2026-gitstep", 1, "feb2026", "69ad35a"),
    ("branch-origin-prod", 1, "origin/prod", "7e9e731"),
    ("branch-origin-prod-gitstep", 1, "origin/prod", "7e9e731"),
    ("branch-origin-prod-refs", 1, "origin/prod", "7e9e731"),
    ("branch-upstream-sync", 1, "upstream/sync", "6058055"),
    ("branch-upstream-sync-gitstep", 1, "upstream/sync", "6058055"),
    ("branch-upstream-sync-refs", 1, "upstream/sync", "6058055"),
    ("branchjob-cafe1234", 1, "cafe1234", "bd81eeb"),
    ("branchjob-feature", 1, "feature", "d6ce6ef"),
    ("branchjob-feature", 2, "feature", "d6ce6ef"),
    ("branchjob-feature", 3, "feature", "d6ce6ef"),
    ("branchjob-feb2026", 1, "feb2026", "69ad35a"),
    ("branchjob-main", 1, "main", "6a00b8a"),
    ("branchjob-main", 2, "main", "111ea73"),
    ("branchjob-main", 3, "main", "6754640"),  # the library has the branch main, too
    ("branchjob-origin-prod", 1, "origin/prod", "7e9e731"),
    ("branchjob-release-3.0", 1, "release/3.0", "b5f83c3"),
    ("branchjob-v2.1.0", 1, "v2.1.0", "8964060"),
    ("branchjob-withlib", 1, "withlib", "1a4bc3d"),
    ("detached-commit", 1, None, "08db9cc"),
    ("detached-commit-param", 1, "release/3.0", "08db9cc"),
    ("freestyle-main", 2, "main", "111ea73"),
    ("freestyle-tag", 1, "v2.1.0", "8964060"),
    ("freestyle-two-branches", 7, "broken", "d48fa7c"),
    ("lib-changed", 2, "main", "6754640"),
    ("lib-declared-and-dynamic", 1, "main", "111ea73"),
    ("lib-declared-scripted", 2, "main", "111ea73"),
    ("lib-dynamic-after-checkout", 1, "main", "6a00b8a"),
    ("lib-dynamic-two", 1, "main", "111ea73"),
    ("lib-implicit", 1, "main", "6a00b8a"),
    ("lib-inline", 1, "main", "6a00b8a"),
    ("lib-two", 1, "main", "6a00b8a"),
    ("lib-version-commit", 1, "main", "6754640"),
    ("lib-version-sha", 1, "main", "6a00b8a"),
    ("lib-version-tag", 1, "main", "6754640"),
    ("local-branch-extension", 1, "main", "6a00b8a"),
    ("merge-before-build", 1, "main", "aaab045"),
    ("refspec-gerrit", 1, None, "62b710a"),
    ("refspec-gerrit-local", 1, None, "62b710a"),
    ("refspec-gerrit-param", 1, None, "62b710a"),
    ("refspec-pull-fetchhead", 1, None, "62b710a"),
    ("refspec-pull-merge", 1, None, "66dd93e"),
    ("refspec-pull-merge-local", 2, None, "66dd93e"),
    ("refspec-pull-merge-local-branch", 1, "pr-71", "66dd93e"),
    ("remote-named-company", 1, "main", "6a00b8a"),
    ("remote-named-company-full", 1, "release/3.0", "b5f83c3"),
    ("scm-heavy", 1, "release/3.0", "b5f83c3"),
    ("scm-heavy-does-not-compile", 1, "main", "6a00b8a"),
    ("scm-heavy-lib", 1, "withlib", "1a4bc3d"),
    ("scm-light", 1, "release/3.0", "b5f83c3"),
    ("scm-no-such-file", 1, "main", "6a00b8a"),
    ("second-build-of-branch", 2, "main", "111ea73"),
    ("tag", 1, "v2.1.0", "8964060"),
    ("tag-short", 1, "v2.1.0", "8964060"),
    ("tag-wildcard", 1, "v2.1.0", "8964060"),
    ("two-remotes-second-branch", 1, "release/3.0", "b5f83c3"),
    ("wildcard-branches", 1, "origin/prod", "7e9e731"),
]
NONE = [
    "checkout-fails-after-library", "checkout-fails-in-stage", "declarative-skip-checkout", "freestyle-missing-branch",
    "freestyle-missing-repository", "lib-declared-only", "lib-missing", "lib-missing-version",
    "scm-heavy-no-such-branch", "scm-light-does-not-compile", "scm-light-lib-nocheckout", "scm-light-no-such-branch",
    "scm-no-such-repository",
]  # fmt: skip


@pytest.mark.parametrize(("name", "number", "branch", "commit"), APPLICATIONS)
def test_the_application_of_a_recorded_build(name: str, number: int, branch: str | None, commit: str) -> None:
    found = source_of(recorded(name, number))
    assert (found.repo_url, found.branch, (found.commit or "")[:7]) == (STORE, branch, commit)
    assert "could be the application's" not in found.origins["repo_url"]


@pytest.mark.parametrize("name", NONE)
def test_a_recorded_build_without_an_application_takes_no_library_for_one(name: str) -> None:
    found = source_of(recorded(name, 1))
    assert (found.repo_url, found.branch, found.commit) == (None, None, None)


def test_a_library_that_is_the_application_itself_cannot_be_told_but_by_the_rule() -> None:
    build = recorded("lib-same-repo-as-app", 1)
    nothing = source_of(build)
    assert nothing.repo_url is None
    assert nothing.origins["repo_url"] == f"only shared libraries were checked out: {SHARED}"
    chosen = source_of(build, repository=Pattern.parse("**/jenkins-shared"))
    assert (chosen.repo_url, chosen.branch) == (SHARED, "main")


def test_two_repositories_are_an_ambiguity_that_the_rule_ends() -> None:
    build = recorded("app-then-config", 1)
    assert "2 checkouts could be the application's" in source_of(build).origins["repo_url"]
    assert source_of(build, repository=Pattern.parse("**/config")).repo_url == CONFIG


@pytest.mark.parametrize("name", ["lib-changed", "lib-two", "lib-dynamic-two", "branchjob-withlib"])
def test_a_pattern_that_fits_libraries_and_the_application_chooses_the_application(name: str) -> None:
    number = 2 if name == "lib-changed" else 1
    assert source_of(recorded(name, number), repository=Pattern.parse("git.example.test/acme/*")).repo_url == STORE


def test_each_repository_of_a_build_is_told_and_none_of_its_libraries() -> None:
    found = sources(recorded("lib-declared-and-dynamic", 1), each=True)
    assert [source.repo_url for source in found] == [STORE]
    assert [source.repo_url for source in sources(recorded("app-then-config", 1), each=True)] == [STORE, CONFIG]


def test_the_libraries_changes_are_not_the_applications() -> None:
    found = source_of(recorded("lib-changed", 2))
    assert [each.messages for each in found.changes] == [("Use the library (#75)",)]


def test_a_branch_job_that_could_not_be_compiled_tells_branch_and_commit() -> None:
    found = source_of(recorded("branchjob-broken", 1))
    assert (found.repo_url, found.branch) == (None, "broken")
    assert found.commit == "d48fa7c21255151cfe9020fe9a4aba404db5e08e"


# ---- what no recording has


def checkout(
    url: str, branch: str = "refs/remotes/origin/main", commit: str | None = "a" * 40, **fields: Any
) -> Checkout:
    return Checkout((url,), (branch,), commit, **fields)


def made(*checkouts: Checkout, **fields: Any) -> Build:
    common = {"controller": "main", "job": "shop", "number": 7, "result": "SUCCESS", "started_at": 0, "ended_at": 1}
    return Build(**common | {"checkouts": checkouts} | fields)


def branch_job(*checkouts: Checkout, **fields: Any) -> Build:
    return made(*checkouts, **{"job": "mb/main", "branch_job": True} | fields)


PAGES = {
    "GitHub": ("https://github.example.test/acme/store/tree/main", "git@github.example.test:Acme/store.git"),
    "GitLab": ("https://gitlab.example.test/a/b/store/-/merge_requests/7", "https://gitlab.example.test/a/b/store.git"),
    "Gitea": ("https://gitea.example.test/acme/store/src/branch/main", "ssh://git@gitea.example.test:2222/acme/store"),
    "Bitbucket Server": (
        "https://bb.example.test/projects/ACME/repos/store/compare/commits?sourceBranch=refs/heads/main",
        "ssh://git@ssh.bb.example.test:7999/acme/store.git",
    ),
}


@pytest.mark.parametrize(("page", "url"), PAGES.values(), ids=PAGES)
def test_the_page_of_a_branch_job_names_the_application(page: str, url: str) -> None:
    build = branch_job(checkout(SHARED, "main", "b" * 40), checkout(url, "main"), pull_request_url=page)
    found = source_of(build)
    assert found.repo_url == url
    assert found.origins["repo_url"] == "checkout 2 of 2; the repository of the branch job's page"


def test_a_pull_request_that_was_merged_for_the_build_is_its_own_commit() -> None:
    build = branch_job(
        checkout(SHARED, "main", "b" * 40), checkout(STORE, "PR-7", "c" * 40),
        job="mb/PR-7", libraries=("shared@main",), revision=Revision("PR-7", "d" * 40, "main"),
    )  # fmt: skip
    found = source_of(build)
    assert (found.repo_url, found.branch, found.commit) == (STORE, "PR-7", "d" * 40)
    assert found.origins["commit"].startswith("the pull request's own commit; checkout 2 of 2 is a temporary merge")


def test_the_job_of_a_gerrit_change_is_of_the_branch_that_the_change_is_for() -> None:
    change = Revision("11/4711/3", None, "stable")
    build = branch_job(checkout(STORE, "11/4711/3"), job="mb/11%2F4711%2F3", revision=change)
    assert source_of(build).branch == "stable"


def test_an_old_branch_job_is_told_by_its_own_branch() -> None:
    build = branch_job(checkout(CONFIG, "config"), checkout(STORE, "main"))
    found = source_of(build)
    assert (found.repo_url, found.origins["repo_url"]) == (
        STORE,
        "checkout 2 of 2; the only one on the job's own branch",
    )


def test_a_library_of_a_branch_job_is_not_taken_for_what_the_job_was_started_for() -> None:
    lib = checkout("https://git.example.test/acme/deploy-lib.git", "main", "b" * 40)
    found = source_of(branch_job(lib, revision=Revision("main", "d" * 40)))
    assert (found.repo_url, found.branch, found.commit) == (None, "main", "d" * 40)


@pytest.mark.parametrize("libraries", [("tools@main",), ("shared@main", "tools@main")], ids=["one", "two"])
def test_a_library_in_jenkins_cache_has_no_checkout(libraries: tuple[str, ...]) -> None:
    assert source_of(made(checkout(STORE), libraries=libraries)).repo_url == STORE


def test_of_a_short_tag_and_a_library_the_parameter_names_the_application() -> None:
    both = checkout(STORE, "v2.1.0"), checkout(SHARED, "main", "b" * 40)
    tools = ("tools@1.x",)
    assert source_of(made(*both, libraries=tools, parameters={"TAG": "v2.1.0"})).repo_url == STORE
    assert source_of(made(*both, libraries=("shared@1.x",))).repo_url == STORE  # its repository has the library's name
    unclear = source_of(made(*both, libraries=tools)).origins["repo_url"]
    assert f"Jenkins does not show which of {STORE}, {SHARED} are the libraries tools@1.x" in unclear


def test_libraries_by_the_older_ways_of_retrieval_are_told_by_their_names() -> None:
    both = checkout(SHARED, commit="b" * 40), checkout(STORE)
    assert source_of(made(*both, libraries=("shared@main",))).repo_url == STORE


def test_where_jenkins_tells_that_there_are_no_libraries_a_name_is_none() -> None:
    lib = checkout("https://git.example.test/acme/pricing-lib.git")
    found = source_of(made(lib, libraries=()))
    assert (found.repo_url, found.own) == (lib.remote_urls[0], True)
    assert found.origins["repo_url"] == "checkout 1 of 1 (origin)"
    assert source_of(made(lib, checkout(STORE), libraries=())).repo_url == STORE  # the likelier one


def test_a_declared_library_is_never_taken() -> None:
    declared = [Pattern.parse("**/jenkins-shared")]
    assert source_of(made(checkout(SHARED)), libraries=declared).repo_url is None
    by_rule = source_of(made(checkout(SHARED)), libraries=declared, repository=Pattern.parse("**/jenkins-shared"))
    assert by_rule.repo_url is None
    page = "https://git.example.test/acme/jenkins-shared/tree/main"
    assert source_of(branch_job(pull_request_url=page), libraries=declared).repo_url is None


def test_a_remote_that_has_the_name_of_a_host_is_on_that_host() -> None:
    urls = "https://gerrit.example.test/store", "https://github.com/acme/store.git"
    found = source_of(made(Checkout(urls, ("github/main",), "a" * 40)))
    assert (found.repo_url, found.branch) == (urls[1], "main")
    assert "the first one is used" not in found.origins["repo_url"]


# ---- the same repository twice

TWICE = (
    checkout(STORE, commit="a" * 40),
    checkout(STORE, "refs/tags/v1.4.0", "b" * 40),
    checkout(STORE, commit="c" * 40),
)


@pytest.mark.parametrize(
    ("parameters", "commit", "words"),
    [
        ({"TAG": "v1.4.0"}, "b", "parameter TAG names this one"),
        ({"VERSION": "1.4.0"}, "b", "parameter VERSION names this one"),
        ({"GIT_REF": "refs/tags/v1.4.0"}, "b", "parameter GIT_REF names this one"),
        ({"REVISION": "aaaaaaa"}, "a", "parameter REVISION names this one"),
        ({"TARGET": "v1.4.0"}, "c", "the last one is used"),  # an environment, most likely
        ({"TAG": "v9"}, "c", "the last one is used"),
        ({}, "c", "the last one is used"),
    ],
)
def test_the_revision_that_a_parameter_names_counts_else_the_last(
    parameters: dict[str, str], commit: str, words: str
) -> None:
    found = source_of(made(*TWICE, parameters=parameters))
    assert found.commit == commit * 40
    assert f"checked out 3 times, main, then v1.4.0, then main; {words}" in found.origins["commit"]


def test_the_revision_that_the_rule_names_goes_before_the_parameters() -> None:
    build = made(*TWICE, parameters={"TAG": "v1.4.0"})
    found = source_of(build, named=(("main", 'the rule\'s branch = "main"'),))
    assert found.commit == "c" * 40
    assert 'the rule\'s branch = "main" names this one' in found.origins["commit"]


def test_a_branch_job_that_checks_out_more_of_its_repository_deploys_what_it_was_started_for() -> None:
    pages = checkout(STORE, "refs/remotes/origin/gh-pages", "b" * 40)
    build = branch_job(checkout(STORE, "main"), pages, revision=Revision("main", "a" * 40))
    assert (source_of(build).branch, source_of(build).commit) == ("main", "a" * 40)


def test_the_changes_of_the_revision_that_is_not_deployed_do_not_count() -> None:
    sets = ChangeSet("a" * 40, ("Not yet (#9)",)), ChangeSet("b" * 40, ("Mend it (#7)",), 5)
    found = source_of(made(*TWICE, parameters={"TAG": "v1.4.0"}, change_sets=sets))
    assert found.changes == (sets[1],)


def test_changes_that_end_with_no_checkouts_commit_are_the_applications() -> None:
    sets = (ChangeSet("d" * 40, ("Mend it (#7)",)),)
    assert source_of(made(checkout(STORE), change_sets=sets)).changes == sets
    several = sources(made(checkout(STORE), checkout(CONFIG), change_sets=sets), each=True)
    assert [source.changes for source in several] == [(), ()]


# ---- other systems


def test_subversion_is_a_repository_with_a_branch_and_a_revision() -> None:
    svn = checkout("https://svn.example.test/repos/store", "trunk", "4711", kind="svn")
    found = source_of(made(svn))
    assert (found.repo_url, found.branch, found.commit) == ("https://svn.example.test/repos/store", "trunk", "4711")


def test_mercurial_says_what_to_set() -> None:
    found = source_of(made(Checkout((), ("default",), "e" * 40, "hg")))
    assert (found.repo_url, found.branch, found.commit) == (None, "default", "e" * 40)
    assert found.origins["repo_url"] == (
        "checkout 1 of 1; the SCM plugin does not report the repository; set repo_url in the rule"
    )


_NAMES = st.sampled_from(["", "main", "detached", "refs/remotes/origin/main", "refs/tags/v1", "PR-7"]) | st.text()
_CHECKOUTS = st.lists(
    st.builds(
        Checkout,
        st.lists(st.sampled_from([STORE, CONFIG, SHARED, ""]) | st.text(), max_size=3).map(tuple),
        st.lists(_NAMES, max_size=3).map(tuple),
        st.none() | st.sampled_from(["a" * 40, "b" * 40]),
    ),
    max_size=4,
).map(tuple)


@given(
    checkouts=_CHECKOUTS,
    libraries=st.none() | st.lists(st.sampled_from(["shared@main", "tools", "@", ""]), max_size=3).map(tuple),
    revision=st.none() | st.builds(Revision, st.none() | _NAMES, st.none() | st.just("a" * 40), st.none() | _NAMES),
    pattern=st.none() | st.sampled_from(["**", "**/store"]).map(Pattern.parse),
    parameters=st.dictionaries(st.sampled_from(["TAG", "BRANCH"]), _NAMES, max_size=2),
    is_branch_job=st.booleans(),
    each=st.booleans(),
)
def test_whatever_was_checked_out_a_declared_library_is_not_the_application(
    checkouts: tuple[Checkout, ...],
    libraries: tuple[str, ...] | None,
    revision: Revision | None,
    pattern: Pattern | None,
    parameters: dict[str, str],
    is_branch_job: bool,
    each: bool,
) -> None:
    wanted = Wanted([Pattern.parse("**/jenkins-shared")], pattern)
    build = made(
        *checkouts,
        libraries=libraries,
        revision=revision,
        parameters=parameters,
        branch_job=is_branch_job,
        job="a/main",
    )
    found = sources(build, wanted=wanted, each=each)
    assert found
    assert not any(wanted.is_library(source.repo_url or "") for source in found)
    numbers = [candidate.number for candidate in of_build(build, wanted).candidates]
    assert len(set(numbers)) == len(numbers) or pattern is not None
