"""Whoever gets a secret and sends it back, in whatever form: it is in no log, no outbox, and nothing that is shown."""

from __future__ import annotations

import itertools
import json
import re
from base64 import b64encode
from collections import Counter
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.integration.network import Proxy
from tests.integration.scripted import Connection, Scripted
from tests.integration.support import REPO, Agent, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

HIVEL_TOKEN = "hvl_7Qx/W2+aa9zK.Uf-31"
JENKINS_TOKEN = "11d4f9a0c2/7e+5bAA3f"
PASSWORD = "pr0xy+pass/w0rd"
BASIC = b64encode(f"hivel-agent:{JENKINS_TOKEN}".encode()).decode()
PROXY_BASIC = b64encode(f"someone:{PASSWORD}".encode()).decode()
SECRETS = (HIVEL_TOKEN, JENKINS_TOKEN, PASSWORD, BASIC, PROXY_BASIC)


def escapes(text: str) -> str:
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


def percents(text: str) -> str:
    return "".join(f"%{ord(letter):02X}" for letter in text)


def entities(text: str) -> str:
    return "".join(f"&#{ord(letter)};" for letter in text)


def spelled(secret: str) -> set[str]:
    return {
        secret, escapes(secret), percents(secret), entities(secret), secret.replace("/", "\\/"),
        secret.replace("/", "%2F").replace("+", "%2B"), repr(secret.encode()),
        *(b64encode(before + secret.encode())[4:-4].decode() for before in (b"---", b"----", b"-----")),
    }  # fmt: skip


def json_answer(text: str) -> str:
    return f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}"


