"""The local Jenkins through a real socket, against recorded answers of a Jenkins 2.516.2."""

import json
import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import jenkins as python_jenkins
import pytest
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from agent.sandbox.jenkins import LocalJenkins, Phase
from agent.sandbox.server import LocalServer, reset_connection

RECORDED = Path(__file__).parents[1] / "data" / "recorded-jenkins"
INDEX = re.findall(r"^\| (\S+) \| `(\S+)` \| (\d+) \|", (RECORDED / "INDEX.md").read_text(encoding="utf-8"), re.M)
URLS = {name: url for name, url, _ in INDEX}
ADMIN = ("admin", "secret")
RUNNING = "computer[executors[currentExecutable[url]],oneOffExecutors[currentExecutable[url]]]"
NOW = 1_800_000_000_000


def recorded(name: str) -> Any:
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))


def names(folder: str, pattern: str = "*.json") -> list[str]:
    return sorted(f"{folder}/{file.name}" for file in (RECORDED / folder).glob(pattern))


class Clock:
    def __init__(self) -> None:
        self.ms = NOW

    def __call__(self) -> int:
        return self.ms


@pytest.fixture(scope="module")
def recorded_jenkins() -> LocalJenkins:
    return LocalJenkins.from_folder(RECORDED, username="admin", token="secret")


@pytest.fixture(scope="module")
def recorded_client(recorded_jenkins: LocalJenkins) -> Iterator[httpx.Client]:
    with LocalServer(recorded_jenkins.app) as server, httpx.Client(base_url=server.url, auth=ADMIN) as client:
        yield client


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jenkins(clock: Clock) -> LocalJenkins:
    return LocalJenkins(username="admin", token="secret", now_ms=clock)


@pytest.fixture
def client(jenkins: LocalJenkins) -> Iterator[httpx.Client]:
    with LocalServer(jenkins.app) as server, httpx.Client(base_url=server.url, auth=ADMIN) as client:
        yield client


def get(client: httpx.Client, url: str, **params: str) -> Any:
    response = client.get(url, params=params) if params else client.get(url)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json;charset=UTF-8"
    return response.json()


def status(client: httpx.Client, url: str) -> int:
    return client.get(url).status_code


def running(client: httpx.Client) -> list[str]:
    (node,) = get(client, "/computer/api/json", tree=RUNNING)["computer"]
    executors = [*node["executors"], *node["oneOffExecutors"]]
    return [executor["currentExecutable"]["url"] for executor in executors if executor["currentExecutable"]]


# -- recorded answers --------------------------------------------------------------------------------------------


def kept_numbers(job: str) -> set[int]:
    return {int(match[1]) for name in names("builds") if (match := re.fullmatch(rf"builds/{job}-(\d+)\.json", name))}


def without_the_unrecorded(job: dict[str, Any], kept: set[int]) -> dict[str, Any]:
    """A recorded job as it is when it has only the builds that were recorded in full."""
    references = {name for name in job if name == "firstBuild" or re.fullmatch(r"last\w*Build", name)}
    known = {
        name: value for name, value in job.items() if name not in references or value is None or value["number"] in kept
    }
    if "builds" in job:
        known["builds"] = [build for build in job["builds"] if build["number"] in kept]
    return known


@pytest.mark.parametrize("name", names("jobs"))
def test_a_job_is_answered_as_recorded(recorded_client: httpx.Client, name: str) -> None:
    job, answer = recorded(name), get(recorded_client, URLS[name])
    kept = kept_numbers(re.escape(Path(name).stem)) | ({168} if name == "jobs/many-builds.json" else set())
    expected = without_the_unrecorded(job, kept)
    assert answer.keys() == job.keys()
    assert {name: answer[name] for name in expected} == expected


@pytest.mark.parametrize("name", names("builds"))
def test_a_build_is_answered_as_recorded(recorded_client: httpx.Client, name: str) -> None:
    expected, answer = recorded(name), get(recorded_client, URLS[name])
    job = re.escape(name.removeprefix("builds/").rpartition("-")[0])
    if (expected.get("previousBuild") or {}).get("number", 0) not in {0, *kept_numbers(job)}:
        expected["previousBuild"] = None  # recorded by number only, so it is not there
    assert answer == expected


@pytest.mark.parametrize("name", [*names("wfapi", "*-describe.json"), *names("pipeline-overview", "*-tree.json")])
def test_stages_are_answered_as_recorded(recorded_client: httpx.Client, name: str) -> None:
    assert get(recorded_client, URLS[name]) == recorded(name)


def test_stages_of_a_build_without_any_are_not_found(recorded_client: httpx.Client) -> None:
    for page in ("wfapi/describe", "pipeline-overview/tree", "pipeline-graph/tree"):
        assert status(recorded_client, f"/job/free-app/14/{page}") == 404


@pytest.mark.parametrize(
    "name",
    ["tree/pipe-deploy-full.json", "tree/free-app-full.json", "tree/many-allBuilds-full-0-3.json",
     "tree/many-unknown-field.json", "root.json", "root-tree-nested.json", "whoami.json", "crumb.json"],
)  # fmt: skip
def test_other_answers_are_as_recorded(recorded_client: httpx.Client, name: str) -> None:
    assert get(recorded_client, URLS[name]) == recorded(name)


