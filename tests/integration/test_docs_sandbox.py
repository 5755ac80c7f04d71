"""The sandbox page, typed as it is written: the commands run, and their results are those that the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.jenkins.local import wall_clock_ms
from agent.sandbox.platforms import LocalPlatform
from agent.sandbox.platforms.playing import Playing
from agent.sandbox.server import LocalServer
from tests import webhooks
from tests.integration.hooked import Hooked

PAGE = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")
WALK, REPAIR = PAGE.partition("## Faults of the local Hivel")[0].split("## Webhooks and gap repair")
BLOCK = re.compile(r"(?ms)^```(\w+)\n(.*?)^```$")
RESULT = re.compile(r"\d+ delivered|\d+ failed|\d+ missing|\d+ already known|\d+ of \d+ event\(s\) will be sent again")
COMMAND = str(Path(sys.executable).with_name("hivel-agent"))


class Reader:
    """Somebody who saves each configuration of the page and types each command."""

    def __init__(self, folder: Path, addresses: dict[str, str]) -> None:
        self.folder = folder
        self.addresses = addresses
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        self.seen: list[str] = []

    def save(self, text: str) -> None:
        for shown, real in self.addresses.items():
            text = text.replace(shown, real)
        with (self.folder / "sandbox.toml").open("a", encoding="utf-8") as file:
            file.write(text)

    def type(self, line: str) -> None:
        command, _, comment = (part.strip() for part in line.partition("#"))
        verb, *words = command.split()
        if verb == "export":
            self.environment |= dict(word.split("=", 1) for word in words)
            return
        process = subprocess.run(
            [COMMAND, *words], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        output = process.stdout + process.stderr
        for result in RESULT.findall(comment):
            assert result in output, f"{command}: the page says {result!r}\n{output}"
            self.seen.append(result)
        assert "Traceback" not in output
        assert process.returncode in (0, 1), output

    def follow(self, page: str) -> None:
        """Everything but the servers, which run in this process."""
        for kind, text in BLOCK.findall(page):
            if kind == "toml":
                self.save(text)
            elif "hivel-agent sandbox" not in text:
                for line in text.splitlines():
                    self.type(line)


def test_the_commands_of_the_sandbox_page_have_the_results_that_it_shows(
    hivel_server: LocalServer, tmp_path: Path
) -> None:
    with LocalServer(LocalJenkins.recorded().app) as jenkins_server:
        addresses = {"http://127.0.0.1:8090": hivel_server.url, "http://127.0.0.1:8091": jenkins_server.url}
        reader = Reader(tmp_path, addresses)
        reader.follow(WALK)
    assert reader.seen == ["8 delivered", "7 failed", "7 of 7 event(s) will be sent again", "15 delivered", "0 failed"]


@pytest.mark.parametrize("kind", ["github", "azure_devops"])
def test_gap_repair_can_be_tried_as_the_page_says(hivel_server: LocalServer, tmp_path: Path, kind: Any) -> None:
    """With its first configuration, and with the one for platforms that need a rule."""
    platform = LocalPlatform(kind)
    Playing(platform, "acme/shop").begin(5, wall_clock_ms())
    with LocalServer(platform.app) as server:
        reader = Reader(tmp_path, {"http://127.0.0.1:8090": hivel_server.url, "http://127.0.0.1:8092": server.url})
        reader.environment |= {"HIVEL_AGENT_CONFIG": "sandbox.toml", "HIVEL_API_TOKEN": "sandbox-token"}
        reader.save('[hivel]\nurl = "http://127.0.0.1:8090"\n[outbox]\npath = "sandbox-outbox.db"\n')
        reader.type("hivel-agent once")
        begin, _, rest = REPAIR.partition("Add this to")
        first, other = re.findall(r"(?ms)^```toml\n.*?^```$", rest)
        others = "For `circleci` and `azure_devops`, this in its place:"
        assert others in rest
        reader.follow(begin + rest.replace(first if kind == "azure_devops" else other, ""))
    assert reader.seen == [
        "5 missing", "0 already known", "5 missing", "0 already known", "0 missing", "5 already known",
        "5 delivered", "0 failed",
    ]  # fmt: skip


def test_the_platform_sends_its_webhooks_and_loses_some(
    jenkins_server: LocalServer, hivel_server: LocalServer, tmp_path: Path
) -> None:
    agent = Hooked.opened(tmp_path, jenkins=jenkins_server, hivel=hivel_server)
    process = agent.begin()
    try:
        said: list[str] = []
        platform = LocalPlatform("github", secret=webhooks.SECRET)
        playing = Playing(platform, "acme/shop", url=f"{agent.url}/v1/hooks/github", lose=2, tell=said.append)
        for i in range(5):
            playing.play(wall_clock_ms() + i)
    finally:
        process.kill()
        process.wait()
    assert [": 202 " in each for each in said] == [True, False, True, False]
    assert [each for each in said if "its webhooks are lost" in each] == said[1::2]


def test_the_api_of_a_platform_is_served_by_the_command(tmp_path: Path) -> None:
    with subprocess.Popen(
        [COMMAND, "sandbox", "platform", "github", "--port", "0", "--deployments", "3"],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = process.stdout.readline()
        url = re.findall(r"http://\S+/", said)[0]
        answer = httpx.get(f"{url}repos/acme/shop/deployments", headers={"Authorization": "Bearer sandbox-token"})
        process.terminate()
    assert said.startswith("API of github, token sandbox-token: ")
    assert len(answer.json()) == 3
