"""The sandbox page, typed as it is written: the commands run, and their results are those that the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

PAGE = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?ms)^```(\w+)\n(.*?)^```$")
COMMAND = Path(sys.executable).with_name("hivel-agent")


def test_the_walk_of_the_sandbox_page_ends_as_the_page_says(
    recorded_server: LocalServer, hivel_server: LocalServer, tmp_path: Path
) -> None:
    walk = PAGE.partition("## Making the local Hivel misbehave")[0]
    blocks = [(kind, text) for kind, text in BLOCK.findall(walk) if "sandbox hivel" not in text]
    assert [kind for kind, _ in blocks] == ["toml", "sh", "toml", "sh"]
    file = tmp_path / "sandbox.toml"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    checked = []
    for kind, text in blocks:
        if kind == "toml":
            here = text.replace("http://127.0.0.1:8090", hivel_server.url)
            here = here.replace("http://127.0.0.1:8091", recorded_server.url)
            file.write_text((file.read_text() if file.exists() else "") + here)
            continue
        for line in text.splitlines():
            command, _, promise = (part.strip() for part in line.partition("#"))
            if command.startswith("export "):
                environment |= dict(word.split("=", 1) for word in command.split()[1:])
                continue
            words = [str(COMMAND), *command.split()[1:]]
            done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            said = done.stdout + done.stderr
            for number in re.findall(r"\d+ (?:delivered|failed)|\d+ of \d+ event\(s\) will be sent again", promise):
                assert number in said, f"{command}: the page promises {number!r}\n{said}"
                checked.append(number)
    assert len(checked) == 5
