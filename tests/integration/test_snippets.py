"""What people paste into their pipelines does what it says: each snippet runs, and what it sent is looked at.

All cases run in one Groovy process, some of them waiting at the same time; the tests look at what came of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from agent.config.credentials import Token
from agent.config.settings import Address, IntakeSettings
from agent.sandbox.server import LocalServer
from agent.sources.reports import accept as accepting
from agent.sources.reports.intake import Intake
from tests.integration.reporting import reports_of, settings_of
from tests.integration.snippets import (
    BUILD,
    FOLDER,
    LIBRARY,
    PASTE,
    PASTED,
    RESULTS,
    SNIPPETS,
    SOURCE,
    TOKEN,
    Case,
    Played,
    main_cases,
    missing,
    play,
    reports,
    table,
)

if TYPE_CHECKING:
    from agent.outbox.sqlite.engine import SqliteOutbox
    from agent.sources.reports.accept import Taken

WARNING = "WARNING: the deployment was not reported to Hivel"
SENDING = [name for name in (*SNIPPETS, *PASTED) if name != "emit.Jenkinsfile"]
PIPELINES = [name for name in SENDING if name.endswith(".Jenkinsfile")]
STAGES = {
    name for name in PIPELINES if name.endswith(("stage.Jenkinsfile", "scripted.Jenkinsfile", "ments.Jenkinsfile"))
}
# How a deployment can be refused, and what the log has to say then.
FAULTS = {
    "down": r"HTTP 000: curl: \(7\)",
    "slow": r"HTTP 000: curl: \(28\)",
    "refused": r"HTTP 401: .*this is why",
    "broken": r"HTTP 500: .*this is why",
    "login": r"HTTP 200: <html>",
}
HOSTILE = {
    "quotes": 'a"b\'c""\\',
    "commands": "x$(touch x);`touch x`\"; touch x; '$(touch x)' && touch x | touch x #",
    "mixed": "a\"b$(touch x)'`\\\\ü",
    "lines": "one\ntouch x\r\nEND\n\ttouch x",
    "variables": "$HIVEL_TOKEN ${HIVEL_TOKEN} $$HIVEL_TOKEN %HIVEL_TOKEN% ${env.HIVEL_TOKEN} $env:HIVEL_TOKEN",
    "unicode": "größe-日本語-🚀-\u2028-\u00a0-é",
    "controls": "bell\x07 escape\x1b[31m delete\x7f start\x01",
    "json": '","status":"SUCCESS","x":"\\u0022 \\" \\n',
    "percent": "%s%n%x %PATH% @/etc/passwd -H --config",
}

# ---- pipelines for what the snippets do not show

WHOLE = "node { stage('Deploy') { sh './deploy.sh' }\n hivelDeployment(environment: 'production') }"
BLOCK = "node { stage('Deploy') { sh './build.sh'\n hivelDeployment(environment: 'production') { sh './deploy.sh' } } }"
SCRIPTS = {
    "whole": WHOLE,
    "block": BLOCK,
    "value": "node { echo 'got ' + hivelDeployment(environment: 'x') { sh './deploy.sh'; 42 } }",
    "bare": "node { hivelDeployment() }\nnode { hivelDeployment { sh './deploy.sh' } }",
    "caught": """
        node {
            try { hivelDeployment(environment: 'production') { sh './deploy.sh' } }
            catch (Exception e) { echo "caught ${e.class.name}" }
        }""",
    "every argument": """
        node {
            hivelDeployment(
                environment: 'production', stage: 'Ship it', status: 'NOT_BUILT', image: 'shop:1', branch: 'b',
                repo_url: 'https://git.example.com/r', commit_hash: 'abc', start_time: 1,
                end_time: '2026-01-31T18:00:00Z', pr_number: 7, pr_numbers: [7, 8],
                logs_url: 'https://logs.example.com/', controller: 'main',
                credentialsId: 'other', url: env.HIVEL_AGENT_URL,
            )
        }""",
    "no node": """
        pipeline {
            agent none
            stages { stage('Deploy') { steps { node { sh './deploy.sh' } } } }
            post { always { hivelDeployment(environment: 'production') } }
        }""",
    "no node, pasted": "pipeline { agent none\n post { always { script { hivelDeployment(environment: 'x') } } } }\n"
    + PASTE,
    "given, pasted": "node { hivelDeployment(repo_url: 'https://git.example.com/r', commit_hash: env.NOTHING) }\n"
    + PASTE,
    "needs approvals": '@Deprecated def f() { new URL("x").text }\nsh "echo ${env.X}"\nx.rawBuild.getAction(null)',
    # The patience of a pipeline is cut from 15 s to 1 s, to see its end sooner.
    "impatient": PASTED["pasted-whole-build.Jenkinsfile"].replace("time: 15,", "time: 1,").replace("< 15000", "< 1000"),
}  # fmt: skip


def cases() -> dict[str, Case]:
    found = main_cases()
    branch: dict[str, str | None] = {"BRANCH_NAME": "main", "BUILD_RESULT": "SUCCESS"}
    for snippet in SENDING:
        for fault in FAULTS:
            found[f"{fault}-{snippet}"] = Case(snippet, fault=fault, variables=branch)
        found[f"broken-{snippet}-failure"] = Case(snippet, "failure", fault="broken", variables=branch)
        found[f"nocurl-{snippet}"] = Case(snippet, without="curl", variables=branch)
        found[f"killed-{snippet}"] = Case(snippet, without="mercy", variables=branch)
        if not found[f"nocurl-{snippet}"].freestyle:
            found[f"nocredential-{snippet}"] = Case(snippet, credentials={}, variables=branch)
            found[f"noplugin-{snippet}"] = Case(snippet, without="credentials plugin", variables=branch)
            found[f"stopped-{snippet}"] = Case(snippet, report="aborted", variables=branch)
    for snippet in (*SNIPPETS, *PASTED):
        for kind, value in HOSTILE.items():
            found[f"hostile-{snippet}-{kind}"] = hostile(snippet, value)
    for snippet in STAGES:
        found[f"unstable-before-{snippet}"] = Case(snippet, build="unstable", variables=branch)
    pull_request: dict[str, str | None] = {"BRANCH_NAME": "PR-7", "CHANGE_ID": "7", "CHANGE_BRANCH": "feature/x"}
    for snippet in PIPELINES:
        found[f"pull-{snippet}"] = Case(snippet, variables=pull_request)
    found["pull-library"] = Case("whole", variables=pull_request)
    found["nowhere"] = Case("multibranch.Jenkinsfile", variables={"BRANCH_NAME": "feature/x"})
    found["unnamed"] = Case("multibranch.Jenkinsfile")
    found["first-step"] = Case("freestyle.sh")
    found["impatient"] = Case("impatient", without="patience")
    found["no-address"] = Case("whole", variables={"HIVEL_AGENT_URL": None})
    found |= {f"windows-{deploy}": Case("block", deploy, windows=True) for deploy in RESULTS}
    found["every-argument"] = Case("every argument", credentials={"other": TOKEN})
    for script in ("value", "bare", "no node", "no node, pasted", "given, pasted"):
        found[script.replace(", ", "-").replace(" ", "-")] = Case(script)
    found["no-version"] = Case("stage.Jenkinsfile", params={"VERSION": ""})
    found["no-version-several"] = Case("several-environments.Jenkinsfile", params={"VERSION": ""})
    for deploy in RESULTS:
        found[f"caught-{deploy}"] = Case("caught", deploy)
    return found


def hostile(snippet: str, value: str) -> Case:
    variables: dict[str, str | None] = {
        "JOB_NAME": f"deploy/{value}",
        "BUILD_URL": f"https://jenkins.example.com/{value}",
        "GIT_URL": f"https://git.example.com/{value}",
        "GIT_BRANCH": value,
        "BRANCH_NAME": f"release/{value}",
        "CHANGE_BRANCH": f"feature/{value}",
    }
    if snippet == "freestyle.sh":
        variables |= {"ENVIRONMENT": value, "BUILD_RESULT": "SUCCESS", "BRANCH_NAME": None}
    return Case(snippet, variables=variables, params={"VERSION": value})


class Everything:
    def __init__(self) -> None:
        self.played, self.calls = play(cases(), SCRIPTS)

    def __getitem__(self, case: str) -> Played:
        return self.played[case]


@pytest.fixture(scope="module")
def everything() -> Everything:
    lacking = missing()
    if lacking and os.environ.get("CI"):
        pytest.fail(f"not installed: {lacking}")
    if lacking:
        pytest.skip(f"not installed: {lacking}; apt-get install --no-install-recommends {lacking.replace(',', '')}")
    return Everything()


def only(played: Played) -> dict[str, Any]:
    assert len(played.requests) == 1, played.log
    return played.requests[0].report


# ---- what arrives


@pytest.mark.parametrize("deploy", RESULTS)
@pytest.mark.parametrize("snippet", SENDING)
def test_a_deployment_is_reported_with_its_result(everything: Everything, snippet: str, deploy: str) -> None:
    played = everything[f"main-{snippet}-{deploy}"]
    assert played.requests, played.log
    first = played.requests[0]
    assert (first.method, first.path) == ("POST", "/v1/events")
    assert first.headers["authorization"] == f"Bearer {TOKEN}"
    assert first.headers["content-type"] == "application/json"
    report = first.report
    assert (report["status"], report["provider"]) == (RESULTS[deploy], "jenkins")
    assert (report["job"], report["build_number"], report["build_url"]) == tuple(BUILD.values())
    place = {name: report[name] for name in ("repo_url", "commit_hash", "branch", "given") if name in report}
    own = {"repo_url": SOURCE["GIT_URL"], "commit_hash": SOURCE["GIT_COMMIT"], "branch": SOURCE["GIT_BRANCH"]}
    assert place == (own if snippet == "freestyle.sh" else {})  # a pipeline's may be those of a shared library
    assert ("stage" in report) == (snippet in STAGES)
    assert all(value not in (None, "") for value in report.values())
    assert WARNING not in played.log


def test_the_real_intake_takes_every_request_that_was_made(
    everything: Everything, outbox: SqliteOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes and headers once more, but for those that belong to the connection."""
    monkeypatch.setattr(accepting, "refuse_far_times", lambda *_: None)  # their builds began on a day of their own
    requests = [request for played in everything.played.values() for request in played.requests]
    bearers = {request.headers["authorization"] for request in requests}
    tokens = tuple(("", Token(bearer.removeprefix("Bearer "))) for bearer in bearers)
    reports = reports_of(settings_of(outbox.path), outbox)

    async def accept(report: dict[str, object], team: str) -> Taken:
        return reports.take(report, source="intake", at=outbox.clock.now_ms(), principal=team)

    intake = Intake(IntakeSettings(Address("127.0.0.1", 0), tokens), accept, lambda _: [])
    with LocalServer(intake.app) as server, httpx.Client(base_url=server.url) as client:
        for request in requests:
            kept = {name: request.headers[name] for name in ("authorization", "content-type")}
            answer = client.post(request.path, content=request.body, headers=kept)
            assert answer.status_code == 202, (answer.text, request.body)
    assert len(requests) > 100


