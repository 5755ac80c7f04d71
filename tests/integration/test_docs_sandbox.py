"""The sandbox page, typed as it is written: the commands run, and their results are those that the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer

PAGE = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")
WALK = PAGE.partition("## Faults of the local Hivel")[0]
BLOCK = re.compile(r"(?ms)^```(\w+)\n(.*?)^```$")
RESULT = re.compile(r"\d+ delivered|\d+ failed|\d+ of \d+ event\(s\) will be sent again")
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


def test_the_commands_of_the_sandbox_page_have_the_results_that_it_shows(
    hivel_server: LocalServer, tmp_path: Path
) -> None:
    with LocalServer(LocalJenkins.recorded().app) as jenkins_server:
        addresses = {"http://127.0.0.1:8090": hivel_server.url, "http://127.0.0.1:8091": jenkins_server.url}
        reader = Reader(tmp_path, addresses)
        for kind, text in BLOCK.findall(WALK):
            if kind == "toml":
                reader.save(text)
            elif "sandbox hivel" not in text:  # the two servers run in this process
                for line in text.splitlines():
                    reader.type(line)
    assert reader.seen == ["8 delivered", "7 failed", "7 of 7 event(s) will be sent again", "15 delivered", "0 failed"]