def test_the_builds_of_all_jobs_in_one_request_are_as_recorded(recorded_client: httpx.Client) -> None:
    def known(answer: dict[str, Any], kept: dict[str, set[int]]) -> dict[str, Any]:
        for job in answer["jobs"]:
            if "builds" in job:
                numbers = kept.get(job["fullName"], set())
                job["builds"] = [build for build in job["builds"] if build["number"] in numbers]
            if "jobs" in job:
                known(job, kept)
        return answer

    name = "root-tree-builds.json"
    answer = get(recorded_client, URLS[name])
    kept = {job["fullName"]: {build["number"] for build in job.get("builds", ())} for job in jobs_below(answer)}
    assert sum(map(len, kept.values())) > 80
    # Dropping the builds that are not known leaves gaps that older ones would fill, so compare what both show.
    recorded_builds = {
        job["fullName"]: {build["number"] for build in job.get("builds", ())} for job in jobs_below(recorded(name))
    }
    assert known(answer, recorded_builds) == known(recorded(name), kept)


def jobs_below(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for job in answer.get("jobs", ()):
        if "fullName" in job:
            yield job
            yield from jobs_below(job)


@pytest.mark.parametrize("name", [name for name in names("tree", "many-*ilds*.json") if "full" not in name])
def test_the_numbers_of_170_builds_are_listed_as_recorded(
    jenkins: LocalJenkins, client: httpx.Client, name: str
) -> None:
    jenkins.add_job("many-builds", "freestyle")
    jenkins.add_builds("many-builds", 170)
    assert get(client, URLS[name]) == recorded(name)


def test_the_running_builds_are_in_the_executors(recorded_client: httpx.Client) -> None:
    (node,) = get(recorded_client, "/computer/api/json", tree=RUNNING)["computer"]
    free = {"_class": "hudson.model.FreeStyleBuild", "url": "http://127.0.0.1:8080/job/long-free/4/"}
    idle = {"currentExecutable": None}
    assert node["executors"] == [{"currentExecutable": free}, idle, idle, idle]
    one_off = [executor["currentExecutable"] for executor in node["oneOffExecutors"]]
    assert sorted(build["url"].split("/")[-3] for build in one_off) == ["long-pipe", "pipe-input", "pipe-waiting"]
    assert {build["_class"] for build in one_off} == {"org.jenkinsci.plugins.workflow.job.WorkflowRun"}


def test_without_tree_the_executors_are_as_recorded(recorded_client: httpx.Client) -> None:
    answer, expected = get(recorded_client, "/computer/api/json"), recorded("computer.json")
    (node,), (expected_node,) = answer["computer"], expected["computer"]
    assert node == {**expected_node, "monitorData": {}}
    assert answer.keys() == expected.keys()


def test_the_small_set_in_the_package_is_complete_in_itself() -> None:
    jenkins = LocalJenkins.recorded(username="admin", token="secret")
    with LocalServer(jenkins.app) as server, httpx.Client(base_url=server.url, auth=ADMIN) as client:
        tree = "jobs[fullName,jobs[fullName,jobs[fullName,jobs[fullName]]]]"
        jobs = [job["fullName"] for job in jobs_below(get(client, "/api/json", tree=tree))]
        builds = jenkins.all_builds()
        assert all(
            get(client, f"{build['url'].removeprefix('http://127.0.0.1:8080')}api/json") == build for _, build in builds
        )
    assert {"deploy-param", "shop-mb/feature%2Fx", "team-a/My Folder With Space/jöb + 1", "matrix-app"} <= {*jobs}
    assert {name for name, _ in builds} - {*jobs} == {
        f"matrix-app/JDK={jdk},OS={system}" for jdk in (17, 21) for system in ("linux", "mac")
    }
    assert not any(build["building"] for _, build in builds)


# -- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["anonymous", "anonymous-job", "anonymous-nosuchjob", "bad-token", "unknown-user", "bearer", "notfound-job",
     "notfound-build", "never-built-lastBuild", "renamed-job", "get-build", "no-trailing-slash",
     "branch-single-encoded", "branch-raw", "login-page"],
)  # fmt: skip
def test_an_error_has_the_recorded_status_and_type(recorded_client: httpx.Client, name: str) -> None:
    auth: Any = {"bad-token": ("admin", "wrong"), "unknown-user": ("nobody", "secret")}.get(name, ADMIN)
    headers = {"Authorization": "Bearer secret"} if name == "bearer" else {}
    if name.startswith("anonymous") or name in {"bearer", "login-page"}:
        auth = None
    with httpx.Client(base_url=recorded_client.base_url, auth=auth, headers=headers) as client:
        answer = client.get(URLS[f"errors/{name}.txt"])
    first, *lines = (RECORDED / "errors" / f"{name}.txt.headers").read_text(encoding="utf-8").splitlines()
    expected = dict(line.split(": ", 1) for line in lines)
    assert f"HTTP {answer.status_code}" == first
    for header in ("Content-Type", "WWW-Authenticate", "Location", "X-Jenkins", "X-Jenkins-Session", "Allow"):
        assert answer.headers.get(header) == expected.get(header), header


@pytest.mark.parametrize("name", ["many-bad-open", "many-bad-reversed", "many-bad-unclosed"])
def test_a_broken_tree_is_an_internal_error(recorded_client: httpx.Client, name: str) -> None:
    answer = recorded_client.get(URLS[f"tree/{name}.txt"])
    assert (answer.status_code, answer.headers["content-type"]) == (500, "text/html;charset=UTF-8")