@pytest.mark.parametrize("deploy", RESULTS)
@pytest.mark.parametrize("snippet", [name for name in (*SNIPPETS, *PASTED) if name != "freestyle.sh"])
def test_the_build_ends_as_it_would_without_the_snippet(everything: Everything, snippet: str, deploy: str) -> None:
    played = everything[f"main-{snippet}-{deploy}"]
    assert played.result == RESULTS[deploy], played.log
    errors = {"failure": "hudson.AbortException: script returned exit code 1", "aborted": "FlowInterruptedException"}
    assert errors.get(deploy, "None") in str(played.error)


def test_the_times_of_a_report_are_milliseconds(everything: Everything) -> None:
    whole = only(everything["main-whole-build.Jenkinsfile-success"])
    assert whole["start_time"] == 1_795_435_200_000  # what Jenkins' API calls `timestamp`
    for snippet in STAGES:
        report = everything[f"main-{snippet}-success"].requests[0].report
        assert whole["end_time"] - 240_000 < report["start_time"] <= report["end_time"]


def test_every_environment_of_a_pipeline_is_an_event(everything: Everything) -> None:
    requests = everything["main-several-environments.Jenkinsfile-success"].requests
    told = [(r.report["stage"], r.report["environment"], r.report["image"]) for r in requests]
    assert told == [
        ("Deploy to staging", "staging", "registry.example.com/shop:1.4"),
        ("Deploy to production", "production", "registry.example.com/shop:1.4"),
    ]
    assert len(everything["main-several-environments.Jenkinsfile-failure"].requests) == 1


