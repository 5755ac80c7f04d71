"""Builds: when one is final, and what is kept of Jenkins' answer; against answers of a Jenkins 2.516.2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.rules import MaskedParameterError, Template
from agent.model.build import PARAMETERS_TEXT, Build, ChangeSet, Checkout, Revision, UpstreamBuild
from agent.sandbox.jenkins.tree import parse
from agent.sources.jenkins.raw import (
    BUILD_TREE,
    CHANGES,
    LONGEST_TEXT,
    MESSAGE_LENGTH,
    Phase,
    RawBuild,
    build_of,
    shorten,
)

RECORDED = Path(__file__).parents[1] / "data" / "recorded-jenkins"
OTHER = RECORDED / "2.504.3"
SHA = "f95b91056489d8c02e4ef910367506a785e7c393"


def raw_build(**fields: Any) -> RawBuild:
    return msgspec.convert({"number": 7, **fields}, RawBuild)


def build(*actions: Any, **fields: Any) -> Build:
    return build_of(raw_build(actions=list(actions), **fields), controller="main", job="shop", branch_job=False)


@pytest.mark.parametrize(
    ("building", "in_progress", "result", "duration", "phase"),
    [
        (True, True, None, 0, Phase.RUNNING),
        (True, False, None, 0, Phase.RUNNING),  # a pipeline at its start
        (True, True, "SUCCESS", 0, Phase.RUNNING),  # can still get worse
        (False, True, "SUCCESS", 29, Phase.RUNNING),  # a freestyle build at its end
        (False, False, "SUCCESS", 0, Phase.SETTLING),  # a pipeline at its end
        (False, False, None, 12, Phase.SETTLING),
        (False, False, "SUCCESS", -5, Phase.SETTLING),
        (False, False, "SUCCESS", 1, Phase.FINAL),
        (False, False, "NOT_BUILT", 66, Phase.FINAL),
        (False, None, "SUCCESS", 1, Phase.FINAL),  # an older Jenkins does not tell inProgress
        (True, None, None, 0, Phase.RUNNING),
    ],
)
def test_a_build_is_final_when_everything_agrees(
    building: bool, in_progress: bool | None, result: str | None, duration: int, phase: Phase
) -> None:
    raw = raw_build(building=building, inProgress=in_progress, result=result, duration=duration)
    assert raw.phase is phase


@pytest.mark.parametrize("trace", ["freestyle", "pipeline", "pipeline-early-unstable", "matrix"])
def test_the_first_final_answer_of_a_recorded_build_is_the_last_word(trace: str) -> None:
    answers = [entry["build"] for entry in json.loads((RECORDED / f"trace-{trace}.json").read_text(encoding="utf-8"))]
    raws = [msgspec.convert(answer, RawBuild) for answer in answers if answer != 404]
    final = [raw for raw in raws if raw.phase is Phase.FINAL]
    assert final
    assert all((raw.result, raw.duration) == (raws[-1].result, raws[-1].duration) for raw in final)
    assert len(final) < len(raws)


def test_every_recorded_combination_of_states_is_read_as_what_it_was() -> None:
    recorded = json.loads((RECORDED / "trace-state-combinations.json").read_text(encoding="utf-8"))
    for seen in (entry for entries in recorded.values() for entry in entries):
        building, in_progress, result, duration, _ = seen["state"]
        running = building == "building" or in_progress == "inProgress"
        settled = result is not None and duration == "dur>0"
        expected = Phase.RUNNING if running else Phase.FINAL if settled else Phase.SETTLING
        assert msgspec.convert(seen["example"], RawBuild).phase is expected, seen["state"]


def test_the_end_is_the_timestamp_plus_the_duration() -> None:
    assert raw_build(timestamp=1000, duration=250).ended_at == 1250
    assert raw_build(timestamp=1000, duration=-1).ended_at == 1000


def test_what_is_kept_of_a_recorded_build() -> None:
    raw = msgspec.json.decode((RECORDED / "builds/deploy-free-2.json").read_bytes(), type=RawBuild)
    assert build_of(raw, controller="main", job="deploy-free", branch_job=False) == Build(
        controller="main",
        job="deploy-free",
        number=2,
        url="http://127.0.0.1:8080/job/deploy-free/2/",
        result="SUCCESS",
        started_at=1795419240714,
        ended_at=1795419240714 + 1044,
        branch_job=False,
        parameters={"ENVIRONMENT": "production", "VERSION": "main"},
        masked_parameters=(),
        checkouts=(
            Checkout(remote_urls=("https://github.example.test/acme/shop.git",), branches=("origin/main",), commit=SHA),
        ),
    )


def test_the_parameters_of_a_recorded_build_are_text_and_the_password_is_masked() -> None:
    raw = msgspec.json.decode((RECORDED / "builds/deploy-param-7.json").read_bytes(), type=RawBuild)
    kept = build_of(raw, controller="main", job="deploy-param", branch_job=False)
    assert kept.parameters == {
        "ENVIRONMENT": "production",
        "VERSION": "2.0",
        "DRY_RUN": "false",
        "NOTES": "line one\nline two",
    }
    assert kept.masked_parameters == ("DEPLOY_TOKEN",)


def recorded_builds() -> list[Any]:
    answers = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in (RECORDED / "builds").glob("*.json")}
    for file in (*OTHER.glob("checkouts/*.json"), *OTHER.glob("causes/*.json")):
        for answer in json.loads(file.read_text(encoding="utf-8"))["builds"]:
            answers[f"{file.stem}-{answer['number']} of 2.504.3"] = answer
    return [pytest.param(answer, id=name) for name, answer in sorted(answers.items())]


@pytest.mark.parametrize("whole", recorded_builds())
def test_the_tree_asks_for_all_that_is_kept(whole: dict[str, Any]) -> None:
    cut = parse(BUILD_TREE).apply(whole)
    kept = [
        build_of(msgspec.convert(answer, RawBuild), controller="main", job="x", branch_job=False)
        for answer in (whole, cut)
    ]
    assert kept[0] == kept[1]
    assert msgspec.convert(whole, RawBuild).phase is msgspec.convert(cut, RawBuild).phase


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (False, "false"), (0, "0"), (1.5, "1.5"), ("", ""), ("größe", "größe")]
)
def test_a_parameter_is_written_as_groovy_writes_it(value: object, text: str) -> None:
    assert build({"parameters": [{"name": "P", "value": value}]}).parameters == {"P": text}


@pytest.mark.parametrize("value", [None, [], ["a"], {"a": "b"}])
def test_a_parameter_of_no_single_value_is_left_out(value: object) -> None:
    kept = build({"parameters": [{"name": "P", "value": value}, {"name": "Q", "value": "q"}]})
    assert (kept.parameters, kept.masked_parameters) == ({"Q": "q"}, ())


@pytest.mark.parametrize(
    "action",
    [
        None,
        {},
        {"parameters": "none", "remoteUrls": {"url": "x"}, "lastBuiltRevision": 7},
        {"parameters": [{"value": "without a name"}]},
        {"remoteUrls": []},
        {"remoteUrls": [None]},
        {"lastBuiltRevision": {"SHA1": SHA, "branch": [{"name": "main"}]}},
    ],
)
def test_actions_that_say_nothing_of_use_are_passed_over(action: object) -> None:
    kept = build(action, {"parameters": [{"name": "P", "value": "p"}]})
    assert (kept.parameters, kept.checkouts) == ({"P": "p"}, ())


@pytest.mark.parametrize("revision", [None, "x", {}, {"SHA1": ""}, {"SHA1": 7}, {"branch": "main"}])
def test_a_checkout_without_a_usable_revision_still_names_its_repository(revision: object) -> None:
    url = "https://github.com/acme/shop.git"
    kept = build({"remoteUrls": [url], "lastBuiltRevision": revision})
    assert kept.checkouts == (Checkout(remote_urls=(url,), branches=(), commit=None),)


def test_no_credentials_of_a_remote_are_kept() -> None:
    kept = build({"remoteUrls": ["https://bot:s3cr3t@github.com/acme/shop.git", "ssh://git:s3cr3t@host/acme/shop"]})
    assert kept.checkouts[0].remote_urls == ("https://github.com/acme/shop.git", "ssh://git@host/acme/shop")


_KEYS = st.sampled_from(
    ["name", "value", "SHA1", "branch", "upstreamProject", "_class", "hash", "head", "target", "number", "data"]
)
_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS | st.text(), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = [
    "_class", "parameters", "causes", "remoteUrls", "lastBuiltRevision", "libraries", "revision", "mercurialNodeName",
    "other",
]  # fmt: skip


@given(st.lists(st.dictionaries(st.sampled_from(_FIELDS), _JSON) | st.none(), max_size=4), st.text())
def test_whatever_plugins_put_into_actions_a_build_is_kept(actions: list[Any], url: str) -> None:
    try:
        raw = msgspec.json.decode(msgspec.json.encode({"number": 7, "url": url, "actions": actions}), type=RawBuild)
    except msgspec.ValidationError:
        return
    kept = build_of(raw, controller="main", job="shop", branch_job=False)
    assert (kept.number, kept.url) == (7, url)
    assert msgspec.json.decode(msgspec.json.encode(kept), type=Build) == kept


def test_credentials_in_a_text_parameter_are_not_kept() -> None:
    answer = {
        "number": 1,
        "actions": [{"parameters": [{"name": "URL", "value": "see https://bot:pw@h/x and git@h:y"}]}],
    }
    build = build_of(msgspec.convert(answer, RawBuild), controller="main", job="x", branch_job=False)
    assert build.parameters == {"URL": "see https://h/x and git@h:y"}


# ---- who started it, and what was committed


def recorded(name: str) -> Build:
    raw = msgspec.json.decode((RECORDED / f"builds/{name}.json").read_bytes(), type=RawBuild)
    return build_of(raw, controller="main", job="x", branch_job=False)


@pytest.mark.parametrize(
    ("name", "upstream"),
    [
        ("downstream-10", (UpstreamBuild("free-app", 13),)),
        ("deploy-param-7", (UpstreamBuild("caller", 1),)),
        ("caller-1", ()),
        ("pipe-timeout-1", ()),
    ],
    ids=["trigger", "build step", "by a user", "interrupted"],
)
def test_the_upstream_build_of_a_recorded_build(name: str, upstream: tuple[UpstreamBuild, ...]) -> None:
    assert recorded(name).upstream == upstream


CAUSE = {"_class": "hudson.model.Cause$UpstreamCause", "upstreamProject": "team/app", "upstreamBuild": 3}


@pytest.mark.parametrize(
    "action",
    [
        {"_class": "jenkins.model.InterruptedBuildAction", "causes": [CAUSE]},
        {"_class": "hudson.model.CauseAction", "causes": [CAUSE | {"upstreamBuild": "3"}]},
        {"_class": "hudson.model.CauseAction", "causes": [CAUSE | {"upstreamProject": ""}]},
        {"_class": "hudson.model.CauseAction", "causes": [CAUSE | {"_class": "hudson.model.Cause$UserIdCause"}]},
        {"_class": "hudson.model.CauseAction", "causes": CAUSE},
    ],
)
def test_other_causes_name_no_upstream_build(action: object) -> None:
    assert build(action).upstream == ()


def test_an_upstream_build_counts_once() -> None:
    action = {"_class": "hudson.model.CauseAction", "causes": [CAUSE, CAUSE]}
    assert build(action, action).upstream == (UpstreamBuild("team/app", 3),)


def test_the_messages_of_a_recorded_build_come_newest_first() -> None:
    messages = recorded("shop-mb-main-2").messages
    assert len(messages) == 8
    assert (messages[0], messages[-1]) == ("SHOP-12 main moves", "SHOP-4 breaks the build")
    assert recorded("matrix-app-4").messages == ("SHOP-12 main moves",)
    assert recorded("free-app-12").messages == ()


def test_freestyle_and_pipeline_builds_name_their_changes_differently() -> None:
    change_set = {"items": [{"comment": "old\n"}, {"comment": "new\n\nwith a body\n"}]}
    assert build(changeSet=change_set).messages == ("new\n\nwith a body", "old")
    other = {"items": [{"comment": "of the library"}]}
    assert build(changeSets=[change_set, other]).messages == ("new\n\nwith a body", "old", "of the library")


def test_messages_are_bounded_and_the_newest_are_kept() -> None:
    items = [{"comment": f"number {number}"} for number in range(CHANGES + 50)]
    messages = build(changeSet={"items": items}).messages
    assert len(messages) == CHANGES
    assert messages[0] == f"number {CHANGES + 49}"


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    text = f"Merge branch 'x'\n\n{'long ' * 500}\nSee merge request acme/shop!71"
    (message,) = build(changeSet={"items": [{"comment": text}]}).messages
    assert len(message) == MESSAGE_LENGTH == 500
    assert message.startswith("Merge branch 'x'\n")
    assert message.endswith("\nSee merge request acme/shop!71")


def test_no_credentials_of_a_message_or_of_the_pull_requests_page_are_kept() -> None:
    raw = raw_build(changeSet={"items": [{"comment": "clone https://bot:s3cr3t@h/x"}]})
    kept = build_of(
        raw, controller="main", job="shop", branch_job=True, pull_request_url="https://bot:s3cr3t@h/acme/shop/pull/7"
    )
    assert kept.messages == ("clone https://h/x",)
    assert kept.pull_request_url == "https://h/acme/shop/pull/7"


@pytest.mark.parametrize("odd", [None, 7, "x", [], [7, None], {"items": 7}, {"items": [7, None, {"comment": 7}]}])
def test_odd_change_sets_are_passed_over(odd: object) -> None:
    assert build(changeSet=odd, changeSets=[odd]).messages == ()
    assert build(changeSets=odd).messages == ()


def test_a_build_kept_before_there_were_stages_still_reads() -> None:
    kept = b'{"controller":"main","job":"shop","number":7,"started_at":1,"ended_at":2,"checkouts":[]}'
    read = msgspec.json.decode(kept, type=Build)
    assert (read.stages, read.inherited, read.upstream, read.messages) == (None, None, (), ())


def test_the_messages_of_a_build_that_an_older_version_kept_still_read() -> None:
    kept = b'{"started_at":1,"ended_at":2,"change_messages":["Mend it (#71)"]}'
    assert msgspec.json.decode(kept, type=Build).messages == ("Mend it (#71)",)


# ---- what Jenkins knows for certain


def of_2_504_3(name: str, number: int, *, branch_job: bool = False) -> Build:
    job = json.loads((OTHER / f"{name}.json").read_text(encoding="utf-8"))
    (answer,) = (answer for answer in job["builds"] if answer["number"] == number)
    raw = msgspec.convert(answer, RawBuild)
    return build_of(raw, controller="main", job=job["fullName"], branch_job=branch_job)


def test_the_libraries_of_a_pipeline_are_kept_and_that_it_has_none() -> None:
    assert of_2_504_3("checkouts/lib-dynamic-two", 1).libraries == ("shared@main", "tools@main")
    assert of_2_504_3("checkouts/scm-light", 1).libraries == ()
    assert of_2_504_3("checkouts/freestyle-main", 1).libraries is None
    assert of_2_504_3("checkouts/scm-light-does-not-compile", 1).libraries is None


def test_what_a_branch_job_was_started_for_is_kept_also_when_it_could_not_be_compiled() -> None:
    broken = of_2_504_3("checkouts/branchjob-broken", 1, branch_job=True)
    assert broken.revision == Revision("broken", "d48fa7c21255151cfe9020fe9a4aba404db5e08e")
    replayed = of_2_504_3("checkouts/branchjob-feature", 3, branch_job=True)  # has it twice
    assert replayed.revision == Revision("feature", "d6ce6efb581a7d59e3307bd1c27d42f7df32e34c")


SCM_REVISION = {"_class": "jenkins.scm.api.SCMRevisionAction"}


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ({"hash": "a", "head": {"name": "main"}}, Revision("main", "a")),  # git, Bitbucket: a branch
        ({"pullHash": "b", "head": {"name": "PR-7", "target": {"name": "main"}}}, Revision("PR-7", "b", "main")),
        (
            {"origin": {"hash": "c"}, "head": {"name": "MR-7", "target": {"name": "main"}}},
            Revision("MR-7", "c", "main"),
        ),
        ({"head": {"name": "PR-7", "target": {"name": "main"}}}, Revision("PR-7", None, "main")),  # Bitbucket
        ({}, Revision()),
        ("odd", None),
        (None, None),
    ],
    ids=["branch", "GitHub", "GitLab and Gitea", "Bitbucket", "nothing", "odd", "null"],
)
def test_the_revision_of_each_branch_source(told: object, kept: Revision | None) -> None:
    assert build({**SCM_REVISION, "revision": told}).revision == kept


def test_of_several_revisions_the_jobs_own_counts() -> None:
    actions = [{**SCM_REVISION, "revision": {"hash": name, "head": {"name": name}}} for name in ("lib", "shop")]
    assert build(*actions).revision == Revision("shop", "shop")


def test_a_null_name_of_a_branch_keeps_its_place_and_drops_nothing() -> None:
    revision = {"SHA1": SHA, "branch": [{"name": None}, {"name": "origin/main"}, None]}
    kept = build({"remoteUrls": ["https://h/x"], "lastBuiltRevision": revision}).checkouts
    assert kept == (Checkout(("https://h/x",), ("", "origin/main", ""), SHA),)


def test_change_sets_know_their_newest_commit_and_when_the_oldest_was_made() -> None:
    items = [
        {"commitId": "a", "timestamp": 5_000, "comment": "old"},
        {"commitId": "b", "timestamp": 4_000, "comment": "new"},
        {"commitId": "c", "timestamp": -1},
    ]
    assert build(changeSets=[{"kind": "git", "items": items}]).change_sets == (ChangeSet("c", ("new", "old"), 4_000),)
    assert build(changeSets=[{"kind": "hg", "items": items}]).change_sets == (ChangeSet("a", ("old", "new"), 4_000),)


# ---- other systems, by the fields that their plugins export


@pytest.mark.parametrize(
    ("module", "url", "branch"),
    [
        ("https://svn.example.test/repos/shop/trunk", "https://svn.example.test/repos/shop", "trunk"),
        ("https://svn.example.test/repos/shop/branches/1.4/web", "https://svn.example.test/repos/shop", "1.4"),
        ("https://u:s3cr3t@svn.example.test/repos/shop/tags/v1/", "https://svn.example.test/repos/shop", "v1"),
        ("https://svn.example.test/repos/shop", "https://svn.example.test/repos/shop", ""),
    ],
)
def test_subversion_tells_what_was_checked_out_in_its_change_log(module: str, url: str, branch: str) -> None:
    kept = build(changeSet={"kind": "svn", "revisions": [{"module": module, "revision": 4711}], "items": []})
    assert kept.checkouts == (Checkout((url,), (branch,), "4711", "svn"),)


def test_mercurial_tells_branch_and_commit_and_no_repository() -> None:
    kept = build({"mercurialNodeName": SHA, "mercurialRevisionNumber": "7", "mercurialRevisionBranch": "default"})
    assert kept.checkouts == (Checkout((), ("default",), SHA, "hg"),)


def test_the_gitlab_plugin_tells_the_merge_request_in_its_cause() -> None:
    data = {"mergeRequestIid": 12, "sourceBranch": "fix", "targetBranch": "main"}
    cause = {"_class": "com.dabsquared.gitlabjenkins.cause.GitLabWebHookCause", "data": data}
    causes = {"_class": "hudson.model.CauseAction", "causes": [cause]}
    assert build(causes).parameters == {"gitlabMergeRequestIid": "12", "gitlabSourceBranch": "fix"}
    own = {"parameters": [{"name": "gitlabSourceBranch", "value": "own"}]}
    assert build(causes, own).parameters["gitlabSourceBranch"] == "own"


# ---- repetitions, and parameters that are no text


@pytest.mark.parametrize(
    ("name", "number", "repeats"),
    [
        ("causes/replay", 2, 1),
        ("causes/restart-from-stage", 2, 1),
        ("causes/deploy-rebuilt", 2, 1),
        ("causes/deploy-app", 2, 1),
        ("causes/deploy-app", 1, None),
        ("checkouts/branchjob-feature", 3, 1),
    ],
)
def test_the_build_that_a_recorded_one_repeats(name: str, number: int, repeats: int | None) -> None:
    kept = of_2_504_3(name, number)
    assert kept.repeats == (UpstreamBuild(kept.job, repeats) if repeats else None)
    assert kept.repeats not in kept.upstream


REPLAY = "org.jenkinsci.plugins.workflow.cps.replay.ReplayCause"
RESTART = "org.jenkinsci.plugins.pipeline.modeldefinition.causes.RestartDeclarativePipelineCause"


@pytest.mark.parametrize(
    ("cls", "words", "number"),
    [
        (REPLAY, "Replayed #7", 7),
        (REPLAY, "Rebuilt #7", 7),
        (REPLAY, "Replayed #1,234", 1234),
        (REPLAY, "Replayed #1\u202f234", 1234),
        (REPLAY, "Replayed #1.234.567", 1234567),
        (REPLAY, "\u57fa\u4e8e#12 \u56de\u653e", 12),
        (RESTART, "Restarted from build #7, stage 2024", 7),
        (RESTART, "Restarted from build #1,234, stage Deploy #2", 1234),
        (REPLAY, "Replayed", None),
        (REPLAY, None, None),
        (REPLAY, "Replayed #99999999999999999999", None),
        ("hudson.model.Cause$UserIdCause", "Started by user #7", None),
    ],
)
def test_the_number_of_a_repeated_build_is_read_out_of_words(cls: str, words: str | None, number: int | None) -> None:
    causes = [{"_class": cls, "shortDescription": words}]
    kept = build({"_class": "hudson.model.CauseAction", "causes": causes})
    assert kept.repeats == (UpstreamBuild("shop", number) if number else None)


def test_parameters_without_a_value_say_what_they_are_and_a_run_parameter_which_build_it_names() -> None:
    kept = of_2_504_3("causes/params-all-freestyle", 1)
    assert kept.parameter_kinds == {
        "SECRET": "password", "CREDENTIALS": "credentials", "ARTIFACT_OF": "run", "bundle.zip": "file"
    }  # fmt: skip
    assert kept.masked_parameters == tuple(kept.parameter_kinds)
    assert kept.named_builds == {"ARTIFACT_OF": UpstreamBuild("samples/build-app", 1)}
    assert kept.parameters["DRY_RUN"] == "true"


def test_builds_that_were_folded_in_the_queue_name_all_that_started_them() -> None:
    kept = of_2_504_3("causes/deploy-folded", 1)
    assert kept.upstream == (UpstreamBuild("samples/package-b", 1), UpstreamBuild("samples/package-a", 1))


# ---- more than is kept


@pytest.mark.parametrize("file", sorted((RECORDED / "builds").rglob("*.json")), ids=lambda file: file.stem)
def test_a_recorded_build_is_the_same_when_it_is_shortened(file: Path) -> None:
    def read() -> RawBuild:
        return msgspec.json.decode(file.read_bytes(), type=RawBuild)

    def kept(raw: RawBuild) -> Build:
        return build_of(raw, controller="main", job="shop", branch_job=False)

    assert kept(shorten(read())) == kept(read())


def parameters(*values: tuple[str, str]) -> dict[str, Any]:
    return {"parameters": [{"name": name, "value": value} for name, value in values]}


def test_a_long_parameter_is_cut_and_never_within_credentials() -> None:
    """Half a URL would keep its password, which is told by the @ behind it."""
    long = "x" * (LONGEST_TEXT - 20) + " https://someone:hunter2@git.example.test/shop"
    for raw in (
        raw_build(actions=[parameters(("TEXT", long))]),
        shorten(raw_build(actions=[parameters(("TEXT", long))])),
    ):
        text = build_of(raw, controller="main", job="shop", branch_job=False).parameters["TEXT"]
        assert len(text) == LONGEST_TEXT
        assert "hunter" not in text


def test_parameters_for_which_there_is_no_room_say_so_where_they_are_used() -> None:
    found = build(parameters(*((f"P{number}", "x" * 1_999) for number in range(40)), ("ENVIRONMENT", "production")))
    assert sum(len(text) for text in found.parameters.values()) <= PARAMETERS_TEXT
    assert found.parameters["ENVIRONMENT"] == "production"
    fields = {f"params.{name}": value for name, value in found.parameters.items()}
    with pytest.raises(
        MaskedParameterError,
        match=r"\{params.P39\} was not stored: the parameters of the build are longer than 64000 characters",
    ):
        Template.parse("{params.P39}").render(fields, found.masked_parameters, found.parameter_kinds)


@given(
    st.lists(st.integers(0, 2**40), min_size=1, max_size=1024),
    st.sampled_from(["git", "svn", "hg"]),
    st.booleans(),
)
def test_what_is_new_in_a_build_is_the_same_when_it_is_shortened(
    times: list[int], kind: str | None, many: bool
) -> None:
    items = [{"commitId": f"c{place}", "timestamp": time, "comment": f"{place} " + "x" * (900 * many)}
             for place, time in enumerate(times)]  # fmt: skip
    fields = {"changeSets": [{"kind": kind, "items": items, "revisions": [{"module": "svn://h/trunk", "revision": 7}]}]}
    one, other = raw_build(**fields), shorten(raw_build(**fields))
    whole, short = (build_of(raw, controller="main", job="shop", branch_job=False) for raw in (one, other))
    assert short == whole


def test_a_build_is_bounded_whatever_there_is_in_it() -> None:
    """What is stored of it, and what waits in memory."""
    git = {"remoteUrls": ["https://git.example.test/" + "x" * 500] * 20, "lastBuiltRevision": {"SHA1": "a" * 40}}
    found = build(*[git] * 500, *[parameters((f"P{n}", "v" * 900)) for n in range(3_000)], changeSets=[
        {"items": [{"comment": "m" * 5_000}] * 1024}] * 50)  # fmt: skip
    assert len(msgspec.json.encode(found)) < 500_000
    raw = shorten(raw_build(actions=[{}] * 10_000 + [{"parameters": [{"name": "n"}] * 10_000}] * 10))
    assert 1 <= len(raw.actions) <= 10
    assert sum(len(action.parameters) for action in raw.actions if action is not None) < 5_000