@pytest.mark.parametrize(
    "url", ["/", "/job/free-app/", "/job/free-app/14/", "/job/shop-mb/", "/job/free-app/lastBuild/"]
)
def test_pages_for_people_are_html(recorded_client: httpx.Client, url: str) -> None:
    answer = recorded_client.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html;charset=UTF-8")


@pytest.mark.parametrize(
    "url",
    ["/nosuch", "/job", "/job/", "/14/", "/lastBuild/", "/api/xml", "/queue/api/json", "/job/free-app/99999999999/"],
)
def test_what_is_not_there_is_not_found(recorded_client: httpx.Client, url: str) -> None:
    assert status(recorded_client, url) == 404


def test_nothing_can_be_posted(recorded_client: httpx.Client) -> None:
    assert recorded_client.post("/job/free-app/build").status_code == 405


def test_credentials_that_are_no_base64_are_wrong(recorded_client: httpx.Client) -> None:
    with httpx.Client(base_url=recorded_client.base_url, headers={"Authorization": b"Basic \xe4"}) as client:
        assert status(client, "/api/json") == 401


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["j%C3%B6b%20+%201", "j%C3%B6b%20%2B%201"])
def test_a_plus_may_be_encoded_or_not(recorded_client: httpx.Client, name: str) -> None:
    answer = get(recorded_client, f"/job/team-a/job/My%20Folder%20With%20Space/job/{name}/api/json")
    assert answer["fullName"] == "team-a/My Folder With Space/jöb + 1"


@pytest.mark.parametrize("name", [name for name in names("jobs") if "shop-mb" in name])
def test_a_branch_added_by_name_has_the_recorded_urls(jenkins: LocalJenkins, client: httpx.Client, name: str) -> None:
    expected = recorded(name)
    project = "team-a/shop-mb2" if expected["fullName"].startswith("team-a") else "shop-mb"
    jenkins.add_folder(project, "multibranch")
    if expected["fullName"] != project:
        jenkins.add_job(expected["fullName"])
    answer = get(client, URLS[name])
    shown = ("_class", "url", "name", "fullName", "displayName", "displayNameOrNull", "fullDisplayName")
    assert {key: answer[key] for key in shown} == {key: expected[key] for key in shown}
    assert answer.keys() == expected.keys()


@pytest.mark.parametrize(
    ("kind", "name"), [("freestyle", "free-app"), ("pipeline", "pipe-deploy"), ("matrix", "matrix-app")]
)
def test_what_a_story_makes_has_the_properties_of_recorded_jobs_and_builds(
    jenkins: LocalJenkins, client: httpx.Client, kind: str, name: str
) -> None:
    jenkins.add_job(name, kind)
    number = jenkins.start_build(name, repo="https://github.example.test/acme/shop.git")
    jenkins.finish_build(name, number)
    (build,) = names("builds", f"{name}-*[0-9].json")[:1]
    for url, expected in (
        (f"/job/{name}/api/json", f"jobs/{name}.json"),
        (f"/job/{name}/1/api/json", build),
    ):
        answer, known = get(client, url), recorded(expected)
        assert answer.keys() == known.keys()
        assert answer["_class"] == known["_class"]


# -- what a story shows has the shape of what was recorded -------------------------------------------------------

TRACES = {"freestyle": ["trace-freestyle"], "pipeline": ["trace-pipeline", "trace-pipeline-early-unstable"],
          "matrix": ["trace-matrix"]}  # fmt: skip
RUNS = {
    "freestyle": "hudson.model.FreeStyleBuild",
    "pipeline": "org.jenkinsci.plugins.workflow.job.WorkflowRun",
    "matrix": "hudson.matrix.MatrixBuild",
}
KINDS = list(RUNS)


def shapes(value: Any) -> set[Any]:
    """The JSON types of a value: of an object its class and keys, of a list those of its elements."""
    if isinstance(value, dict):
        return {("object", value.get("_class"), *sorted(value))}
    if isinstance(value, list):
        return {"list"}.union(*(shapes(element) for element in value))
    return {type(value).__name__}


def shapes_by_key(objects: list[dict[str, Any]]) -> dict[str, set[Any]]:
    """What is known of each key; what refers to some build of a job may be any of them, or none."""
    known: dict[str, set[Any]] = {}
    for one in objects:
        for key, value in one.items():
            known.setdefault(key, set()).update(shapes(value))
    references = [key for key in known if re.fullmatch(r"(first|last)\w*Build", key)]
    known.update(dict.fromkeys(references, {"NoneType"}.union(*(known[key] for key in references))))
    return known


def recorded_builds(kind: str, *, building: bool) -> list[dict[str, Any]]:
    builds = [recorded(name) for name in names("builds")]
    return [build for build in builds if build["_class"] == RUNS[kind] and build["building"] is building]


def moments(kind: str, part: str) -> list[dict[str, Any]]:
    """What the job or the build of a kind looked like at each moment of the recorded traces."""
    answers = [moment[part] for name in TRACES[kind] for moment in recorded(f"{name}.json")]
    return [answer for answer in answers if isinstance(answer, dict)]


def combination(build: dict[str, Any]) -> tuple[bool, ...]:
    return build["building"], build["inProgress"], build["result"] is not None, build["duration"] > 0