@pytest.mark.parametrize("snippet", sorted(STAGES))
def test_a_stage_is_a_success_although_the_build_was_unstable_before(everything: Everything, snippet: str) -> None:
    played = everything[f"unstable-before-{snippet}"]
    assert {request.report["status"] for request in played.requests} == {"SUCCESS"}
    assert played.result == ("SUCCESS" if "several" in snippet else "UNSTABLE")  # that one has no build step


@pytest.mark.parametrize("case", ["pull-library", *(f"pull-{name}" for name in PIPELINES)])
def test_a_pull_request_is_reported_with_its_own_branch(everything: Everything, case: str) -> None:
    report = everything[case].requests[0].report
    assert (report["branch"], report["pr_number"]) == ("feature/x", "7")


def test_a_branch_that_is_deployed_nowhere_reports_nothing(everything: Everything) -> None:
    for case in ("nowhere", "unnamed"):
        played = everything[case]
        assert (played.result, played.requests, played.log) == ("SUCCESS", [], "")
    assert only(everything["pull-multibranch.Jenkinsfile"])["environment"] == "preview"


def test_a_freestyle_job_can_report_first_and_leave_the_result_to_the_poller(everything: Everything) -> None:
    assert "status" not in only(everything["first-step"])


def test_emit_gets_result_and_start_and_finds_the_rest_in_the_environment(everything: Everything) -> None:
    told = everything["main-emit.Jenkinsfile-unstable"].emitted
    assert told.startswith("emit --status UNSTABLE --start-time 1795435200000 --environment production\n")
    assert f"GIT_URL={SOURCE['GIT_URL']}\n" in told