def reflected(secret: str) -> dict[str, str]:
    """Answers that hold it."""
    close = "Connection: close\r\nContent-Length: 0\r\n\r\n"
    return {
        "status line": f"HTTP/1.1 503 no {secret}\r\n{close}",
        "no status line": f"{secret} is not known here\r\n\r\n",
        "wrong status": f"HTTP/1.1 {secret} no\r\n{close}",
        "header": f"HTTP/1.1 401 No\r\nContent-Type: {secret}\r\nWWW-Authenticate: {secret}\r\n{close}",
        "no header": f"HTTP/1.1 401 No\r\n{secret}\r\n\x00{secret}: \x01\r\n{close}",
        "location": f"HTTP/1.1 302 Found\r\nLocation: https://login.example.test/?a={secret}&b={percents(secret)}\r\n{close}",
        "retry": f"HTTP/1.1 503 No\r\nRetry-After: {secret}\r\n{close}",
        "chunk": f"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n{secret}\r\n",
        "encoding": f"HTTP/1.1 400 No\r\nContent-Encoding: {secret}\r\nContent-Type: application/json\r\n{close}",
        "length": f"HTTP/1.1 400 No\r\nContent-Length: {secret}\r\n\r\n",
        "json": json_answer(json.dumps({"message": "wrong", "error": f"the key {secret} is not known"})),
        "json escapes": json_answer(f'{{"message": "{escapes(secret)}", "error": "{escapes(secret)} is wrong"}}'),
        "page": json_answer(f"<html>{entities(secret)} {secret}").replace("application/json", "text/html"),
        "base64": json_answer(json.dumps({"error": b64encode(f"key={secret};".encode()).decode()})),
        "cut off": json_answer("{}" + " " * (65_530 - len(secret) // 2) + secret * 3),
    }  # fmt: skip


REFLECTED = sorted(reflected(""))


def configured(folder: Path, *, jenkins: LocalServer | str, hivel: LocalServer | str) -> Agent:
    agent = Agent.configured(folder, jenkins=jenkins, hivel=hivel)
    for name, token in (("hivel.token", HIVEL_TOKEN), ("jenkins.token", JENKINS_TOKEN)):
        (folder / name).write_text(token)
    return agent


def told(agent: Agent, **environment: str) -> str:
    """What a poll and a delivery say and store, and what verbs say of that."""
    texts: list[str] = []
    for verb in ("once", "once --json", "status", "status --json", "queue list", "queue show 1", "queue show 1 --json",
                 "check", "preview --since 2020-01-01"):  # fmt: skip
        done = agent.run(*verb.split(), **environment)
        assert "Traceback" not in done.stderr, done.stderr
        texts += done.stdout, done.stderr
    texts += (file.read_bytes().decode("latin-1") for file in agent.folder.glob("outbox.db*"))
    return "\n".join(texts)


def assert_nothing_secret(text: str, *secrets: str) -> None:
    found = {form for secret in secrets for form in spelled(secret) if form in text}
    assert not found, [text[max(0, text.find(form) - 200) :][:400] for form in found]


def test_hivel_sends_the_token_back(jenkins: LocalJenkins, jenkins_server: LocalServer, tmp_path: Path) -> None:
    jenkins.add_job("deploy/shop")
    jenkins.add_builds("deploy/shop", 40, repo=REPO)
    answers = itertools.cycle(REFLECTED)
    given: Counter[str] = Counter()

    def answer(_path: str, connection: Connection) -> bool:
        where = next(answers)
        connection.send(reflected(HIVEL_TOKEN)[where].encode("latin-1"))
        given[where] += 1
        return False

    with Scripted(answer) as hivel:
        agent = configured(tmp_path, jenkins=jenkins_server, hivel=hivel.url.rstrip("/"))
        (tmp_path / "jenkins.token").write_text(jenkins.token)
        process = agent.start()
        try:
            wait_until(lambda: min(given[where] for where in REFLECTED) > 1, "everything was answered", seconds=240)
            ready = httpx.get(re.findall(r"what=monitoring url=(\S+)", agent.log())[-1] + "/readyz").text
        finally:
            process.terminate()
            assert process.wait(120) == 0
        text = told(agent)
    assert_nothing_secret(text + ready + agent.log(), *SECRETS)
    assert "***" in ready + text, "what was sent back is shown, but for the secret"


@pytest.mark.parametrize("secret", [JENKINS_TOKEN, BASIC], ids=["token", "basic"])
def test_jenkins_sends_the_token_back(secret: str, hivel_server: LocalServer, tmp_path: Path) -> None:
    """As many controllers as there are such answers."""

    def answer(path: str, connection: Connection) -> bool:
        connection.send(reflected(secret)[REFLECTED[int(path.split("/")[1])]].encode("latin-1"))
        return False

    with Scripted(answer) as jenkins:
        agent = configured(tmp_path, jenkins=f"{jenkins.url}0/", hivel=hivel_server)
        text = agent.config.read_text()
        table = re.search(r"(?s)\[\[jenkins\]\].*?\n\n", text)
        assert table is not None
        for number in range(1, len(REFLECTED)):
            text += table[0].replace("main", f"number {number}").replace("/0/", f"/{number}/")
        agent.config.write_text(text)
        text = told(agent)
        assert {path.split("/")[1] for path in jenkins.paths} == set(map(str, range(len(REFLECTED))))
    assert_nothing_secret(text, *SECRETS)
    assert "***" in text, "what was sent back is shown, but for the secret"


@pytest.mark.parametrize("status", ["403 {password} {basic}", "{basic} {password}"])
def test_a_proxy_sends_its_password_back(status: str, tmp_path: Path) -> None:
    with Proxy({}, refuse_with=status.format(password=PASSWORD, basic=PROXY_BASIC)) as proxy:
        agent = configured(tmp_path, jenkins="https://jenkins.example.test/", hivel="https://hivel.example.test")
        url = proxy.url.replace("//", f"//someone:{percents(PASSWORD)}@")
        text = told(agent, https_proxy=url)
        assert proxy.requests
    assert_nothing_secret(text, *SECRETS)


@pytest.mark.parametrize("value", ["http://{}@", "http://{}@[", "{}@host:99999", "http://{}@ho st", "socks5://{}@host"])
def test_a_proxy_that_cannot_be_used_is_told_without_its_password(value: str, tmp_path: Path) -> None:
    agent = configured(tmp_path, jenkins="http://127.0.0.1:1/", hivel="https://127.0.0.1:1")
    done = agent.run("check", all_proxy=value.format(f"someone:{PASSWORD}"))
    assert "all_proxy" in done.stdout + done.stderr
    assert_nothing_secret(done.stdout + done.stderr, *SECRETS)