def seen_combinations(kind: str) -> set[tuple[bool, ...]]:
    counted = [state["example"] for states in recorded("trace-state-combinations.json").values() for state in states]
    builds = [build for build in counted if build["_class"] == RUNS[kind]]
    return {combination(build) for build in [*builds, *moments(kind, "build")]}


def build_in(jenkins: LocalJenkins, clock: Clock, kind: str, phase: Phase) -> str:
    """A job with three builds, the newest of which is in a phase; the URL of the job."""
    jenkins.add_job("shop", kind)
    jenkins.add_builds("shop", 2, repo="https://github.example.test/acme/shop.git")
    parameters = {"ENVIRONMENT": "production", "DRY_RUN": True}
    number = jenkins.start_build("shop", repo="https://github.example.test/acme/shop.git", parameters=parameters)
    clock.ms += 1_500
    jenkins.set_phase("shop", number, phase, "UNSTABLE")
    return "/job/shop"


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", KINDS)
def test_a_build_has_the_shape_of_recorded_ones_in_every_phase(
    jenkins: LocalJenkins, client: httpx.Client, clock: Clock, kind: str, phase: Phase
) -> None:
    build = get(client, f"{build_in(jenkins, clock, kind, phase)}/3/api/json")
    final, running_ones = recorded_builds(kind, building=False), recorded_builds(kind, building=True)
    assert build.keys() == final[0].keys()
    known = shapes_by_key([*final, *(running_ones if build["inProgress"] or build["building"] else [])])
    # An action is one whatever kind of build it belongs to.
    known["actions"] |= shapes_by_key([recorded(name) for name in names("builds")])["actions"]
    if kind == "matrix":  # of them none ran and none was without changes when they were recorded
        known["changeSet"] |= shapes_by_key(recorded_builds("freestyle", building=False))["changeSet"]
        if phase is not Phase.FINAL:
            like = shapes_by_key(recorded_builds("pipeline", building=True))
            known["result"] |= like["result"]
            known["executor"] |= like["executor"]
    strange = {key: shapes(value) - known[key] for key, value in build.items() if shapes(value) - known[key]}
    assert strange == {}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", KINDS)
def test_every_phase_was_seen_on_a_real_jenkins(
    jenkins: LocalJenkins, client: httpx.Client, clock: Clock, kind: str, phase: Phase
) -> None:
    url = build_in(jenkins, clock, kind, phase)
    for part, where in (("build", f"{url}/3/api/json"), ("job", f"{url}/api/json")):
        known = moments(kind, part)
        tree = ",".join(f"{key}[number]" if re.fullmatch(r"builds|\w+Build", key) else key for key in known[0])
        answer = get(client, where, tree=tree)
        assert answer.keys() == known[0].keys()
        shaped = shapes_by_key(known)
        assert {key: shapes(value) - shaped[key] for key, value in answer.items() if shapes(value) - shaped[key]} == {}
        if part == "build":
            # Matrix builds were traced once; they are hudson.model.AbstractBuild as freestyle builds are.
            seen = seen_combinations(kind) | (seen_combinations("freestyle") if kind == "matrix" else set())
            assert combination(answer) in seen


@pytest.mark.parametrize("kind", ["freestyle", "pipeline"])
def test_there_is_a_phase_for_everything_that_was_seen(jenkins: LocalJenkins, clock: Clock, kind: str) -> None:
    jenkins.add_job("shop", kind)
    shown = set()
    for phase in Phase:
        number = jenkins.start_build("shop")
        clock.ms += 1_500
        jenkins.set_phase("shop", number, phase, "SUCCESS")
        shown.add(combination(jenkins.builds("shop")[-1][1]))
    assert shown == seen_combinations(kind)


def test_a_build_is_listed_before_it_can_be_read_as_recorded(jenkins: LocalJenkins, client: httpx.Client) -> None:
    first = recorded("trace-freestyle.json")[0]
    jenkins.add_job("free-app", "freestyle")
    jenkins.add_builds("free-app", 5)
    jenkins.reveal_build("free-app", jenkins.start_build("free-app"), found=False)
    tree = "builds[number]{0,1},color,inQueue,lastBuild[number],lastCompletedBuild[number],lastSuccessfulBuild[number]"
    assert status(client, "/job/free-app/6/api/json") == first["build"] == 404
    assert get(client, "/job/free-app/api/json", tree=f"{tree},queueItem") == first["job"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("disabled-job", "freestyle"), ("never-built", "freestyle"), ("long-free", "freestyle"),
     ("pipe-deploy", "pipeline"), ("long-pipe", "pipeline"), ("matrix-app", "matrix")],
)  # fmt: skip
def test_a_job_has_the_shape_of_a_recorded_one(
    jenkins: LocalJenkins, client: httpx.Client, name: str, kind: str
) -> None:
    expected = recorded(f"jobs/{name}.json")
    jenkins.add_job(name, kind)
    if expected["builds"]:
        jenkins.add_builds(name, 3)
    if name.startswith("long"):
        jenkins.start_build(name)
    jenkins.disable_job(name, disabled=name == "disabled-job")
    answer = get(client, f"/job/{name}/api/json")
    jobs = [job for job in map(recorded, names("jobs")) if job["_class"] == expected["_class"]]
    known = shapes_by_key(jobs)
    assert answer.keys() == expected.keys()
    assert {key: shapes(value) - known[key] for key, value in answer.items() if shapes(value) - known[key]} == {}
    for key in ("disabled", "buildable", "inQueue", "queueItem"):
        assert answer[key] == expected[key]
    assert answer["color"].endswith("_anime") == expected["color"].endswith("_anime")


