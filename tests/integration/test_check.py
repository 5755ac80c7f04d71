"""``check`` against servers that are not what the configuration says, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from agent.config.credentials import Token
from agent.inspect.findings import Level
from agent.inspect.probes import probe_hivel, probe_jenkins
from agent.model.times import Clock
from tests.integration.network import Authority, Proxy, Server
from tests.integration.support import REPO, Agent

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

    from agent.config.settings import DeliverySettings, HivelSettings, JenkinsSettings
    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

NOWHERE = "http://127.0.0.1:1"


def messages(agent: Agent, *arguments: str, subject: str = "", **environment: str) -> list[str]:
    """What ``check`` says about a subject, with the levels."""
    done = agent.run("check", *arguments, **environment)
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    return [f"{level} {text}" for level, text in lines if subject in text]


def problems(probe: object) -> str:
    return "\n".join(f"{each.level} {each}" for each in probe.problems)  # type: ignore[attr-defined]


# ---- is this Jenkins?


def test_a_jenkins_that_accepts_the_token_is_usable(controller: JenkinsSettings, jenkins: LocalJenkins) -> None:
    jenkins.add_job("deploy/shop")
    probe = probe_jenkins(controller)
    assert (probe.reachable, probe.is_jenkins, probe.usable, probe.problems) == (True, True, True, ())
    assert probe.about is not None and probe.about.user == "hivel-agent"
    assert probe.snapshot is not None and [job.full_name for job in probe.snapshot.jobs] == ["deploy/shop"]


def test_a_jenkins_without_visible_jobs_is_usable_with_a_warning(controller: JenkinsSettings) -> None:
    probe = probe_jenkins(controller)
    assert probe.usable
    assert problems(probe) == "warning no job is visible; give the user Job/Read in Jenkins, also on folders"


def test_a_wrong_token_is_told_from_a_wrong_address(controller: JenkinsSettings) -> None:
    probe = probe_jenkins(replace(controller, token=Token("another-one")))
    assert (probe.reachable, probe.is_jenkins, probe.usable) == (True, True, False)
    assert "check [[jenkins]] username and token_file" in problems(probe)


def test_an_address_where_nobody_listens_is_not_reachable(controller: JenkinsSettings) -> None:
    probe = probe_jenkins(replace(controller, url=f"{NOWHERE}/"))
    assert (probe.reachable, probe.is_jenkins) == (False, False)
    assert "Connection refused" in problems(probe)


def test_a_missing_context_path_is_found(jenkins: LocalJenkins, controller: JenkinsSettings) -> None:
    async def under_jenkins(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        path = scope["path"].removeprefix("/jenkins")
        await jenkins.app({**scope, "path": path, "raw_path": path.encode(), "root_path": ""}, receive, send)

    app = Starlette(routes=[Mount("/jenkins", app=under_jenkins)])
    with Server(app) as server:
        probe = probe_jenkins(replace(controller, url=f"{server.url}/"))
        assert (probe.usable, probe.better_url) == (False, f"{server.url}/jenkins/")
        assert problems(probe) == (
            f"error {server.url}/ is not the address of Jenkins (404), but {server.url}/jenkins/ is; "
            f'write url = "{server.url}/jenkins/"'
        )


@pytest.mark.parametrize("page", ["job/deploy/job/shop/", "api/json", "view/all/job/x/3/console", "login"])
def test_a_pasted_page_of_jenkins_leads_to_its_base_address(controller: JenkinsSettings, page: str) -> None:
    probe = probe_jenkins(replace(controller, url=f"{controller.url}{page.rstrip('/')}/"))
    assert (probe.usable, probe.better_url) == (False, controller.url)
    assert f'write url = "{controller.url}"' in problems(probe)


def test_a_server_that_is_no_jenkins_is_told(controller: JenkinsSettings) -> None:
    with Server(Starlette()) as server:
        probe = probe_jenkins(replace(controller, url=f"{server.url}/"))
        assert (probe.reachable, probe.is_jenkins, probe.better_url) == (True, False, None)
        assert f"{server.url}/ answers 404 without an X-Jenkins header: there is no Jenkins" in problems(probe)


def test_an_answer_without_the_header_of_jenkins_is_a_warning(controller: JenkinsSettings) -> None:
    async def who_am_i(_: Request) -> JSONResponse:
        return JSONResponse({"name": "hivel-agent", "anonymous": False})

    with Server(Starlette(routes=[Route("/whoAmI/api/json", who_am_i)])) as server:
        probe = probe_jenkins(replace(controller, url=f"{server.url}/"), jobs=False)
        assert probe.usable and probe.problems[0].level is Level.WARNING
        assert f"the answer of {server.url}/ has no X-Jenkins header" in problems(probe)


def test_anonymous_although_a_user_is_configured_is_a_warning(controller: JenkinsSettings) -> None:
    async def who_am_i(_: Request) -> JSONResponse:
        return JSONResponse({"name": "anonymous", "anonymous": True}, headers={"X-Jenkins": "2.516.2"})

    with Server(Starlette(routes=[Route("/whoAmI/api/json", who_am_i)])) as server:
        probe = probe_jenkins(replace(controller, url=f"{server.url}/"), jobs=False)
        assert probe.usable
        assert problems(probe).startswith(
            "warning Jenkins treats the agent as anonymous, although [[jenkins]] username is hivel-agent"
        )
        assert probe_jenkins(replace(controller, url=f"{server.url}/", username=None), jobs=False).problems == ()


# ---- is this Hivel?


def test_hivel_accepts_the_token_or_says_why_not(
    hivel_settings: HivelSettings, delivery_settings: DeliverySettings, hivel: LocalHivel
) -> None:
    def probed(settings: HivelSettings):  # type: ignore[no-untyped-def]
        return asyncio.run(probe_hivel(settings, delivery_settings, Clock()))

    assert (probed(hivel_settings).accepted, probed(hivel_settings).problem) == (True, None)
    wrong = probed(replace(hivel_settings, token=Token("another-one")))
    assert not wrong.accepted and "the token is not accepted" in str(wrong.problem)
    pasted = probed(replace(hivel_settings, url=f"{hivel_settings.url}/api/v2/deployment"))
    assert pasted.better_url == hivel_settings.url
    assert str(pasted.problem).endswith(f'write the base address: url = "{hivel_settings.url}"')
    assert hivel.deployments() == []


# ---- TLS and proxies


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_https_on_an_http_port_is_explained(
    jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path
) -> None:
    jenkins, hivel = (server.url.replace("http:", "https:") for server in (jenkins_server, hivel_server))
    agent = Agent.configured(tmp_path, jenkins=jenkins, hivel=hivel)
    for table, subject in (("[[jenkins]]", "jenkins main: "), ("[hivel]", "hivel: ")):
        [said] = messages(agent, subject=subject)
        words = f"this port does not use TLS: write http:// instead of https:// in {table} url"
        assert said.startswith(f"error {subject}") and words in said


def test_a_certificate_for_another_name_is_explained(
    jenkins: LocalJenkins, hivel: LocalHivel, authority: Authority, tmp_path: Path
) -> None:
    certificate = authority.issue("ci.example.test")
    with Server(jenkins.app, certificate) as jenkins_server, Server(hivel.app, certificate) as hivel_server:
        agent = Agent.configured(tmp_path, jenkins=jenkins_server.url, hivel=hivel_server.url)
        trusted = {"SSL_CERT_FILE": str(authority.file), "REQUESTS_CA_BUNDLE": str(authority.file)}
        for table, subject in (("[[jenkins]]", "jenkins main: "), ("[hivel]", "hivel: ")):
            [said] = messages(agent, subject=subject, **trusted)
            assert "IP address mismatch" in said
            assert f"the certificate is for another host name: set {table} url to a host name" in said
            assert "ca_file" not in said


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_down_is_named(tmp_path: Path, scheme: str) -> None:
    proxy, variable = f"http://127.0.0.1:{closed_port()}", f"{scheme.upper()}_PROXY"
    agent = Agent.configured(tmp_path, jenkins=f"{scheme}://ci.example.test", hivel=f"{scheme}://hivel.example.test")
    for subject in ("jenkins main: ", "hivel: "):
        _, said = messages(agent, subject=subject, **{variable: proxy})
        assert said.startswith("error") and "refused" in said
        assert proxy in said and variable in said


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_credentials_is_named(tmp_path: Path, scheme: str) -> None:
    variable = f"{scheme.upper()}_PROXY"
    agent = Agent.configured(tmp_path, jenkins=f"{scheme}://ci.example.test", hivel=f"{scheme}://hivel.example.test")
    with Proxy({}, refuse_with="407 Proxy Authentication Required") as proxy:
        for subject in ("jenkins main: ", "hivel: "):
            _, said = messages(agent, subject=subject, **{variable: proxy.url})
            assert said.startswith("error") and "requires credentials" in said
            assert proxy.url in said and "http://user:password@host:port" in said


# ---- rules against jobs


def configured(folder: Path, jenkins: LocalServer, hivel: LocalServer, extra: str) -> Agent:
    return Agent.configured(folder, jenkins=jenkins, hivel=hivel, extra=extra)


def test_rules_that_no_job_matches_are_warned_of_and_what_may_be_meant_is_said(
    jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path
) -> None:
    for name in ("teams/pay/deploy", "teams/shop/deploy", "build"):
        jenkins.add_job(name)
    globs = (
        "teams/*/deploy",
        "teams/pay/*",
        "deploy",
        "teams/pay",
        "job/teams/job/pay/job/deploy",
        "Build",
        "dep.*oy",
        "x",
    )
    agent = configured(
        tmp_path, jenkins_server, hivel_server, "".join(f'[[deployment]]\njob = "{glob}"\n' for glob in globs)
    )
    said = messages(agent, subject="rules: ")
    place = "[[deployment]] number"
    assert said == [
        f'warning rules: {place} 2, job = "teams/pay/*": rules before it match all of its 1 job(s), such as '
        "teams/pay/deploy; only the first rule that matches is used, so move this rule up or remove it",
        f'warning rules: {place} 3, job = "deploy": no job matches; a pattern matches the full name with all folders: '
        '"**/deploy" matches 2 job(s), such as teams/pay/deploy',
        f'warning rules: {place} 4, job = "teams/pay": no job matches; a pattern matches the full name with all '
        'folders: "teams/pay/**" matches 1 job(s), such as teams/pay/deploy',
        f'warning rules: {place} 5, job = "job/teams/job/pay/job/deploy": no job matches; a full name has no /job/: '
        '"teams/pay/deploy" matches 1 job(s), such as teams/pay/deploy',
        f'warning rules: {place} 6, job = "Build": no job matches; job names are case-sensitive: '
        '"re:(?i)^Build$" matches 1 job(s), such as build',
        f'warning rules: {place} 7, job = "dep.*oy": no job matches; it looks like a regular expression: '
        '"re:dep.*oy" matches 2 job(s), such as teams/pay/deploy',
        f'warning rules: {place} 8, job = "x": no job matches; job names here look like build, teams/pay/deploy, '
        "teams/shop/deploy",
    ]
    assert agent.run("check").returncode == 0


def test_rules_are_not_judged_when_a_controller_could_not_be_listed(
    jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path
) -> None:
    jenkins.add_job("build")
    other = f'[[jenkins]]\nname = "other"\nurl = "{NOWHERE}"\n[[deployment]]\njob = "deploy"\n'
    assert messages(configured(tmp_path, jenkins_server, hivel_server, other), subject="rules: ") == []


@pytest.mark.parametrize("answer", [{}, {"stages": []}], ids=["no plugin", "a plugin"])
def test_a_rule_for_stages_needs_a_plugin_that_lists_them(
    jenkins: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path, answer: object
) -> None:
    jenkins.add_job("deploy/shop")
    jenkins.add_builds("deploy/shop", 2, repo=REPO)
    jenkins.set_stages("deploy/shop", 2, wfapi=answer or None)  # type: ignore[arg-type]
    rules = '[[deployment]]\njob = "**"\nstage = "Deploy"\n'
    said = messages(configured(tmp_path, jenkins_server, hivel_server, rules), subject="jenkins main: ")
    assert said[0].startswith("ok")
    if answer:
        assert len(said) == 1
    else:
        assert "the stages of deploy/shop #2 cannot be read: no plugin lists them, or it is not a pipeline" in said[1]
        assert said[1].startswith("warning") and "pipeline-graph-view or pipeline-rest-api" in said[1]


# ---- what the configuration alone shows


def test_what_looks_wrong_in_a_configuration_is_warned_of_without_a_request(tmp_path: Path) -> None:
    extra = (
        '[http]\ncontact = "ops@example.com"\n'
        '[[jenkins]]\nurl = "http://10.0.0.5:8080/job/x/"\n'
        '[[deployment]]\njob = "deploy/{eu,us}/*"\nstage = "^Deploy$"\n'
        '[[deployment]]\njob = "deploy/[ab]*"\nrepo_url = "https://git.example.com/x"\n'
        '[intake]\nlisten = "0.0.0.0:9469"\nrequire_token = true\ntoken_file = "hivel.token"\n'
    )
    agent = Agent.configured(tmp_path, jenkins=NOWHERE, hivel="http://127.0.0.1:1/api/v2/deployment", extra=extra)
    agent.config.write_text(agent.config.read_text().replace("127.0.0.1:0", "127.0.0.1:9469"))
    expected = [
        f"ok configuration: {agent.config} is valid; 2 rule(s)",
        "warning hivel: [hivel] url is an endpoint, http://127.0.0.1:1/api/v2/deployment; write the base address: "
        'url = "http://127.0.0.1:1"',
        "warning jenkins 10.0.0.5:8080: [[jenkins]] url is a page of Jenkins, http://10.0.0.5:8080/job/x/; write the "
        'base address: url = "http://10.0.0.5:8080"',
        "warning jenkins 10.0.0.5:8080: its name is 10.0.0.5:8080, taken from the address. The name is part of "
        "every deployment_id, and changes with the address; set [[jenkins]] name (if events were already sent, "
        'name = "10.0.0.5:8080" keeps their ids)',
        "warning configuration: [http] contact contains example.com, a placeholder of the documentation; replace it",
        "warning configuration: [[deployment]] number 2, repo_url contains git.example.com, a placeholder of the "
        "documentation; replace it",
        'warning rules: [[deployment]] number 1, job: "deploy/{eu,us}/*": {eu,us} has no special meaning in a pattern, '
        'only *, ** and ? have; use a regular expression, for example "re:^deploy/(?:eu|us)/[^/]*$"',
        'warning rules: [[deployment]] number 1, stage: "^Deploy$": ^ has no special meaning in a pattern, only *, ** '
        'and ? have; use a regular expression, for example "re:^Deploy$"',
        'warning rules: [[deployment]] number 2, job: "deploy/[ab]*": [ab] has no special meaning in a pattern, only '
        '*, ** and ? have; use a regular expression, for example "re:^deploy/[ab][^/]*$"',
        "warning intake: [monitoring] listen and [intake] listen are the same address, 0.0.0.0:9469: only one of them "
        "can use it; change the port of one of them",
    ]
    assert messages(agent, "--config-only") == expected
    assert agent.run("check", "--config-only").returncode == 0
    assert set(expected) <= set(messages(agent, "--offline"))


def test_folders_that_cannot_be_made_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    extra = f'[hook]\nspool = "{tmp_path}/file/spool"\n'
    agent = Agent.configured(tmp_path, jenkins=NOWHERE, hivel=NOWHERE, extra=extra)
    agent.config.write_text(agent.config.read_text().replace("outbox.db", "file/data/outbox.db"))
    assert (
        f"error outbox: {tmp_path}/file/data/outbox.db cannot be created: {tmp_path}/file is not a folder"
        in messages(agent, "--offline", subject="outbox: ")[0]
    )
    assert messages(agent, "--offline", subject="spool: ") == [
        f"warning spool: {tmp_path}/file/spool cannot be created: {tmp_path}/file is not a folder; correct [hook] "
        "spool or its owner"
    ]


def test_the_token_is_in_no_message(tmp_path: Path) -> None:
    agent = Agent.configured(tmp_path, jenkins=NOWHERE, hivel=NOWHERE)
    done = agent.run("check")
    assert "sandbox-token" not in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [(), ("--offline",), ("--config-only",)])
def test_with_json_a_configuration_that_cannot_be_used_is_a_finding_for_each_error(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    agent = Agent.configured(tmp_path, jenkins=NOWHERE, hivel=NOWHERE)
    agent.config.write_text(agent.config.read_text() + '[outbx]\npath = ""\n\n[deployments]\njob = "**"\n')
    done = agent.run("check", "--json", *arguments)
    assert (done.returncode, done.stderr) == (2, "")
    findings = json.loads(done.stdout)
    assert [sorted(finding) for finding in findings] == [["level", "message", "subject"]] * 2
    assert {(finding["level"], finding["subject"]) for finding in findings} == {("error", "configuration")}
    assert [finding["message"].partition(": ")[2] for finding in findings] == [
        "outbx: unknown table; did you mean [outbox]?",
        "deployments: unknown table; did you mean [[deployment]]?",
    ]
    text = agent.run("check", *arguments)
    assert (text.returncode, text.stdout) == (2, "")
    assert all(finding["message"] in text.stderr for finding in findings)


def test_with_json_a_missing_configuration_is_a_finding(tmp_path: Path) -> None:
    agent = Agent.configured(tmp_path, jenkins=NOWHERE, hivel=NOWHERE)
    agent.config.unlink()
    done = agent.run("check", "--json")
    assert (done.returncode, done.stderr) == (2, "")
    [finding] = json.loads(done.stdout)
    assert (finding["level"], finding["subject"]) == ("error", "configuration")
    assert 'run "hivel-agent init"' in finding["message"]