# ---- the shared library


def test_the_library_takes_every_argument_and_sends_no_option_of_its_own(everything: Everything) -> None:
    report = only(everything["every-argument"])
    assert report.items() >= {
        "environment": "production", "stage": "Ship it", "status": "NOT_BUILT", "image": "shop:1", "branch": "b",
        "repo_url": "https://git.example.com/r", "commit_hash": "abc", "start_time": 1,
        "end_time": "2026-01-31T18:00:00Z", "pr_number": 7, "pr_numbers": [7, 8],
        "logs_url": "https://logs.example.com/", "controller": "main",
    }.items()  # fmt: skip
    assert not {"url", "credentialsId"} & report.keys()
    helped = (FOLDER / "vars" / "hivelDeployment.txt").read_text(encoding="utf-8")
    explained = set(re.findall(r"<code>(\w+)</code>", "".join(re.findall(r"<dt>.*?</dt>", helped))))
    by_itself = {"provider", "job", "build_number", "build_url", "given"}
    assert explained == (report.keys() | {"url", "credentialsId"}) - by_itself
    assert sorted(report["given"]) == ["branch", "commit_hash", "repo_url"]


def test_the_library_gives_back_the_value_of_the_block(everything: Everything) -> None:
    assert "got 42" in everything["value"].log