# -- stories -----------------------------------------------------------------------------------------------------


def test_a_build_is_started_runs_and_ends(jenkins: LocalJenkins, client: httpx.Client, clock: Clock) -> None:
    jenkins.add_job("deploy/shop")
    number = jenkins.start_build(
        "deploy/shop",
        parameters={"ENVIRONMENT": "production", "DRY_RUN": False},
        repo="git@github.example.test:acme/shop.git",
        commit="0" * 40,
    )
    tree = (
        "color,nextBuildNumber,lastBuild[number],lastCompletedBuild[number],builds[number,building,inProgress,"
        "result,timestamp,duration,actions[parameters[name,value],causes[userId],remoteUrls,lastBuiltRevision[SHA1,"
        "branch[name]]]]"
    )
    job = get(client, "/job/deploy/job/shop/api/json", tree=tree)
    run = "org.jenkinsci.plugins.workflow.job.WorkflowRun"
    assert (job["color"], job["nextBuildNumber"], job["lastBuild"]) == (
        "notbuilt_anime",
        2,
        {"_class": run, "number": 1},
    )
    assert job["lastCompletedBuild"] is None
    (build,) = job["builds"]
    parameters, cause, data, *_ = build.pop("actions")
    assert build == {
        "_class": run, "number": 1, "building": True, "inProgress": True, "result": None, "timestamp": NOW,
        "duration": 0,
    }  # fmt: skip
    assert [parameter["value"] for parameter in parameters["parameters"]] == ["production", False]
    assert cause["causes"][0]["userId"] == "admin"
    assert data["remoteUrls"] == ["git@github.example.test:acme/shop.git"]
    assert data["lastBuiltRevision"] == {"SHA1": "0" * 40, "branch": [{"name": "refs/remotes/origin/main"}]}
    assert running(client) == ["http://127.0.0.1:8080/job/deploy/job/shop/1/"]

    clock.ms += 1_500
    jenkins.finish_build("deploy/shop", number, "UNSTABLE")
    build = get(client, "/job/deploy/job/shop/lastCompletedBuild/api/json")
    assert (build["building"], build["inProgress"], build["result"]) == (False, False, "UNSTABLE")
    assert (build["duration"], build["executor"]) == (1_500, None)
    assert get(client, "/job/deploy/job/shop/api/json", tree="color")["color"] == "yellow"
    assert running(client) == []


def test_a_build_that_ends_at_once_lasted_a_millisecond(jenkins: LocalJenkins) -> None:
    jenkins.add_job("shop", "freestyle")
    jenkins.finish_build("shop", jenkins.start_build("shop"), None)
    ((_, build),) = jenkins.builds("shop")
    assert (build["duration"], build["result"]) == (1, None)


def test_fields_in_between_are_shown_as_given(jenkins: LocalJenkins, client: httpx.Client) -> None:
    jenkins.add_job("shop")
    jenkins.start_build("shop")
    jenkins.update_build("shop", 1, building=False, result="SUCCESS", url=None, displayName="#1 production")
    build = get(client, "/job/shop/1/api/json")
    assert (build["building"], build["inProgress"], build["duration"]) == (False, True, 0)
    assert (build["result"], build["url"], build["fullDisplayName"]) == ("SUCCESS", None, "shop #1 production")


def test_freestyle_builds_take_an_executor_and_others_do_not(jenkins: LocalJenkins, client: httpx.Client) -> None:
    for kind in ("freestyle", "pipeline", "matrix"):
        jenkins.add_job(kind, kind)
        jenkins.start_build(kind)
    (node,) = get(client, "/computer/api/json", tree=RUNNING)["computer"]
    assert [executor["currentExecutable"] is None for executor in node["executors"]] == [False, True, True, True]
    assert [executor["currentExecutable"]["url"].split("/")[-3] for executor in node["oneOffExecutors"]] == [
        "pipeline",
        "matrix",
    ]


def test_a_deleted_build_is_not_found_and_its_neighbours_close_up(jenkins: LocalJenkins, client: httpx.Client) -> None:
    jenkins.add_job("shop")
    assert jenkins.add_builds("shop", 3) == [1, 2, 3]
    jenkins.delete_build("shop", 2)
    assert status(client, "/job/shop/2/api/json") == 404
    assert get(client, "/job/shop/api/json", tree="allBuilds[number,previousBuild[number]]")["allBuilds"] == [
        {"_class": "org.jenkinsci.plugins.workflow.job.WorkflowRun", "number": 3, "previousBuild": {"number": 1}},
        {"_class": "org.jenkinsci.plugins.workflow.job.WorkflowRun", "number": 1, "previousBuild": None},
    ]
    assert jenkins.start_build("shop") == 4


