"""From recorded builds of a Jenkins 2.516.2 to the events that Hivel gets, field by field."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.rules import DEFAULT_ENVIRONMENT, Options, Pattern, Rule, Template, default_rules
from agent.deployments.derive import Rules, derive
from agent.inspect.derived import DerivedView, of_build
from agent.model.build import Build, ChangeSet, Checkout, Related, Relation
from agent.model.event import encode
from agent.model.fact import final
from agent.model.ids import run_id
from agent.model.keys import jenkins_run
from agent.model.status import Status
from agent.sources.jenkins.raw import RawBuild, build_of

BUILDS = Path(__file__).parents[1] / "data" / "recorded-jenkins" / "builds"
JENKINS = "http://127.0.0.1:8080"
SHOP = "https://github.example.test/acme/shop.git"


def recorded(name: str, job: str, *, branch_job: bool = False, **changes: Any) -> Build:
    answer = json.loads((BUILDS / f"{name}.json").read_text(encoding="utf-8")) | changes
    return build_of(msgspec.convert(answer, RawBuild), controller="main", job=job, branch_job=branch_job)


def rule(job: str = "**", environment: str = DEFAULT_ENVIRONMENT, **templates: str) -> Rule:
    pattern = Pattern.parse(job)
    groups = tuple(pattern.expression.groupindex)
    parsed: dict[str, Any] = {field: Template.parse(text, groups) for field, text in templates.items()}
    return Rule(pattern, Template.parse(environment, groups), **parsed)


def derivations(build: Build, by: Rule, options: Options | None = None) -> list[DerivedView]:
    """The deployments of a build whose final word is all that is known of it."""
    assert by.job.match(build.job) is not None
    return of_build(build, Rules((by,), options or Options(), frozenset({"main"})))


def derived(build: Build, by: Rule, options: Options | None = None) -> DerivedView:
    (found,) = derivations(build, by, options)
    assert (found.event is None) == (found.reason is not None)
    return found


def payload(build: Build, by: Rule, options: Options | None = None) -> dict[str, Any]:
    found = derived(build, by, options)
    assert found.event is not None, found.reason
    decoded = json.loads(encode(found.event))
    assert isinstance(decoded, dict)
    return decoded


def reason(build: Build, by: Rule) -> str:
    found = derived(build, by)
    assert found.reason is not None
    return found.reason


def rule_with(**fields: Any) -> Rule:
    return dataclasses.replace(rule(), **fields)


def made(**fields: Any) -> Build:
    return Build(**{"controller": "main", "job": "shop", "number": 7, "started_at": 1000, "ended_at": 2000, **fields})


# ---- one build of every kind of job: (recording, full name, branch of a multibranch project?, rule, event)

COMMON = {"event_type": "completed", "status": "success", "build_number": "1"}
(DEFAULT,) = default_rules()
KINDS = [
    pytest.param(
        *("deploy-free-1", "deploy-free", False, DEFAULT),
        {
            "deployment_id": "main:deploy-free#1",
            "repo_url": SHOP,
            "commit_hash": "6dacad59e2225cb80021a8ec0f67c2f0fa6e87e2",
            "environment": "staging",
            "start_time": "2026-11-23T07:33:59.463Z",
            "end_time": "2026-11-23T07:34:00.544Z",
            "branch": "v1.0.0",
            "logs_url": f"{JENKINS}/job/deploy-free/1/",
        },
        id="freestyle of a tag",
    ),
    pytest.param(
        *("deploy-free-2", "deploy-free", False, DEFAULT),
        {
            "deployment_id": "main:deploy-free#2",
            "build_number": "2",
            "repo_url": SHOP,
            "commit_hash": "f95b91056489d8c02e4ef910367506a785e7c393",
            "environment": "production",
            "start_time": "2026-11-23T07:34:00.714Z",
            "end_time": "2026-11-23T07:34:01.758Z",
            "branch": "main",
            "logs_url": f"{JENKINS}/job/deploy-free/2/",
        },
        id="freestyle",
    ),
    pytest.param(
        *("pipe-deploy-6", "pipe-deploy", False, DEFAULT),
        {
            "deployment_id": "main:pipe-deploy#6",
            "build_number": "6",
            "repo_url": SHOP,
            "commit_hash": "87e64cfa39c3831eec90339c6b777c17ee89ff99",
            "environment": "production",
            "start_time": "2026-11-23T07:43:01.039Z",
            "end_time": "2026-11-23T07:43:07.168Z",
            "branch": "main",
            "logs_url": f"{JENKINS}/job/pipe-deploy/6/",
        },
        id="pipeline",
    ),
    pytest.param(
        *("pipe-scripted-1", "pipe-scripted", False, rule("pipe-*", "qa")),
        {
            "deployment_id": "main:pipe-scripted#1",
            "repo_url": "git@github.example.test:acme/shop.git",
            "commit_hash": "f95b91056489d8c02e4ef910367506a785e7c393",
            "environment": "qa",
            "start_time": "2026-11-23T07:33:19.691Z",
            "end_time": "2026-11-23T07:33:23.597Z",
            "branch": "main",
            "logs_url": f"{JENKINS}/job/pipe-scripted/1/",
        },
        id="scripted pipeline with an scp-like URL",
    ),
    pytest.param(
        *("shop-mb-feature_2Fx-1", "shop-mb/feature%2Fx", True, rule("shop-mb/*", "review-{branch}")),
        {
            "deployment_id": "main:shop-mb/feature%2Fx#1",
            "repo_url": SHOP,
            "commit_hash": "bd75d1b3bd4ebb76a26a0167d4774226d1d5d5a7",
            "environment": "review-feature/x",
            "start_time": "2026-11-23T07:32:45.549Z",
            "end_time": "2026-11-23T07:32:53.298Z",
            "branch": "feature/x",
            "logs_url": f"{JENKINS}/job/shop-mb/job/feature%252Fx/1/",
        },
        id="multibranch feature/x",
    ),
    pytest.param(
        *("shop-mb-gr_e-1", "shop-mb/größe", True, rule("shop-mb/*")),
        {
            "deployment_id": "main:shop-mb/größe#1",
            "repo_url": SHOP,
            "commit_hash": "de66f9b5ebb9f8994f369f175888f1d29b3b6abf",
            "environment": "production",
            "start_time": "2026-11-23T07:32:45.528Z",
            "end_time": "2026-11-23T07:32:53.661Z",
            "branch": "größe",
            "logs_url": f"{JENKINS}/job/shop-mb/job/gr%C3%B6%C3%9Fe/1/",
        },
        id="multibranch größe",
    ),
    pytest.param(
        *("shop-mb-fix_2342-1", "shop-mb/fix%2342", True, rule("shop-mb/*")),
        {
            "deployment_id": "main:shop-mb/fix%2342#1",
            "repo_url": SHOP,
            "commit_hash": "a01a24a551e1d4686fdebc3f127ada398d2c2728",
            "environment": "production",
            "start_time": "2026-11-23T07:32:45.604Z",
            "end_time": "2026-11-23T07:32:57.064Z",
            "branch": "fix#42",
            "logs_url": f"{JENKINS}/job/shop-mb/job/fix%252342/1/",
        },
        id="multibranch fix#42",
    ),
    pytest.param(
        *("matrix-app-1", "matrix-app", False, rule("matrix-*", "dev")),
        {
            "deployment_id": "main:matrix-app#1",
            "status": "failed",
            "repo_url": SHOP,
            "commit_hash": "f95b91056489d8c02e4ef910367506a785e7c393",
            "environment": "dev",
            "start_time": "2026-11-23T07:34:04.862Z",
            "end_time": "2026-11-23T07:34:09.955Z",
            "branch": "main",
            "logs_url": f"{JENKINS}/job/matrix-app/1/",
        },
        id="matrix parent",
    ),
    pytest.param(
        *(
            "team-a-backend-api-build-1",
            "team-a/backend/api-build",
            False,
            rule(r"re:^(?P<team>[^/]+)/", "{team}-prod"),
        ),
        {
            "deployment_id": "main:team-a/backend/api-build#1",
            "repo_url": SHOP,
            "commit_hash": "f95b91056489d8c02e4ef910367506a785e7c393",
            "environment": "team-a-prod",
            "start_time": "2026-11-23T07:33:40.216Z",
            "end_time": "2026-11-23T07:33:43.687Z",
            "branch": "main",
            "logs_url": f"{JENKINS}/job/team-a/job/backend/job/api-build/1/",
        },
        id="job in folders",
    ),
    pytest.param(
        *("pipe-tag-1", "pipe-tag", False, rule("pipe-tag")),
        {
            "deployment_id": "main:pipe-tag#1",
            "repo_url": SHOP,
            "commit_hash": "6dacad59e2225cb80021a8ec0f67c2f0fa6e87e2",
            "environment": "production",
            "start_time": "2026-11-23T07:33:31.521Z",
            "end_time": "2026-11-23T07:33:34.705Z",
            "branch": "v1.0.0",
            "logs_url": f"{JENKINS}/job/pipe-tag/1/",
        },
        id="pipeline of a tag",
    ),
    pytest.param(
        *("multi-remote-1", "multi-remote", False, rule("multi-remote")),
        {
            "deployment_id": "main:multi-remote#1",
            "repo_url": SHOP,  # origin's, although upstream's is listed first
            "commit_hash": "f95b91056489d8c02e4ef910367506a785e7c393",
            "environment": "production",
            "start_time": "2026-11-23T07:33:28.728Z",
            "end_time": "2026-11-23T07:33:29.883Z",
            "branch": "main",
            "logs_url": f"{JENKINS}/job/multi-remote/1/",
        },
        id="two remotes in one checkout",
    ),
    pytest.param(
        *("pipe-lib-scm-1", "pipe-lib-scm", False, rule("pipe-lib-scm")),
        {
            "deployment_id": "main:pipe-lib-scm#1",
            "repo_url": SHOP,  # the application's, although the shared library was checked out first
            "commit_hash": "87e64cfa39c3831eec90339c6b777c17ee89ff99",
            "environment": "production",
            "start_time": "2026-11-23T07:40:14.662Z",
            "end_time": "2026-11-23T07:40:15.485Z",
            "branch": "main",
            "logs_url": f"{JENKINS}/job/pipe-lib-scm/1/",
        },
        id="shared library and application",
    ),
    pytest.param(
        *("pipe-two-repos-1", "pipe-two-repos", False, rule("pipe-two-repos")),
        {
            "deployment_id": "main:pipe-two-repos#1",
            "repo_url": "git@github.example.test:acme/shop.git",
            "commit_hash": "f95b91056489d8c02e4ef910367506a785e7c393",
            "environment": "production",
            "start_time": "2026-11-23T07:33:29.925Z",
            "end_time": "2026-11-23T07:33:31.398Z",
            "branch": "main",
            "logs_url": f"{JENKINS}/job/pipe-two-repos/1/",
        },
        id="two repositories, the first counts",
    ),
    pytest.param(
        *("deploy-param-7", "deploy-param", False),
        rule(
            "re:^deploy-(?P<app>.+)$",
            repo_url="https://bot:s3cr3t@github.example.test/acme/{app}.git",
            branch="refs/heads/release/{params.VERSION}",
            image="acme/{app}:{params.VERSION}",
        ),
        {
            "deployment_id": "main:deploy-param#7",
            "build_number": "7",
            "repo_url": "https://github.example.test/acme/param.git",
            "environment": "production",
            "start_time": "2026-11-23T07:34:02.279Z",
            "end_time": "2026-11-23T07:34:04.737Z",
            "branch": "release/2.0",
            "image": "acme/param:2.0",
            "logs_url": f"{JENKINS}/job/deploy-param/7/",
        },
        id="parameterised without a checkout",
    ),
]


@pytest.mark.parametrize(("recording", "job", "branch_job", "by", "event"), KINDS)
def test_the_event_of_every_kind_of_job(
    recording: str, job: str, branch_job: bool, by: Rule, event: dict[str, str]
) -> None:
    assert payload(recorded(recording, job, branch_job=branch_job), by) == COMMON | event


# ---- every result

NO_CHECKOUT = rule("**", "production", repo_url=SHOP, branch="main")


@pytest.mark.parametrize(
    ("recording", "job", "status", "number", "start_time", "end_time"),
    [
        ("pipe-notbuilt-1", "pipe-notbuilt", "unknown", 1, "07:33:23.776Z", "07:33:23.842Z"),
        ("free-tests-16", "free-tests", "failed", 16, "07:42:50.064Z", "07:42:50.083Z"),
        ("pipe-fail-prod-1", "pipe-fail-prod", "failed", 1, "07:33:24.225Z", "07:33:26.947Z"),
        ("long-free-1", "long-free", "canceled", 1, "07:37:23.525Z", "07:37:29.634Z"),
        ("long-free-4", "long-free", "unknown", 4, "07:45:32.884Z", "07:45:32.884Z"),
    ],
    ids=["NOT_BUILT", "UNSTABLE", "FAILURE", "ABORTED", "no result and no duration"],
)
def test_the_event_of_every_result(
    recording: str, job: str, status: str, number: int, start_time: str, end_time: str
) -> None:
    assert payload(recorded(recording, job), NO_CHECKOUT) == {
        "deployment_id": f"main:{job}#{number}",
        "event_type": "completed",
        "status": status,
        "repo_url": SHOP,
        "environment": "production",
        "start_time": f"2026-11-23T{start_time}",
        "end_time": f"2026-11-23T{end_time}",
        "branch": "main",
        "build_number": str(number),
        "logs_url": f"{JENKINS}/job/{job}/{number}/",
    }


@pytest.mark.parametrize("result", ["PAUSED", "", "GREAT"])
def test_a_result_that_nobody_heard_of_is_unknown(result: str) -> None:
    assert payload(recorded("long-free-1", "long-free", result=result), NO_CHECKOUT)["status"] == "unknown"


# ---- which repository and branch


def checkout(*urls: str, branches: tuple[str, ...] = ("origin/main",)) -> Checkout:
    return Checkout(remote_urls=urls, branches=branches, commit="abc")


def test_a_library_is_the_repository_when_there_is_nothing_else() -> None:
    event = payload(recorded("pipe-lib-1", "pipe-lib"), rule())
    assert event["repo_url"] == "https://github.example.test/acme/deploy-lib.git"


@pytest.mark.parametrize(
    "library",
    [
        "https://github.com/acme/jenkins-shared-library.git",
        "https://github.com/acme/pipeline_libs",
        "git@github.com:acme/deploy.lib.git",
        "https://github.com/acme/Jenkins-Libraries/",
        "https://github.com/acme/library.git",
        "git@github.com:library.git",
    ],
)
def test_a_shared_library_is_told_by_its_name(library: str) -> None:
    event = payload(made(checkouts=(checkout(library, branches=("master",)), checkout(SHOP))), rule())
    assert (event["repo_url"], event["branch"]) == (SHOP, "main")


@pytest.mark.parametrize("app", ["https://github.com/acme/libertine.git", "https://github.com/acme/calib"])
def test_an_application_is_not_taken_for_a_library(app: str) -> None:
    assert payload(made(checkouts=(checkout(app), checkout(SHOP))), rule())["repo_url"] == app


def test_one_url_with_two_branches_is_the_repository() -> None:
    build = made(checkouts=(checkout(SHOP, branches=("refs/remotes/fork/x", "refs/remotes/origin/main")),))
    assert (payload(build, rule())["repo_url"], payload(build, rule())["branch"]) == (SHOP, "main")


@pytest.mark.parametrize(
    ("parameters", "branch"),
    [
        ({"BRANCH_NAME": "main"}, "main"),
        ({"GIT_BRANCH": "origin/feature/x"}, "feature/x"),
        ({"BRANCH": "refs/heads/main"}, "main"),
        ({"BRANCH_NAME": "", "GIT_BRANCH": "HEAD", "BRANCH": "main"}, "main"),
    ],
)
def test_a_detached_head_takes_its_branch_from_the_parameters(parameters: dict[str, str], branch: str) -> None:
    detached = checkout(SHOP, branches=("detached",))
    assert payload(made(parameters=parameters, checkouts=(detached,)), rule())["branch"] == branch


def test_a_detached_head_of_a_branch_job_takes_its_branch_from_the_jobs_name() -> None:
    detached = checkout(SHOP, branches=("detached",))
    build = made(job="shop-mb/feature%2Fx", branch_job=True, checkouts=(detached,))
    assert payload(build, rule())["branch"] == "feature/x"


# ---- what the rule says


def test_the_templates_of_the_rule_win_over_the_build() -> None:
    by = rule(repo_url="https://github.com/acme/other", branch="release", environment="{branch}|x", image="i:1")
    event = payload(recorded("deploy-free-2", "deploy-free"), by)
    fields = ("repo_url", "branch", "environment", "image")
    assert [event[field] for field in fields] == ["https://github.com/acme/other", "release", "release", "i:1"]


def test_a_branch_template_can_fall_back_to_the_branch_of_the_build() -> None:
    by = rule(branch="{params.RELEASE}|{branch}")
    build = made(checkouts=(checkout(SHOP),))
    assert payload(build, by)["branch"] == "main"
    assert payload(made(checkouts=(checkout(SHOP),), parameters={"RELEASE": "origin/r1"}), by)["branch"] == "r1"


def test_what_the_build_checked_out_and_its_number_are_fields() -> None:
    by = rule(repo_url="{repo_url}|https://x/y", branch="{branch}-{number}", image="acme:{commit}")
    event = payload(recorded("deploy-free-2", "deploy-free"), by)
    assert [event[field] for field in ("repo_url", "branch", "image")] == [
        SHOP,
        "main-2",
        "acme:f95b91056489d8c02e4ef910367506a785e7c393",
    ]
    assert payload(made(parameters={"BRANCH": "main"}), by)["repo_url"] == "https://x/y"


def test_an_image_that_cannot_be_filled_is_left_out() -> None:
    assert "image" not in payload(recorded("deploy-free-2", "deploy-free"), rule(image="acme/shop:{params.TAG}"))


@pytest.mark.parametrize("group", ["app", "branch", "job"])
def test_a_named_group_is_a_field_of_every_template(group: str) -> None:
    by = rule(f"re:^deploy-(?P<{group}>.+)$", f"{{{group}}}", repo_url=f"https://x/{{{group}}}", branch=f"{{{group}}}")
    event = payload(recorded("deploy-param-7", "deploy-param"), by)
    assert [event[field] for field in ("environment", "repo_url", "branch")] == ["param", "https://x/param", "param"]


@pytest.mark.parametrize(
    ("job", "parameters", "environment"),
    [
        ("deploy-staging", {"ENVIRONMENT": "canary"}, "canary"),
        ("deploy-staging", {"ENVIRONMENT": " "}, "staging"),
        ("deploy-staging", {}, "staging"),
        ("deploy-preprod", {}, "production"),
        ("team/deploy-QA", {}, "qa"),
        ("deploy-shop", {}, "production"),
    ],
)
def test_without_rules_the_environment_is_the_parameter_or_what_the_name_says(
    job: str, parameters: dict[str, str], environment: str
) -> None:
    build = made(job=job, parameters=parameters, checkouts=(checkout(SHOP),))
    assert payload(build, DEFAULT)["environment"] == environment


# ---- where it all came from


def test_the_origins_name_checkout_parameter_literal_and_job() -> None:
    by = rule("re:^(?P<tier>deploy)", image="acme/{params.VERSION}:{commit}", branch="release")
    origins = derived(recorded("deploy-free-2", "deploy-free"), by).origins
    assert origins == {
        "deployment_id": "controller, job and number",
        "event_type": "the only event type of the API",
        "status": "result SUCCESS -> success",
        "repo_url": "checkout 1 of 1 (origin)",
        "commit_hash": "checkout 1 of 1 (origin)",
        "environment": "parameter ENVIRONMENT",
        "start_time": "the build's timestamp",
        "end_time": "the build's timestamp and duration",
        "branch": "literal text of the rule",
        "build_number": "build number",
        "image": 'the rule\'s "acme/{params.VERSION}:{commit}": parameter VERSION, checkout 1 of 1 (origin)',
        "logs_url": "the build's page",
    }


def test_the_origins_name_the_group_of_the_jobs_name_and_the_tag() -> None:
    by = rule("re:^pipe-(?P<kind>.+)$", "{kind}")
    origins = derived(recorded("pipe-tag-1", "pipe-tag"), by).origins
    assert origins["environment"] == "job name (group kind of the rule's pattern)"
    assert origins["branch"] == "tag of checkout 1 of 1"


@pytest.mark.parametrize(
    ("recording", "job", "origin"),
    [
        ("pipe-lib-scm-1", "pipe-lib-scm", "checkout 2 of 2 (origin)"),
        ("pipe-lib-1", "pipe-lib", "checkout 1 of 1; only a library was checked out"),
        ("multi-remote-1", "multi-remote", "checkout 1 of 1 (origin)"),
        (
            *("pipe-two-repos-1", "pipe-two-repos"),
            "checkout 1 of 2 (origin); 2 checkouts could be the application's: git@github.example.test:acme/shop.git, "
            "https://github.example.test/acme/infra.git; the first one is used; to choose another, set repository in "
            "the rule",
        ),
    ],
)
def test_the_origins_say_which_checkout_was_taken_and_what_else_could_be(recording: str, job: str, origin: str) -> None:
    assert derived(recorded(recording, job), rule()).origins["repo_url"].startswith(origin)


# ---- several repositories, and the one that is chosen


def test_each_repository_of_a_build_is_an_event_with_its_own_id() -> None:
    by = rule_with(checkouts="each")
    found = derivations(recorded("pipe-two-repos-1", "pipe-two-repos"), by, Options(url_form="https"))
    assert [(each.deployment_id, each.event and each.event.repo_url) for each in found] == [
        ("main:pipe-two-repos#1:acme/shop", "https://github.example.test/acme/shop"),
        ("main:pipe-two-repos#1:acme/infra", "https://github.example.test/acme/infra"),
    ]
    assert [each.event and each.event.commit_hash for each in found] == [
        "f95b91056489d8c02e4ef910367506a785e7c393",
        "5f99d1b04630ae85c53b61445eab296bc8b05846",
    ]


def test_each_of_one_repository_beside_a_library_is_the_event_of_the_build() -> None:
    found = derived(recorded("pipe-lib-scm-1", "pipe-lib-scm"), rule_with(checkouts="each"))
    assert (found.deployment_id, found.event and found.event.repo_url) == ("main:pipe-lib-scm#1", SHOP)


def test_repositories_of_one_path_on_two_hosts_have_different_ids() -> None:
    build = made(checkouts=(checkout("https://a.example/x/y"), checkout("https://b.example/x/y")))
    assert [each.deployment_id for each in derivations(build, rule_with(checkouts="each"))] == [
        "main:shop#7:a.example/x/y",
        "main:shop#7:b.example/x/y",
    ]


def test_pull_requests_are_given_to_no_repository_when_there_are_several() -> None:
    build = made(checkouts=(checkout(SHOP), checkout("https://x/y")), change_messages=("Mend it (#71)",))
    for found in derivations(build, rule_with(checkouts="each")):
        assert found.event is not None
        assert (found.event.pr_number, found.event.pr_numbers) == (None, None)
        assert found.origins["pr_numbers"].startswith("left out")


def test_the_rule_chooses_the_repository_and_the_reason_names_those_that_do_not_match() -> None:
    build = recorded("pipe-two-repos-1", "pipe-two-repos")
    infra = rule_with(repository=Pattern.parse("**/infra"))
    assert payload(build, infra)["repo_url"] == "https://github.example.test/acme/infra.git"
    other = reason(build, rule_with(repository=Pattern.parse("**/other")))
    assert "no checkout matches repository = '**/other': git@github.example.test:acme/shop.git, " in other


def test_two_remotes_are_told_apart_by_the_rule() -> None:
    mirror = rule_with(repository=Pattern.parse("gitlab.*/**"))
    assert payload(recorded("multi-remote-1", "multi-remote"), mirror)["repo_url"].startswith("https://gitlab.")


def test_patterns_of_the_configuration_name_libraries() -> None:
    options = Options(libraries=(Pattern.parse("**/acme/shop"),))
    event = payload(recorded("pipe-two-repos-1", "pipe-two-repos"), rule(), options)
    assert event["repo_url"] == "https://github.example.test/acme/infra.git"


# ---- downstream builds and pull requests


def test_a_downstream_build_takes_commit_and_pull_requests_of_the_build_above() -> None:
    build = recorded("downstream-10", "downstream")
    above = recorded("free-app-13", "free-app", changeSet={"items": [{"comment": "Mend the cart (#71)"}]})
    assert [(up.job, up.number) for up in build.upstream] == [("free-app", 13)]
    found = derived(msgspec.structs.replace(build, inherited=above), rule())
    assert found.event is not None
    assert (found.event.repo_url, found.event.branch) == (SHOP, "main")
    assert found.event.commit_hash == above.checkouts[0].commit
    assert found.event.pr_numbers == (71,)
    for key in ("repo_url", "branch", "commit_hash", "pr_numbers"):
        assert found.origins[key].endswith(
            (" of upstream build free-app#13", " of upstream build free-app#13 (origin)")
        ), key


def test_pull_requests_are_the_merges_newest_first() -> None:
    messages = ("Merge pull request #71 from acme/x", "fixes #12", "Mend it (#35)")
    event = payload(made(checkouts=(checkout(SHOP),), change_messages=messages), rule())
    assert (event["pr_number"], event["pr_numbers"]) == ("71", [71, 35])


def test_changes_that_end_with_a_checkouts_commit_are_those_of_its_repository() -> None:
    library, infra = Checkout((f"{SHOP}-lib",), ("main",), "1" * 40), "https://x/acme/infra"
    build = made(
        checkouts=(
            library,
            Checkout((SHOP,), ("origin/main",), "2" * 40),
            Checkout((infra,), ("origin/main",), "3" * 40),
        ),
        libraries=("tools@main",),
        change_sets=(
            ChangeSet("1" * 40, ("Of the library (#501)",), 1_000),
            ChangeSet("2" * 40, ("Mend the cart (#71)",), 2_000),
            ChangeSet("3" * 40, ("More room (#9)",), 3_000),
        ),
    )
    assert payload(build, rule())["pr_numbers"] == [71]
    each = derivations(build, rule_with(checkouts="each"))
    assert [found.event and found.event.pr_numbers for found in each] == [(71,), (9,)]


def first_commit_at(build: Build) -> int | None:
    run = jenkins_run(build.controller, build.job, build.number)
    [part] = derive([final(run, build, at=build.ended_at)], Rules((rule(),), Options(), frozenset({"main"}))).parts
    return part.content.first_commit_at


def test_the_oldest_commit_is_that_of_the_applications_changes() -> None:
    sets = ChangeSet("a" * 40, ("one",), 5_000), ChangeSet("b" * 40, ("library",), 1_000)
    app, library = Checkout((SHOP,), ("origin/main",), "a" * 40), Checkout((f"{SHOP}-lib",), ("main",), "b" * 40)
    build = made(checkouts=(app, library), libraries=("x",), change_sets=sets)
    assert first_commit_at(build) == 5_000
    above = made(checkouts=(app,), change_sets=(ChangeSet("a" * 40, (), 7_000),))
    other = msgspec.structs.replace(above, number=6, change_sets=(ChangeSet("a" * 40, (), 6_000),))
    causes = tuple(Related(Relation.CAUSE, each) for each in (above, other))
    assert first_commit_at(made(related=causes)) == 6_000
    assert first_commit_at(made(checkouts=(app,))) is None


def test_builds_that_were_folded_bring_the_pull_requests_of_all_and_no_other_repositorys() -> None:
    def above(number: int, url: str) -> Related:
        commit = f"{number}" * 40
        app, changes = Checkout((url,), ("origin/main",), commit), ChangeSet(commit, (f"Mend it (#{number})",))
        built = made(job="build", number=number, started_at=number, checkouts=(app,), change_sets=(changes,))
        return Related(Relation.CAUSE, built)

    build = made(related=(above(5, SHOP), above(7, SHOP), above(6, "https://x/acme/infra")))
    found = derived(build, rule())
    assert found.event is not None
    assert (found.event.commit_hash, found.event.pr_numbers) == ("7" * 40, (7, 5))
    assert found.origins["pr_numbers"] == (
        "merges in the change sets of upstream build build#7, merges in the change sets of upstream build build#5"
    )


# ---- libraries that are declared

LIBRARY = Options(libraries=(Pattern.parse("**/acme/shop"),))


@pytest.mark.parametrize(
    "by",
    [rule(repo_url=SHOP), rule(repo_url="{params.REPO}"), rule_with(repository=Pattern.parse("**/shop"))],
    ids=["literal", "parameter", "chosen"],
)
def test_a_repository_that_is_declared_a_library_is_never_sent_whatever_the_rule_says(by: Rule) -> None:
    build = made(parameters={"REPO": SHOP, "BRANCH": "main"}, checkouts=(checkout(SHOP),))
    found = derived(build, by, LIBRARY)
    assert found.event is None
    assert (found.reason or "").startswith("no repo_url")


# ---- statuses and environments of the configuration


def test_a_result_means_what_the_configuration_says() -> None:
    found = derived(recorded("free-tests-16", "free-tests"), NO_CHECKOUT, Options({"UNSTABLE": Status.SUCCESS}))
    assert found.event is not None
    assert found.event.status is Status.SUCCESS
    assert found.origins["status"] == "mapped by [status]: UNSTABLE -> success"


def test_the_name_of_an_environment_is_mapped_after_the_template() -> None:
    options = Options(environment_map={"production": "live"})
    found = derived(recorded("deploy-free-2", "deploy-free"), rule(environment="{params.ENVIRONMENT}"), options)
    assert found.event is not None
    assert found.event.environment == "live"
    assert found.origins["environment"] == "parameter ENVIRONMENT; mapped by [environments]: production -> live"


# ---- what is too long


@pytest.mark.parametrize("field", ["environment", "branch", "repo_url"])
def test_a_required_field_that_is_too_long_makes_no_event(field: str) -> None:
    templates = {"repo_url": SHOP, "branch": "main", "environment": "qa"} | {field: "{params.LONG}"}
    told = reason(made(parameters={"LONG": "x" * 256}), rule(**templates))
    assert told == f'{field} is 256 characters long, more than 255; set {field} in the rule for job = "**", then replay'


def test_an_optional_field_that_is_too_long_is_left_out_and_said_to_be() -> None:
    build = made(url="http://ci/" + "x" * 300, parameters={"TAG": "x" * 300}, checkouts=(checkout(SHOP),))
    found = derived(build, rule(image="{params.TAG}"))
    assert found.event is not None
    assert (found.event.image, found.event.logs_url) == (None, None)
    assert found.origins["image"] == "left out: image is 300 characters long, more than 255"
    assert found.origins["logs_url"].startswith("left out: ")


def test_ids_that_are_too_long_stay_apart() -> None:
    builds = [made(job="folder/" * 60 + name, checkouts=(checkout(SHOP),)) for name in ("a", "b")]
    ids = {payload(build, rule())["deployment_id"] for build in builds}
    assert len(ids) == 2
    assert {len(name) for name in ids} == {255}


# ---- no event, and why


def test_a_build_without_a_checkout_says_what_is_missing_and_what_helps() -> None:
    assert reason(recorded("deploy-param-7", "deploy-param"), DEFAULT) == (
        "no repo_url, no branch in the build; set repo_url and branch in the rule for "
        'job = "re:(?i)deploy", then replay'
    )


@pytest.mark.parametrize(
    ("by", "missing"),
    [
        (rule(environment="{params.ABSENT}", repo_url=SHOP, branch="main"), "no environment in the build"),
        (rule(repo_url="{params.ABSENT}", branch="main"), "no repo_url in the build"),
        (rule(repo_url=SHOP, branch="{params.ABSENT}"), "no branch in the build"),
        (rule(repo_url=SHOP, branch="refs/heads/"), "no branch in the build"),
    ],
)
def test_a_required_field_that_stays_empty_is_named(by: Rule, missing: str) -> None:
    assert reason(recorded("long-free-1", "long-free"), by).startswith(f"{missing}; set ")


def test_a_template_that_reads_a_password_parameter_makes_no_event() -> None:
    by = rule(repo_url=SHOP, branch="main", environment="{params.DEPLOY_TOKEN}")
    assert "{params.DEPLOY_TOKEN} is a password parameter" in reason(recorded("deploy-param-7", "deploy-param"), by)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("run", "is a run parameter, for which Jenkins shows only the build that it selects"),
        ("file", "is a file parameter, for which Jenkins shows no value"),
        ("credentials", "is a credentials parameter, for which Jenkins shows no value"),
        ("password", "is a password parameter, for which Jenkins shows no value"),
    ],
)
def test_a_parameter_without_a_value_says_what_it_is_and_the_next_alternative_is_tried(kind: str, told: str) -> None:
    build = made(checkouts=(checkout(SHOP),), masked_parameters=("X",), parameter_kinds={"X": kind})
    assert reason(build, rule(environment="{params.X}")) == f"{{params.X}} {told}"
    found = derived(build, rule(environment="{params.X}|{params.Y}|production"))
    assert found.event is not None
    assert found.event.environment == "production"
    assert found.origins["environment"] == f"literal text of the rule; {{params.X}} {told}"


def test_absurd_times_make_no_event() -> None:
    assert "times outside the years" in reason(recorded("long-free-1", "long-free", timestamp=10**18), NO_CHECKOUT)


@pytest.mark.parametrize(
    "build",
    [made(parameters={"BRANCH": " "}, checkouts=(checkout(SHOP, branches=()),)), made(checkouts=(checkout(" "),))],
    ids=["branch", "repo_url"],
)
def test_blanks_are_no_value(build: Build) -> None:
    assert "in the build; set " in reason(build, rule())


# ---- kept, and any build at all


def test_a_kept_build_gives_the_same_event_again() -> None:
    build = recorded("deploy-param-7", "deploy-param")
    kept = msgspec.json.decode(msgspec.json.encode(build), type=Build)
    assert kept == build
    by = rule(repo_url=SHOP, branch="main", image="acme:{params.VERSION}")
    assert derivations(kept, by) == derivations(build, by)


def test_the_id_is_known_before_the_event_can_be_derived() -> None:
    build = recorded("deploy-param-7", "team/deploy-param")
    assert derived(build, DEFAULT).deployment_id == "main:team/deploy-param#7"
    assert run_id(jenkins_run("main", "team/deploy-param", 7)) == "main:team/deploy-param#7"


_NAMES = st.sampled_from(["refs/heads/", "origin/", "main", "detached", "HEAD", "a" * 40, " ", ""]) | st.text()
_SECRET = "s3cr3t"
_URLS = (
    st.sampled_from(
        [f"https://u:{_SECRET}@h.example/r.git", f"ssh://git:{_SECRET}@h/r", f"HTTP://{_SECRET}@h/lib.git", "", " "]
    )
    | st.text()
)
_ACTIONS = st.lists(
    st.fixed_dictionaries(
        {"remoteUrls": st.lists(_URLS, max_size=3)},
        optional={
            "lastBuiltRevision": st.fixed_dictionaries(
                {"SHA1": st.text(max_size=3), "branch": st.lists(st.fixed_dictionaries({"name": _NAMES}), max_size=3)}
            )
        },
    ),
    max_size=3,
)
_PARAMETERS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["ENVIRONMENT", "BRANCH", "VERSION"])},
        optional={"value": st.none() | st.booleans() | st.text() | _NAMES},
    ),
    max_size=3,
).map(lambda parameters: [{"parameters": parameters}])
_RULES = st.sampled_from(
    [
        rule(),
        NO_CHECKOUT,
        rule(environment="{params.VERSION}|{branch}", branch="{params.VERSION}|{branch}", image="{params.VERSION}"),
        rule(repo_url=f"https://u:{_SECRET}@h/{{params.VERSION}}", branch="{job}"),
    ]
)
_TIMES = st.integers(-(10**14), 2 * 10**14) | st.integers(-(2**63), 2**63 - 1)


@given(
    actions=st.builds(list.__add__, _ACTIONS, _PARAMETERS),
    job=st.text(min_size=1),
    branch_job=st.booleans(),
    timestamp=_TIMES,
    duration=_TIMES,
    result=st.none() | st.text(),
    by=_RULES,
)
def test_any_build_gives_a_sound_event_or_a_reason(
    actions: list[Any], job: str, branch_job: bool, timestamp: int, duration: int, result: str | None, by: Rule
) -> None:
    answer = {"number": 7, "actions": actions, "timestamp": timestamp, "duration": duration, "result": result}
    build = build_of(msgspec.convert(answer, RawBuild), controller="main", job=job, branch_job=branch_job)
    outcome = derived(build, by)
    if outcome.event is None:
        assert outcome.reason
        return
    event = json.loads(encode(outcome.event))
    for field in ("deployment_id", "repo_url", "environment", "branch", "status", "start_time", "end_time"):
        assert event[field].strip(), field
    assert all(event.values())
    assert event["start_time"] <= event["end_time"]
    assert not event["branch"].startswith("refs/")
    assert _SECRET not in json.dumps(event)