def test_the_library_needs_no_argument(everything: Everything) -> None:
    whole, block = (request.report for request in everything["bare"].requests)
    assert "stage" not in whole
    assert block["stage"] == "deployment"  # outside of every stage


@pytest.mark.parametrize("deploy", RESULTS)
def test_what_the_caller_of_the_library_catches_is_not_made_worse(everything: Everything, deploy: str) -> None:
    played = everything[f"caught-{deploy}"]
    assert only(played)["status"] == RESULTS[deploy]
    assert played.result == ("UNSTABLE" if deploy == "unstable" else "SUCCESS")
    thrown = {"failure": "caught hudson.AbortException", "aborted": "FlowInterruptedException"}
    assert thrown.get(deploy, "") in played.log


def test_the_library_uses_powershell_where_there_is_no_sh(everything: Everything) -> None:
    played = everything["windows-success"]
    (report,) = reports("block", played)
    assert (report["environment"], report["stage"], report["status"]) == ("production", "Deploy", "SUCCESS")


# ---- values that others choose


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("snippet", SENDING)
def test_no_value_breaks_a_report_or_runs_anything(everything: Everything, snippet: str, kind: str) -> None:
    value = HOSTILE[kind]
    played = everything[f"hostile-{snippet}-{kind}"]
    (report, *_) = reports(snippet, played)
    assert report["job"] == f"deploy/{value}"
    assert report["build_url"] == f"https://jenkins.example.com/{value}"
    if snippet == "freestyle.sh":
        assert (report["repo_url"], report["branch"]) == (f"https://git.example.com/{value}", value)
    else:
        assert report["branch"] == f"feature/{value}"
    assert report["status"] == "SUCCESS"
    if "image" in report:
        assert report["image"] == f"registry.example.com/shop:{value}"
    assert set(played.files) <= {"build.sh", "build.sh.calls", "deploy.sh", "deploy.sh.calls"}
    assert (played.result, WARNING in played.log) == ("SUCCESS", False)
    assert all(TOKEN.encode() not in request.body for request in played.requests)


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_value_reaches_the_command_of_emit(everything: Everything, kind: str) -> None:
    played = everything[f"hostile-emit.Jenkinsfile-{kind}"]
    assert played.emitted.startswith("emit --status SUCCESS --start-time 1795435200000 --environment production\n")
    assert set(played.files) == {"build.sh", "deploy.sh", "deploy.sh.calls"}


@pytest.mark.parametrize("snippet", SENDING)
def test_the_token_is_in_no_command_line_and_in_no_log(everything: Everything, snippet: str) -> None:
    for case in (f"main-{snippet}-success", f"refused-{snippet}", f"down-{snippet}"):
        played = everything[case]
        assert b"/v1/events" in played.processes  # curl was seen
        assert TOKEN.encode() not in played.processes
        assert TOKEN not in played.log


# ---- when a report does not get through


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("snippet", SENDING)
def test_the_build_goes_on_when_the_intake_does_not_answer_well(
    everything: Everything, snippet: str, fault: str
) -> None:
    played = everything[f"{fault}-{snippet}"]
    assert (played.result, played.error) == ("SUCCESS", None)
    assert re.search(f"{WARNING}: {FAULTS[fault]}", played.log), played.log
    assert max(len(line) for line in played.log.splitlines()) < 600  # no page of a proxy in the log
    most = 2 if "several" in snippet else 1
    assert played.seconds < 10 * most  # 5 s each, and what a busy machine adds


@pytest.mark.parametrize("snippet", PIPELINES)
def test_a_failed_build_fails_for_its_own_reason(everything: Everything, snippet: str) -> None:
    played = everything[f"broken-{snippet}-failure"]
    assert (played.result, played.error) == ("FAILURE", "hudson.AbortException: script returned exit code 1")
    assert played.requests[0].report["status"] == ("SUCCESS" if snippet == "freestyle.sh" else "FAILURE")