def test_a_job_created_again_starts_at_1_again(jenkins: LocalJenkins, client: httpx.Client, clock: Clock) -> None:
    jenkins.add_job("deploy/shop")
    jenkins.add_builds("deploy/shop", 5)
    jenkins.delete_job("deploy/shop")
    assert status(client, "/job/deploy/job/shop/api/json") == 404
    assert get(client, "/job/deploy/api/json")["jobs"] == []
    clock.ms += 1_000
    jenkins.add_job("deploy/shop")
    assert jenkins.start_build("deploy/shop") == 1
    assert get(client, "/job/deploy/job/shop/1/api/json")["timestamp"] == NOW + 1_000


def test_numbers_jump_ahead_but_not_back(jenkins: LocalJenkins, client: httpx.Client) -> None:
    jenkins.add_job("shop")
    jenkins.start_build("shop")
    jenkins.set_next_build_number("shop", 50)
    assert jenkins.start_build("shop") == 50
    assert [build["number"] for build in get(client, "/job/shop/api/json")["builds"]] == [50, 1]
    with pytest.raises(ValueError, match="has a build 50"):
        jenkins.set_next_build_number("shop", 50)


def test_a_renamed_job_keeps_its_builds_under_new_urls(jenkins: LocalJenkins, client: httpx.Client) -> None:
    jenkins.add_job("team-a/shop")
    jenkins.add_builds("team-a/shop", 2)
    before = get(client, "/job/team-a/job/shop/2/api/json")
    jenkins.rename_job("team-a", "team b")
    assert status(client, "/job/team-a/job/shop/api/json") == 404
    after = get(client, "/job/team%20b/job/shop/2/api/json")
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"url", "fullDisplayName", "previousBuild"}
    assert after["url"] == "http://127.0.0.1:8080/job/team%20b/job/shop/2/"
    assert [name for name, _ in jenkins.all_builds()] == ["team b/shop", "team b/shop"]


def test_concurrent_builds_end_in_any_order(jenkins: LocalJenkins, client: httpx.Client) -> None:
    jenkins.add_job("shop")
    for _ in range(3):
        jenkins.start_build("shop")
    jenkins.finish_build("shop", 3, "FAILURE")
    jenkins.finish_build("shop", 2)
    tree = "lastBuild[number],lastCompletedBuild[number],lastSuccessfulBuild[number],lastFailedBuild[number],color"
    job = get(client, "/job/shop/api/json", tree=tree)
    assert [job[name]["number"] for name in tree.replace("[number]", "").split(",")[:-1]] == [3, 3, 2, 3]
    assert job["color"] == "red"
    assert running(client) == ["http://127.0.0.1:8080/job/shop/1/"]


def test_stages_can_be_told(jenkins: LocalJenkins, client: httpx.Client) -> None:
    jenkins.add_job("shop")
    jenkins.start_build("shop")
    jenkins.set_stages("shop", 1, wfapi={"stages": [{"name": "deploy"}]})
    assert get(client, "/job/shop/1/wfapi/describe") == {"stages": [{"name": "deploy"}]}
    assert status(client, "/job/shop/1/pipeline-overview/tree") == 404


def test_recorded_jobs_go_on(clock: Clock) -> None:
    jenkins = LocalJenkins.from_folder(RECORDED, username="admin", token="secret", now_ms=clock)
    with LocalServer(jenkins.app) as server, httpx.Client(base_url=server.url, auth=ADMIN) as client:
        assert jenkins.start_build("matrix-app") == 5
        assert jenkins.start_build("shop-mb/feature%2Fx") == 3
        assert get(client, "/job/shop-mb/job/feature%252Fx/3/api/json")["previousBuild"]["number"] == 2
        runs = get(client, "/job/matrix-app/3/api/json", tree="runs[number,result]")["runs"]
    assert {run["result"] for run in runs} == {"SUCCESS", "FAILURE"}
    assert not any("_class" in run for run in runs)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda jenkins: jenkins.start_build("nosuch"),
        lambda jenkins: jenkins.start_build("team-a"),
        lambda jenkins: jenkins.finish_build("team-a/shop", 1),
        lambda jenkins: jenkins.delete_job("team-a/shop/below"),
    ],
)
def test_an_unknown_job_or_build_is_a_key_error(jenkins: LocalJenkins, mistake: Any) -> None:
    jenkins.add_job("team-a/shop")
    with pytest.raises(KeyError):
        mistake(jenkins)


@pytest.mark.parametrize("name", ["team-a/shop", "team-a", "team-a/shop/below"])
def test_a_job_has_one_place_of_its_own(jenkins: LocalJenkins, name: str) -> None:
    jenkins.add_job("team-a/shop")
    with pytest.raises(ValueError, match=r"already exists|cannot contain jobs"):
        jenkins.add_job(name)


def test_the_demo_plays_by_itself(jenkins: LocalJenkins, client: httpx.Client, clock: Clock) -> None:
    for _ in range(5):
        clock.ms += 5_000
        jenkins.play()
    results = [build["result"] for _, build in jenkins.builds("deploy/shop")]
    assert results == ["SUCCESS", "SUCCESS", "FAILURE", "SUCCESS", None]
    tree = "builds[actions[parameters[value]]]"
    builds = get(client, "/job/deploy/job/shop/api/json", tree=tree)["builds"]
    environments = [build["actions"][0]["parameters"][0]["value"] for build in builds]
    assert environments == ["production", "staging", "production", "staging", "production"]


# -- a Jenkins that lives ----------------------------------------------------------------------------------------


def numbers_listed(client: httpx.Client, job: str) -> list[int]:
    return [build["number"] for build in get(client, f"/job/{job}/api/json", tree="builds[number,result]")["builds"]]


