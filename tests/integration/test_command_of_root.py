"""The command hivel-agent on a machine with the service: root runs verbs as the service's user, with its tokens."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = Path(__file__).parents[2] / "systemd" / "bin" / "hivel-agent"
TOKENS = {
    "hivel.token": "HIVEL_API_TOKEN",
    "jenkins.token": "JENKINS_API_TOKEN",
    "jenkins.eu-1.token": "JENKINS_API_TOKEN_EU_1",
    "intake.token": "HIVEL_AGENT_INTAKE_TOKEN",
    "notify.url": "HIVEL_AGENT_NOTIFY_URL",
    "outbox.password": "HIVEL_AGENT_OUTBOX_PASSWORD",
}


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Path]:
    """The command with another folder and user, and a program that prints its environment and its user."""
    with TemporaryDirectory() as folder:  # nobody may not look into pytest's
        Path(folder).chmod(0o755)
        program = Path(folder) / "program"
        program.write_text("#!/bin/sh\nenv\necho user=$(id -un)\n")
        program.chmod(0o755)
        text = COMMAND.read_text()
        for name, value in (("program", program), ("user", "nobody"), ("folder", tmp_path)):
            before = next(line for line in text.splitlines() if line.startswith(f"{name}="))
            text = text.replace(before, f"{name}={value}")
        command = tmp_path / "hivel-agent"
        command.write_text(text)
        yield command


@pytest.mark.root
def test_root_has_each_secret_of_the_service(command: Path, tmp_path: Path) -> None:
    for name in TOKENS:
        (tmp_path / name).write_text(f"content of {name}\n")
        (tmp_path / name).chmod(0o600)
    said = subprocess.run(
        ["sh", str(command), "status"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "user=nobody" in said
    assert {f"{variable}=content of {name}" for name, variable in TOKENS.items()} <= set(said)