@pytest.mark.parametrize("snippet", SENDING)
def test_the_build_goes_on_where_there_is_no_curl(everything: Everything, snippet: str) -> None:
    played = everything[f"nocurl-{snippet}"]
    assert (played.result, played.error, played.requests) == ("SUCCESS", None, [])
    assert re.search(f"{WARNING}: .*curl.*not found", played.log), played.log


@pytest.mark.parametrize("snippet", PIPELINES)
def test_the_build_goes_on_without_credential_and_without_the_plugin_for_it(
    everything: Everything, snippet: str
) -> None:
    for case, reason in (
        ("nocredential", "Could not find credentials entry with ID 'hivel-agent-token'"),
        ("noplugin", "No such DSL method 'withCredentials'"),
    ):
        played = everything[f"{case}-{snippet}"]
        assert (played.result, played.error, played.requests) == ("SUCCESS", None, [])
        assert WARNING in played.log
        assert reason in played.log


@pytest.mark.parametrize("snippet", PIPELINES)
def test_a_build_that_is_stopped_while_it_reports_is_stopped(everything: Everything, snippet: str) -> None:
    assert everything[f"stopped-{snippet}"].result == "ABORTED"


def test_a_node_that_hangs_holds_the_build_no_longer_than_the_timeout(everything: Everything) -> None:
    played = everything["impatient"]
    assert (played.result, played.error) == ("SUCCESS", None)
    assert f"{WARNING}: it took longer than 15 s" in played.log
    assert played.seconds < 10


def test_without_an_address_the_library_says_what_to_set(everything: Everything) -> None:
    played = everything["no-address"]
    assert (played.result, played.requests) == ("SUCCESS", [])
    assert f"{WARNING}: set HIVEL_AGENT_URL" in played.log


def test_without_a_node_the_log_says_so(everything: Everything) -> None:
    played = everything["no-node"]
    assert (played.result, played.requests) == ("SUCCESS", [])
    assert re.search(f"{WARNING}: .*hudson.Launcher is missing", played.log)
    assert re.search(f"{WARNING}: .*hudson.Launcher is missing", everything["no-node-pasted"].log)


@pytest.mark.parametrize("snippet", SENDING)
def test_where_curl_is_killed_with_the_build_the_log_says_so(everything: Everything, snippet: str) -> None:
    played = everything[f"killed-{snippet}"]
    assert (played.result, played.requests) == ("SUCCESS", [])
    assert f"{WARNING}: curl was stopped, exit code 143" in played.log


def test_without_a_version_there_is_no_image(everything: Everything) -> None:
    for case in ("no-version", "no-version-several"):
        assert everything[case].requests
        assert all("image" not in request.report for request in everything[case].requests)


def test_what_a_call_says_of_the_source_is_marked_as_given(everything: Everything) -> None:
    report = only(everything["given-pasted"])
    assert (report["repo_url"], report["given"]) == ("https://git.example.com/r", ["repo_url"])


# ---- PowerShell is not everywhere: what can be said without it, and one test with it


def powershell(played: Played) -> dict[str, Any]:
    (found,) = [one for one in played.unrunnable if one["shell"] == "powershell"]
    return dict(found)


@pytest.mark.parametrize("deploy", RESULTS)
def test_powershell_is_given_the_report_the_token_and_the_address(everything: Everything, deploy: str) -> None:
    given = powershell(everything[f"windows-{deploy}"])
    used = set(re.findall(r"\$env:(\w+)", given["script"]))
    assert used == {"HIVEL_AGENT_URL", "HIVEL_TOKEN", "HIVEL_REPORT"}
    assert used <= given["variables"].keys()
    assert given["variables"]["HIVEL_REPORT"].isascii()
    assert json.loads(given["variables"]["HIVEL_REPORT"])["status"] == RESULTS[deploy]
    assert TOKEN not in given["script"]