def test_a_build_waits_in_the_queue_without_a_number(jenkins: LocalJenkins, client: httpx.Client) -> None:
    jenkins.add_job("shop")
    jenkins.queue_build("shop")
    job = get(client, "/job/shop/api/json")
    assert (job["inQueue"], job["nextBuildNumber"], job["builds"]) == (True, 1, [])
    waiting = recorded("queue.json")["items"][0]
    assert job["queueItem"].keys() == waiting.keys()
    assert jenkins.start_build("shop") == 1
    job = get(client, "/job/shop/api/json")
    assert (job["inQueue"], job["queueItem"], job["nextBuildNumber"]) == (False, None, 2)


def test_a_number_can_be_given_away_before_its_build_is_there(jenkins: LocalJenkins, client: httpx.Client) -> None:
    jenkins.add_job("shop")
    jenkins.reveal_build("shop", jenkins.start_build("shop"), listed=False, found=False)
    assert get(client, "/job/shop/api/json", tree="nextBuildNumber")["nextBuildNumber"] == 2
    assert numbers_listed(client, "shop") == []
    assert status(client, "/job/shop/1/api/json") == 404
    jenkins.finish_build("shop", 1)
    assert numbers_listed(client, "shop") == [1]
    assert status(client, "/job/shop/1/api/json") == 200


def test_builds_are_discarded_but_not_the_last_good_and_the_running_ones(
    jenkins: LocalJenkins, client: httpx.Client
) -> None:
    jenkins.add_job("keep", "freestyle")
    jenkins.add_builds("keep", 3)
    jenkins.start_build("keep")
    jenkins.keep_builds("keep", 2)
    jenkins.add_builds("keep", 4, result="FAILURE")
    assert jenkins.numbers("keep") == [3, 4, 7, 8]
    jenkins.keep_builds("keep", None)
    jenkins.finish_build("keep", 4)
    assert numbers_listed(client, "keep") == [8, 7, 4, 3]


def test_what_may_not_be_seen_is_not_listed_not_found_and_on_no_executor(
    jenkins: LocalJenkins, client: httpx.Client
) -> None:
    jenkins.add_job("secret/team/shop")
    jenkins.start_build("secret/team/shop")
    for hidden in ("secret", "secret/team/shop"):
        assert len(running(client)) == 1
        jenkins.hide(hidden)
        listed = [job["fullName"] for job in jobs_below(get(client, "/api/json", tree="jobs[fullName,jobs[fullName]]"))]
        assert hidden not in listed
        assert status(client, "/job/secret/job/team/job/shop/1/api/json") == 404
        assert running(client) == []
        jenkins.show(hidden)
    assert status(client, "/job/secret/job/team/job/shop/1/api/json") == 200


def test_a_corrupt_build_is_left_out_of_lists_and_an_error_by_itself(
    jenkins: LocalJenkins, client: httpx.Client
) -> None:
    jenkins.add_job("shop")
    jenkins.add_builds("shop", 4)
    jenkins.corrupt_build("shop", 3)
    assert numbers_listed(client, "shop") == [4, 2, 1]
    ranged = get(client, "/job/shop/api/json", tree="builds[number,result]{0,2}")["builds"]
    assert [build["number"] for build in ranged] == [4]
    assert status(client, "/job/shop/3/api/json") == 500
    assert [build["number"] for build in get(client, "/job/shop/api/json")["builds"]] == [4, 3, 2, 1]
    jenkins.corrupt_build("shop", 3, corrupt=False)
    assert status(client, "/job/shop/3/api/json") == 200


def test_a_restart_refuses_then_answers_503_then_is_another_session(
    jenkins: LocalJenkins, client: httpx.Client
) -> None:
    session = client.get("/api/json").headers["x-jenkins-session"]
    jenkins.stop()
    with pytest.raises(httpx.TransportError):
        client.get("/api/json")
    jenkins.boot()
    answer = client.get("/api/json")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "text/html;charset=UTF-8")
    assert "x-jenkins" not in answer.headers
    jenkins.restart()
    assert client.get("/api/json").headers["x-jenkins-session"] != session


@pytest.mark.parametrize(
    ("interrupted", "expected"),
    [("goes on", [("RUNNING", 1)] * 3), ("aborted", [("ABORTED", 1), ("RUNNING", 1), ("ABORTED", 1)]),
     ("vanished", [None, ("RUNNING", 1), None])],
)  # fmt: skip
def test_pipelines_survive_a_restart_and_others_as_told(
    jenkins: LocalJenkins, interrupted: str, expected: list[Any]
) -> None:
    found: list[Any] = []
    for kind in KINDS:
        jenkins.add_job(kind, kind)
        jenkins.start_build(kind)
    jenkins.restart(interrupted)
    for kind in KINDS:
        builds = [build for _, build in jenkins.builds(kind)]
        found.append((builds[0]["result"] or "RUNNING", builds[0]["number"]) if builds else None)
        assert jenkins.next_build_number(kind) == 2
    assert found == expected


