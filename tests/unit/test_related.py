"""Builds that check nothing out: whose commit they deploy, by what a real Jenkins 2.504.3 said of their causes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.config.rules import Pattern
from agent.deployments.checkouts import Wanted
from agent.deployments.repository import Source, sources
from agent.model.build import Build, Relation, UpstreamBuild
from agent.sources.jenkins.client import Job, Listing
from agent.sources.jenkins.errors import NotFoundError, UnreachableError
from agent.sources.jenkins.raw import RawBuild, build_of
from agent.sources.jenkins.related import RelatedBuilds

RECORDED = Path(__file__).parents[1] / "data" / "recorded-jenkins" / "2.504.3"
STORE = "https://git.example.test/acme/store.git"
CONFIG = "https://git.example.test/acme/config.git"
FREESTYLE, PIPELINE = "hudson.model.Cause$UpstreamCause", "org.jenkinsci.plugins.workflow.support.steps.build"
REPLAY = "org.jenkinsci.plugins.workflow.cps.replay.ReplayCause"
NOON = 1_795_000_000_000


class Recorded:
    """Has the builds of the recordings and those that a test adds, and counts what it is asked."""

    def __init__(self) -> None:
        self.builds_: dict[tuple[str, int], RawBuild] = {}
        self.asked: list[object] = []
        self.error: Exception | None = None
        for file in (*RECORDED.glob("causes/*.json"), *RECORDED.glob("checkouts/*.json")):
            job = json.loads(file.read_text(encoding="utf-8"))
            for answer in job["builds"]:
                self.builds_[job["fullName"], answer["number"]] = msgspec.convert(answer, RawBuild)

    def add(self, job: str, number: int, *actions: Any, result: str = "SUCCESS", **fields: Any) -> None:
        told = {"number": number, "result": result, "timestamp": NOON + number * 1_000, "duration": 500}
        self.builds_[job, number] = msgspec.convert(told | fields | {"actions": list(actions)}, RawBuild)

    def build(self, job: str, number: int) -> RawBuild:
        self.asked.append((job, number))
        if self.error is not None:
            raise self.error
        try:
            return self.builds_[job, number]
        except KeyError:
            raise NotFoundError(f"{job}#{number}") from None

    def builds(self, job: Job, first: int, last: int) -> Listing:
        self.asked.append(job.full_name)
        return Listing(self.listed(job.full_name)[first:last])

    def listed(self, job: str) -> list[RawBuild]:
        return [raw for (name, _), raw in sorted(self.builds_.items(), reverse=True) if name == job]

    def other_branches(self, job: str) -> list[str]:
        project = job.rpartition("/")[0]
        return sorted({name for name, _ in self.builds_ if name.startswith(f"{project}/") and name != job})

    def is_branch_job(self, job: str) -> bool:
        return "-mb/" in job


@pytest.fixture
def jenkins() -> Recorded:
    return Recorded()


def read(
    jenkins: Recorded, job: str, number: int, *, page: str | None = None, listed: int = 0, **wanted: Any
) -> tuple[Build, Source]:
    raw, branch_job = jenkins.builds_[job, number], jenkins.is_branch_job(job)
    build = build_of(raw, controller="main", job=job, branch_job=branch_job, pull_request_url=page)
    near = [each for each in jenkins.listed(job) if abs(each.number - number) <= listed]
    related = RelatedBuilds(jenkins, "main")  # type: ignore[arg-type]
    build = related.with_related(build, Job(job, 100, branch_job), Wanted(**wanted), listed=near)
    kept = msgspec.json.decode(msgspec.json.encode(build), type=Build)
    assert kept == build
    [source] = sources(kept, wanted=Wanted(**wanted))
    return build, source


def git(url: str = STORE, commit: str = "a" * 40, branch: str = "refs/remotes/origin/main") -> dict[str, Any]:
    revision = {"SHA1": commit, "branch": [{"name": branch}]}
    return {"_class": "hudson.plugins.git.util.BuildData", "remoteUrls": [url], "lastBuiltRevision": revision}


def caused(*builds: tuple[str, int], cls: str = FREESTYLE) -> dict[str, Any]:
    causes = [{"_class": cls, "upstreamProject": job, "upstreamBuild": number} for job, number in builds]
    return {"_class": "hudson.model.CauseAction", "causes": causes}


def parameters(**values: Any) -> dict[str, Any]:
    listed = [
        {"name": name} | (value if isinstance(value, dict) else {"value": value}) for name, value in values.items()
    ]
    return {"_class": "hudson.model.ParametersAction", "parameters": listed}


LIBRARIES = {"_class": "org.jenkinsci.plugins.workflow.libs.LibrariesAction", "libraries": [{"name": "shared"}]}
SHARED = git("https://git.example.test/acme/jenkins-shared.git", "5" * 40, "main")


# ---- recorded causes: (job, build, start of the commit, whose, what is asked)


@pytest.mark.parametrize(
    ("job", "number", "commit", "whose", "asked"),
    [
        ("deploy-app", 1, "b5f83c3", " of upstream build samples/build-app#1", [("samples/build-app", 1)]),
        ("deploy-app", 2, "b5f83c3", " of upstream build samples/build-app#1", [("samples/build-app", 1)]),
        ("deploy-reverse", 1, "6a00b8a", " of upstream build samples/package-a#1", [("samples/package-a", 1)]),
        (
            "notify-app", 1, "b5f83c3", " of upstream build samples/build-app#1",
            [("samples/deploy-app", 1), ("samples/build-app", 1)],
        ),
        ("deploy-triggered", 1, "b5f83c3", "", []),  # it has the revision of the build above as its own
        (
            "params-all", 1, "b5f83c3", " of build samples/build-app#1, named by parameter ARTIFACT_OF",
            [("samples/build-app", 1)],
        ),
        ("replay", 2, None, "", [("samples/replay", 1)]),
    ],
)  # fmt: skip
def test_the_commit_of_a_recorded_build_that_checked_nothing_out(
    jenkins: Recorded, job: str, number: int, commit: str | None, whose: str, asked: list[object]
) -> None:
    _, source = read(jenkins, f"samples/{job}", number)
    assert (source.commit and source.commit[:7], source.whose) == (commit, whose)
    assert jenkins.asked == asked


def test_of_recorded_builds_that_were_folded_the_newest_counts_and_the_other_is_told(jenkins: Recorded) -> None:
    build, source = read(jenkins, "samples/deploy-folded", 1)
    assert [each.build.job for each in build.related] == ["samples/package-b", "samples/package-a"]
    newest = max(build.related, key=lambda each: each.build.started_at).build
    assert source.whose == f" of upstream build {newest.job}#1"
    assert "; the newest of 2 upstream builds, the others are samples/package-" in source.origins["repo_url"]
    assert source.others == ()  # of another repository


# ---- causes


def test_builds_of_one_job_that_were_folded_bring_the_changes_of_all(jenkins: Recorded) -> None:
    for number, commit in enumerate("cde", 1):
        items = [{"commitId": commit * 40, "timestamp": NOON - number, "comment": f"Mend it (#{number})"}]
        jenkins.add("build", number, git(commit=commit * 40), changeSets=[{"kind": "git", "items": items}])
    jenkins.add("deploy", 9, caused(("build", 2), ("build", 3), ("build", 1)))
    _, source = read(jenkins, "deploy", 9)
    assert source.commit == "e" * 40
    messages = [each.messages for of in (source, *source.others) for each in of.changes]
    assert messages == [("Mend it (#3)",), ("Mend it (#2)",), ("Mend it (#1)",)]


@pytest.mark.parametrize("declared", [False, True], ids=["loaded", "declared"])
def test_a_build_that_checked_out_only_libraries_takes_the_commit_of_its_cause(
    jenkins: Recorded, declared: bool
) -> None:
    jenkins.add("build", 1, LIBRARIES, SHARED, git())
    templates = git("https://git.example.test/acme/templates.git", "6" * 40)
    jenkins.add("deploy", 1, caused(("build", 1)), *([templates] if declared else [LIBRARIES, SHARED]))
    _, source = read(jenkins, "deploy", 1, libraries=(Pattern.parse("**/templates"),))
    assert (source.repo_url, source.commit) == (STORE, "a" * 40)
    assert [each.commit for each in source.libraries] == ["6" * 40 if declared else "5" * 40]


def test_a_build_with_an_application_asks_for_nobody(jenkins: Recorded) -> None:
    jenkins.add("deploy", 1, caused(("samples/build-app", 1)), git())
    read(jenkins, "deploy", 1)
    assert jenkins.asked == []


def test_the_rule_chooses_among_what_the_causes_checked_out(jenkins: Recorded) -> None:
    jenkins.add("build", 1, git(CONFIG, "c" * 40))
    jenkins.add("release", 1, git(), caused(("build", 1)))
    jenkins.add("deploy", 1, caused(("release", 1)))
    _, source = read(jenkins, "deploy", 1, repository=Pattern.parse("**/config"))
    assert (source.repo_url, source.commit) == (CONFIG, "c" * 40)


def test_a_chain_of_causes_is_followed_so_far_and_no_further(jenkins: Recorded) -> None:
    for number in range(1, 10):
        jenkins.add("chain", number, *([caused(("chain", number - 1))] if number > 1 else [git()]))
    _, source = read(jenkins, "chain", 9)
    assert source.commit is None
    assert len(jenkins.asked) == 5
    _, source = read(jenkins, "chain", 6)
    assert source.commit == "a" * 40


def test_a_cause_that_is_not_there_is_no_error_and_an_outage_is_one(jenkins: Recorded) -> None:
    jenkins.add("deploy", 1, caused(("gone", 7)))
    assert read(jenkins, "deploy", 1)[1].commit is None
    jenkins.error = UnreachableError("starting")
    with pytest.raises(UnreachableError):
        read(jenkins, "deploy", 1)


# ---- run parameters


def run_of(job: str, number: int) -> dict[str, Any]:
    return {"_class": "hudson.model.RunParameterValue", "jobName": job, "number": str(number)}


def test_the_build_that_a_parameter_names_goes_before_the_builds_own_checkout(jenkins: Recorded) -> None:
    jenkins.add("build", 5, git(commit="b" * 40))
    jenkins.add("deploy", 1, parameters(RELEASE=run_of("build", 5)), git(CONFIG))
    _, source = read(jenkins, "deploy", 1)
    assert (source.repo_url, source.commit) == (STORE, "b" * 40)
    assert source.origins["commit"] == "checkout 1 of 1 of build build#5, named by parameter RELEASE (origin)"


def test_a_named_build_without_a_checkout_or_that_is_gone_changes_nothing(jenkins: Recorded) -> None:
    jenkins.add("build", 5)
    jenkins.add("deploy", 1, parameters(OLD=run_of("gone", 1), RELEASE=run_of("build", 5)), git(CONFIG))
    build, source = read(jenkins, "deploy", 1)
    assert (source.repo_url, build.related) == (CONFIG, ())


# ---- repetitions


def test_a_replayed_deployment_is_of_the_commit_of_the_one_that_it_repeats(jenkins: Recorded) -> None:
    jenkins.add("build", 5, git(commit="b" * 40))
    jenkins.add("deploy", 1, caused(("build", 5)))
    replayed = {"_class": REPLAY, "shortDescription": "Replayed #1"}
    jenkins.add("deploy", 2, {"_class": "hudson.model.CauseAction", "causes": [replayed]})
    again = {"_class": REPLAY, "shortDescription": "Replayed #2"}
    jenkins.add("deploy", 3, {"_class": "hudson.model.CauseAction", "causes": [again]})
    for number in (2, 3):
        _, source = read(jenkins, "deploy", number)
        assert source.commit == "b" * 40
        assert source.origins["commit"].startswith("checkout 1 of 1 of upstream build build#5 of build deploy#")
        assert source.origins["commit"].endswith(", which was repeated (origin)")


def test_a_replay_that_checks_out_something_itself_repeats_nothing(jenkins: Recorded) -> None:
    build, source = read(jenkins, "samples/store-mb/feature", 3)
    assert (source.branch, build.related, jenkins.asked) == ("feature", (), [])


# ---- builds that failed before their checkout

PAGE = "https://git.example.test/acme/store/tree/broken"


def test_a_recorded_branch_job_that_did_not_compile_is_of_its_pages_repository(jenkins: Recorded) -> None:
    _, source = read(jenkins, "samples/store-mb/broken", 1, page=PAGE)
    assert (source.repo_url, source.branch) == (STORE.removesuffix(".git"), "broken")
    assert (source.commit or "")[:7] == "d48fa7c"
    assert source.origins["repo_url"] == f"the branch job's page {PAGE}"
    assert source.own
    assert jenkins.asked == []


def test_other_builds_of_the_job_tell_the_repository_in_the_form_that_it_always_has(jenkins: Recorded) -> None:
    jenkins.add("samples/store-mb/broken", 2, git("ssh://git@git.example.test/acme/store.git", branch="broken"))
    _, source = read(jenkins, "samples/store-mb/broken", 1, page=PAGE, listed=1)
    assert source.repo_url == "ssh://git@git.example.test/acme/store.git"
    assert (source.commit or "")[:7] == "d48fa7c"
    assert source.origins["repo_url"].startswith("checkout 1 of 1 of build samples/store-mb/broken#2 of the same job")
    assert jenkins.asked == []


def test_the_first_build_of_a_branch_that_does_not_compile_is_of_the_repository_of_the_other_branches(
    jenkins: Recorded,
) -> None:
    _, source = read(jenkins, "samples/store-mb/broken", 1)  # git's own multibranch projects have no pages
    assert (source.repo_url, source.branch, (source.commit or "")[:7]) == (STORE, "broken", "d48fa7c")
    assert source.origins["repo_url"] == (
        "checkout 2 of 2 of build samples/store-mb/main#3 of another branch; at the commit that the branch job was "
        "started for; this build checked out nothing"
    )
    assert jenkins.asked == ["samples/store-mb/broken", "samples/store-mb/main"]


def test_a_project_is_asked_once_and_only_where_a_build_failed_before_its_checkout(jenkins: Recorded) -> None:
    related = RelatedBuilds(jenkins, "main")  # type: ignore[arg-type]
    broken = {"_class": "jenkins.scm.api.SCMRevisionAction", "revision": {"hash": "e" * 40}}
    for number, job in enumerate(("app-mb/one", "app-mb/two", "app-mb/one", "alone-mb/one"), 1):
        jenkins.add(job, number, broken, result="FAILURE")
    for job, number in ((job, number) for job, number in list(jenkins.builds_) if job.startswith(("app-", "alone-"))):
        build = build_of(jenkins.builds_[job, number], controller="main", job=job, branch_job=True)
        build = related.with_related(build, Job(job, 9, branch_job=True), Wanted())
        assert sources(build)[0].commit == "e" * 40
    assert jenkins.asked == ["app-mb/one", "app-mb/two", "app-mb/two", "alone-mb/one"]


def test_a_job_that_tells_nothing_else_is_asked_once_for_its_other_builds(jenkins: Recorded) -> None:
    jenkins.add("deploy", 3, git(commit="b" * 40))
    jenkins.add("deploy", 4, LIBRARIES, SHARED, result="FAILURE")
    jenkins.add("deploy", 5, result="ABORTED")
    jenkins.add("never", 1, result="FAILURE")
    related = RelatedBuilds(jenkins, "main")  # type: ignore[arg-type]
    for job, number in (("deploy", 4), ("deploy", 5), ("never", 1), ("never", 1)):
        build = build_of(jenkins.builds_[job, number], controller="main", job=job, branch_job=False)
        build = related.with_related(build, Job(job, 9, branch_job=False), Wanted())
        [source] = sources(build)
        assert (source.repo_url, source.branch) == ((STORE, "main") if job == "deploy" else (None, None))
        assert source.commit is None  # that of another build is not this one's
    assert jenkins.asked == ["deploy", "never"]


@pytest.mark.parametrize("result", ["SUCCESS", "UNSTABLE"])
def test_a_build_that_ran_to_its_end_takes_nothing_from_other_builds_of_its_job(jenkins: Recorded, result: str) -> None:
    jenkins.add("deploy", 3, git())
    jenkins.add("deploy", 4, result=result)
    build, source = read(jenkins, "deploy", 4, listed=1)
    assert (source.repo_url, build.related, jenkins.asked) == (None, (), [])


def test_what_depends_on_a_parameter_is_not_taken_from_another_build(jenkins: Recorded) -> None:
    url = "https://git.example.test/acme/{}.git"
    jenkins.add(
        "deploy", 1, parameters(SERVICE="cart", REF="release/1.4"), git(url.format("cart"), "b" * 40, "release/1.4")
    )
    jenkins.add(
        "deploy", 2, parameters(SERVICE="shop", REF="release/1.4"), git(url.format("shop"), "c" * 40, "release/1.4")
    )
    jenkins.add("deploy", 3, parameters(SERVICE="cart", REF="release/1.5"), result="FAILURE")
    jenkins.add("deploy", 4, parameters(SERVICE="mail", REF="release/1.5"), result="FAILURE")
    _, source = read(jenkins, "deploy", 3, listed=9)
    assert (source.repo_url, source.branch) == (url.format("cart"), "release/1.5")
    assert source.origins["branch"] == "parameter REF, which determined the branch of deploy#1"
    assert read(jenkins, "deploy", 4, listed=9)[1].repo_url is None


def test_a_failed_deployment_of_a_job_that_never_checks_out_is_of_its_cause(jenkins: Recorded) -> None:
    jenkins.add("deploy", 1, caused(("samples/build-app", 1)))
    jenkins.add("deploy", 2, caused(("samples/build-app", 1)), result="FAILURE")
    _, source = read(jenkins, "deploy", 2, listed=1)
    assert (source.commit or "")[:7] == "b5f83c3"


def test_a_job_with_a_checkout_of_its_own_that_fails_before_it_is_not_of_its_cause(jenkins: Recorded) -> None:
    jenkins.add("app", 1, git(CONFIG, "c" * 40), caused(("samples/build-app", 1)))
    jenkins.add("app", 2, caused(("samples/build-app", 1)), result="FAILURE")
    build, source = read(jenkins, "app", 2, listed=1)
    assert [each.how for each in build.related] == [Relation.SAME_JOB]
    assert (source.repo_url, source.branch, source.commit) == (CONFIG, "main", None)
    assert jenkins.asked == []


def test_what_older_versions_kept_of_the_build_above_still_counts() -> None:
    above = Build(
        job="build", number=5, started_at=0, ended_at=1, checkouts=build_of(
            msgspec.convert({"number": 5, "actions": [git()]}, RawBuild), controller="", job="build", branch_job=False
        ).checkouts,
    )  # fmt: skip
    kept = msgspec.json.encode(Build(started_at=1, ended_at=2, upstream=(UpstreamBuild("build", 5),), inherited=above))
    [source] = sources(msgspec.json.decode(kept, type=Build))
    assert (source.commit, source.whose) == ("a" * 40, " of upstream build build#5")