def test_the_powershell_script_is_balanced(everything: Everything) -> None:
    """Not more than that: PowerShell itself reads the script only where it is installed."""
    script = powershell(everything["windows-success"])["script"]
    bare = re.sub(r"'[^']*'", "", script)
    assert bare.count('"') % 2 == 0
    for opening, closing in ("()", "{}", "[]"):
        assert bare.count(opening) == bare.count(closing)


@pytest.mark.skipif(not shutil.which("pwsh"), reason="PowerShell is not installed: its script was not run")
@pytest.mark.parametrize("deploy", RESULTS)
def test_powershell_sends_the_report(everything: Everything, deploy: str) -> None:
    played = everything[f"windows-{deploy}"]
    assert only(played)["status"] == RESULTS[deploy]
    assert played.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


# ---- what the sandbox allows, and what a pipeline can do

STEPS = {"sh", "bat", "powershell", "isUnix", "echo", "checkout", "string", "timeout", "withEnv", "withCredentials"}
BLOCKS = {
    "pipeline", "agent", "label", "kubernetes", "yaml", "parameters", "stages", "stage", "when", "expression", "steps",
    "post", "always", "script", "node", "container", "hivelDeployment",
}  # fmt: skip
# On the Script Security plugin's list of what needs no approval (`generic-whitelist`), or open in Groovy itself.
WHITELIST = {
    "groovy.json.JsonOutput.toJson",  # of a map; of any object it is not on the list
    "java.lang.System.currentTimeMillis",
    "replace", "startsWith",  # String
    "keySet", "get", "put", "remove",  # Map
    "toString",  # Object
    "call",  # Closure
}  # fmt: skip


@pytest.mark.parametrize("name", [*(name for name in SNIPPETS if name != "freestyle.sh"), *PASTED, *LIBRARY])
def test_nothing_needs_an_approval(everything: Everything, name: str) -> None:
    calls = everything.calls[name]
    assert set(calls["steps"]) <= STEPS | BLOCKS
    assert set(calls["methods"]) <= WHITELIST
    assert calls["constructors"] == []
    assert set(calls["annotations"]) <= {"org.jenkinsci.plugins.workflow.libs.Library"}
    assert calls["interpolated"] == []  # no value in the text of a script


def test_a_call_that_needs_an_approval_would_be_noticed(everything: Everything) -> None:
    calls = everything.calls["needs approvals"]
    assert calls["constructors"] == ["java.net.URL"]
    assert calls["methods"] == ["getAction"]
    assert len(calls["interpolated"]) == 1
    assert calls["annotations"] == ["java.lang.Deprecated"]


# ---- the files agree with one another


def test_what_is_pasted_is_the_library() -> None:
    """But for the name of the entry point, and the head of the file."""
    (library,) = LIBRARY.values()
    start = "/** Reports the whole build"
    assert PASTE[PASTE.index(start) :] == library[library.index(start) :].replace("def call(", "def hivelDeployment(")


def test_every_snippet_can_be_used_without_the_library() -> None:
    assert PASTED.keys() == {f"pasted-{name}" for name in SNIPPETS if name not in {"emit.Jenkinsfile", "freestyle.sh"}}
    assert not any("@Library" in text.partition("// For a Jenkins where")[0] for text in PASTED.values())


def test_every_snippet_says_on_top_what_it_is_and_what_it_needs() -> None:
    for name in SNIPPETS:
        lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
        head = "\n".join(lines[: next(n for n, line in enumerate(lines) if not line.startswith(("//", "#")))])
        assert "Needs: " in head, name


def test_the_readme_has_every_snippet_and_the_table_of_what_arrived(everything: Everything) -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in SNIPPETS:
        assert f"[{name}]({name})" in readme
    made = {case: everything[case] for case in main_cases()}
    assert table(made) in readme, "print it: python -m tests.integration.snippets"