def test_its_clock_may_be_off(jenkins: LocalJenkins, client: httpx.Client, clock: Clock) -> None:
    jenkins.skew_ms = -300_000
    jenkins.add_job("shop")
    jenkins.start_build("shop")
    clock.ms += 2_000
    jenkins.finish_build("shop", 1)
    build = get(client, "/job/shop/1/api/json")
    assert (build["timestamp"], build["duration"]) == (NOW - 300_000, 2_000)
    date = client.get("/api/json").headers["date"]
    assert parsedate_to_datetime(date).timestamp() * 1000 == jenkins.now_ms == clock.ms - 300_000


# -- the way it is served ----------------------------------------------------------------------------------------


def test_it_may_live_under_a_prefix_and_have_another_root_url() -> None:
    for options, root in (
        ({"prefix": "jenkins"}, "http://127.0.0.1:8080/jenkins/"),
        ({"prefix": "/jenkins/", "root_url": "https://ci.example.test"}, "https://ci.example.test/"),
    ):
        jenkins = LocalJenkins.from_folder(RECORDED, username="admin", token="secret", **options)
        with LocalServer(jenkins.app) as server, httpx.Client(base_url=server.url, auth=ADMIN) as client:
            build = get(client, "/jenkins/job/shop-mb/job/main/2/api/json")
            assert build["url"] == f"{root}job/shop-mb/job/main/2/"
            assert build["culprits"][0]["absoluteUrl"].startswith(f"{root}user/")
            assert client.get("/jenkins").headers["location"] == "/jenkins/"
            assert client.get("/jenkins/job/shop-mb").headers["location"] == "/jenkins/job/shop-mb/"
            assert status(client, "/api/json") == status(client, "/jenkinsfile") == 404


def test_the_date_is_that_of_its_clock(client: httpx.Client, clock: Clock) -> None:
    clock.ms += 3_600_000
    answer = client.get("/api/json")
    assert parsedate_to_datetime(answer.headers["date"]).timestamp() * 1000 == clock.ms
    assert len(answer.headers.get_list("date")) == 1


def test_a_restart_shows_in_the_session(jenkins: LocalJenkins, client: httpx.Client) -> None:
    before = client.get("/api/json").headers["x-jenkins-session"]
    jenkins.restart()
    assert client.get("/api/json").headers["x-jenkins-session"] != before


def test_every_request_is_on_record(jenkins: LocalJenkins, client: httpx.Client) -> None:
    body = client.get("/api/json", params={"tree": "jobs[name]{0,5}"}).content
    client.get("/job/a%252Fb/api/json")
    one, other = jenkins.requests
    assert one.target == "/api/json?tree=jobs[name]{0,5}"
    assert (one.method, one.status, one.size) == ("GET", 200, len(body))
    assert (other.target, other.status) == ("/job/a%252Fb/api/json", 404)
    jenkins.clear_requests()
    assert jenkins.requests == []


def test_long_answers_are_compressed_for_who_can_read_them(jenkins: LocalJenkins, client: httpx.Client) -> None:
    jenkins.add_job("shop")
    jenkins.add_builds("shop", 100)
    packed = client.get("/job/shop/api/json")
    plain = client.get("/job/shop/api/json", headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json() == plain.json()
    assert jenkins.requests[0].size < jenkins.requests[1].size / 5


def test_an_outage_can_be_played(jenkins: LocalJenkins, client: httpx.Client) -> None:
    class Reset(Response):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            reset_connection(scope)

    answers: dict[str, Response] = {"/a": PlainTextResponse("starting", 503), "/b": Reset()}
    jenkins.break_with(lambda path, query: answers.get(path) if query == "tree=a[b]" else None)
    assert client.get("/a?tree=a%5Bb%5D").status_code == 503
    with pytest.raises(httpx.TransportError):
        client.get("/b?tree=a%5Bb%5D")
    assert status(client, "/a") == 404
    jenkins.break_with(None)
    assert status(client, "/a?tree=a%5Bb%5D") == 404
    assert [request.status for request in jenkins.requests] == [503, 0, 404, 404]


def test_python_jenkins_reads_it(jenkins: LocalJenkins) -> None:
    jenkins.add_folder("shop-mb", "multibranch")
    jenkins.add_job("shop-mb/feature%2Fx")
    jenkins.add_builds("shop-mb/feature%2Fx", 2)
    with LocalServer(jenkins.app) as server:
        reader = python_jenkins.Jenkins(server.url, *ADMIN, timeout=5)
        assert reader.get_whoami()["id"] == "admin"
        assert reader.get_version() == "2.516.2"
        assert reader.get_job_info("shop-mb/feature%2Fx")["nextBuildNumber"] == 3
        assert reader.get_build_info("shop-mb/feature%2Fx", 2)["result"] == "SUCCESS"
        with pytest.raises(python_jenkins.JenkinsException):
            reader.get_job_info("nosuch")


def test_ten_thousand_jobs_are_listed_quickly(jenkins: LocalJenkins, client: httpx.Client) -> None:
    for number in range(10_000):
        jenkins.add_job(f"team-{number % 100}/job-{number}", "freestyle")
    tree = "_class,fullName,url,nextBuildNumber"
    url, params = "/api/json", {"tree": f"jobs[{tree},jobs[{tree},jobs[{tree}]]]"}
    began = time.perf_counter()
    answer = client.get(url, params=params, headers={"Accept-Encoding": "identity"}).json()
    assert time.perf_counter() - began < 2  # a tenth of that on an ordinary machine that does nothing else
    assert sum(len(folder["jobs"]) for folder in answer["jobs"]) == 10_000
