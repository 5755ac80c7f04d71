"""The `tree` parameter, against recorded answers of a Jenkins 2.516.2."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sandbox.jenkins.tree import MAX_DEPTH, Exported, ExportError, TreeError, parse

RECORDED = Path(__file__).parents[1] / "data" / "recorded-jenkins"
BUILD_FIELDS = "number,url,result,building,inProgress,timestamp,duration,displayName"
CAUSES = "_class,shortDescription,userId,userName,upstreamProject,upstreamBuild"


def recorded(name: str) -> Any:
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))


def builds_of(job: str, *numbers: int) -> list[Any]:
    return [recorded(f"builds/{job}-{number}.json") for number in numbers]


def test_fields_of_nested_objects_are_cut_as_recorded_for_a_pipeline() -> None:
    tree = parse(
        f"allBuilds[{BUILD_FIELDS},actions[_class,parameters[name,value],causes[{CAUSES}],remoteUrls,"
        "lastBuiltRevision[SHA1,branch[name]]],changeSets[items[commitId,timestamp,authorEmail,msg]],"
        "previousBuild[number],nextBuild[number]]{0,3}"
    )
    job = {**recorded("jobs/pipe-deploy.json"), "allBuilds": builds_of("pipe-deploy", 11, 10, 9, 8, 7, 6)}
    assert tree.apply(job) == recorded("tree/pipe-deploy-full.json")


def test_fields_of_nested_objects_are_cut_as_recorded_for_a_freestyle_job() -> None:
    tree = parse(
        f"allBuilds[{BUILD_FIELDS},actions[_class,parameters[name,value],causes[_class,shortDescription],"
        "remoteUrls,lastBuiltRevision[SHA1,branch[name]]],changeSet[items[commitId,timestamp,authorEmail,"
        "author[fullName],msg]],changeSets[items[commitId]]]{0,6}"
    )
    job = {**recorded("jobs/free-app.json"), "allBuilds": builds_of("free-app", 14, 13, 12, 11, 10, 9)}
    assert tree.apply(job) == recorded("tree/free-app-full.json")


def test_parameters_and_causes_are_cut_as_recorded() -> None:
    tree = parse(
        "allBuilds[number,url,id,queueId,result,building,inProgress,timestamp,duration,estimatedDuration,"
        f"displayName,fullDisplayName,actions[_class,parameters[name,value],causes[{CAUSES}],remoteUrls,scmName,"
        "lastBuiltRevision[SHA1,branch[name,SHA1]]],changeSet[items[commitId]],changeSets[items[commitId]]]{0,2}"
    )
    job = {**recorded("jobs/many-builds.json"), "allBuilds": builds_of("many-builds", 170, 169)}
    expected = recorded("tree/many-allBuilds-full-0-3.json")
    assert tree.apply(job) == {**expected, "allBuilds": expected["allBuilds"][:2]}


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        ("builds[number]", "many-builds"),
        ("builds[number]{0,5}", "many-builds-0-5"),
        ("builds[number]{,5}", "many-builds-0-5"),
        ("builds[number]{5}", "many-builds-index5"),
        ("builds[number]{95,200}", "many-builds-95-200"),
        ("builds[number]{100,120}", "many-builds-100-120"),
        ("builds[number]{0,200}", "many-builds-0-200"),
        ("nosuch", "many-unknown-field"),
        ("nosuch,alike[number]{0,5}", "many-unknown-field"),
    ],
)
def test_ranges_of_the_newest_builds_are_as_recorded(tree: str, name: str) -> None:
    assert parse(tree).apply(recorded("jobs/many-builds.json")) == recorded(f"tree/{name}.json")


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        ("allBuilds[number]", "many-allBuilds"),
        ("allBuilds[number]{100,120}", "many-allBuilds-100-120"),
        ("allBuilds[number]{120,}", "many-allBuilds-120-open"),
    ],
)
def test_ranges_of_all_builds_are_as_recorded(tree: str, name: str) -> None:
    assert parse(tree).apply(recorded("tree/many-allBuilds.json")) == recorded(f"tree/{name}.json")


@pytest.mark.parametrize("tree", ["builds[number]{,}", "builds[number]{10,5}", "builds[number"])
def test_what_a_jenkins_answered_with_500_is_an_error(tree: str) -> None:
    with pytest.raises(TreeError):
        parse(tree)


@pytest.mark.parametrize(
    "tree",
    [
        "", ",", "a,", ",a", "a[]", "a[b,]", "a]", "a{}", "a{x}", "a{1,2", "a{-1,2}", "a{1;2}", "a{1,2}{3,4}",
        "[a]", "{1}", "a[b]c", "a{1}[b]", "a{99999999999}", "a{2147483648}", "a{١}", "a[" * (MAX_DEPTH + 2),
    ],
)  # fmt: skip
def test_other_broken_expressions_are_errors_too(tree: str) -> None:
    with pytest.raises(TreeError):
        parse(tree)


def test_an_object_without_brackets_shows_its_class_only() -> None:
    job = recorded("jobs/deploy-free.json")
    assert parse("lastBuild,scm").apply(job) == {
        "_class": "hudson.model.FreeStyleProject",
        "lastBuild": {"_class": "hudson.model.FreeStyleBuild"},
        "scm": {"_class": "hudson.plugins.git.GitSCM"},
    }


def test_a_star_asks_for_everything_that_is_not_named() -> None:
    value = {"a": 1, "b": {"c": 2, "d": 3}, "e": {"c": 4, "d": 5}}
    assert parse("*[c],e[d]").apply(value) == {"a": 1, "b": {"c": 2}, "e": {"d": 5}}


def test_a_name_given_twice_counts_as_given_last() -> None:
    assert parse("a[b],a[c]").apply({"a": {"b": 1, "c": 2}}) == {"a": {"c": 2}}


def test_null_stays_null_and_brackets_after_a_plain_value_do_nothing() -> None:
    assert parse("a[b],c[d],e").apply({"a": None, "c": 7, "e": [1, "x"]}) == {"a": None, "c": 7, "e": [1, "x"]}


def test_what_it_is_applied_to_stays_as_it_is() -> None:
    job = recorded("jobs/pipe-deploy.json")
    parse("builds[number]{0,2},actions").apply(job)
    assert job == recorded("jobs/pipe-deploy.json")


@given(st.text(alphabet=st.characters() | st.sampled_from("ab,[]{}0123456789*"), max_size=60))
def test_any_text_is_either_an_expression_or_a_tree_error(text: str) -> None:
    try:
        tree = parse(text)
    except TreeError:
        return
    assert isinstance(tree.apply({"a": [{"b": 1}], "b": 2}), dict)


@given(st.lists(st.integers(), max_size=30), st.integers(0, 40), st.integers(0, 40))
def test_a_range_is_a_slice(values: list[int], one: int, other: int) -> None:
    start, stop = sorted((one, other))
    cut = {
        f"{{{start},{stop}}}": values[start:stop],
        f"{{,{stop}}}": values[:stop],
        f"{{{start},}}": values[start:],
        f"{{{start}}}": values[start : start + 1],
    }
    assert {text: parse(f"a{text}").apply({"a": values})["a"] for text in cut} == cut


names = st.text(alphabet="abcdef", min_size=1, max_size=3)
trees: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(names, st.just({}), min_size=1, max_size=3),
    lambda inner: st.dictionaries(names, st.just({}) | inner, min_size=1, max_size=3),
    max_leaves=8,
)


def spelled(tree: dict[str, Any]) -> str:
    return ",".join(name + (f"[{spelled(below)}]" if below else "") for name, below in tree.items())


@given(trees, trees)
def test_what_is_left_is_what_both_have(asked: dict[str, Any], there: dict[str, Any]) -> None:
    def common(asked: dict[str, Any], there: dict[str, Any]) -> dict[str, Any]:
        return {name: common(below, there[name]) for name, below in asked.items() if name in there}

    assert parse(spelled(asked)).apply(there) == common(asked, there)


class Unreadable(Exported):
    json_class = "Unreadable"

    def names(self) -> list[str]:
        return ["number"]

    def value(self, name: str) -> Any:
        raise ExportError(name)


def test_what_cannot_be_exported_is_left_out_of_lists_and_counted_by_ranges() -> None:
    builds = {"builds": [Unreadable(), {"number": 2}, {"number": 1}]}
    assert parse("builds[number]{0,2}").apply(builds) == {"builds": [{"number": 2}]}
    with pytest.raises(ExportError):
        parse("build[number]").apply({"build": Unreadable()})
