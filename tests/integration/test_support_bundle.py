"""A support bundle is made whatever is broken, and no file of it has a secret."""

from __future__ import annotations

import os
import stat
import tarfile
from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from agent.sandbox.hivel import Fault
from tests.integration.support import REPO, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from tests.integration.support import Agent

SECRET = "T0ken/9f8e+7d6c5b4a32"
SPELLINGS = (
    SECRET,
    quote(SECRET, safe=""),
    SECRET.replace("/", "\\/"),
    SECRET.replace("+", "\\u002b"),
    SECRET.replace("/", "&#47;"),
    b64encode(f"hivel-agent:{SECRET}".encode()).decode(),
)
NAMES = ["versions.json", "config.toml", "status.json", "failures.json", "files.txt", "log.txt"]


def bundle(agent: Agent, **environment: str) -> dict[str, str]:
    target = agent.folder / "bundle.tar.gz"
    done = agent.run("support-bundle", "--output", str(target), **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()[:6]] == NAMES
    assert "Read it before you send it" in done.stdout
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    found = {}
    with tarfile.open(target) as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            found[member.name.removeprefix("hivel-agent-support/")] = content.read().decode()
    assert list(found) == NAMES
    assert [(name, each) for name, text in found.items() for each in SPELLINGS if each in text] == []
    return found


def journal(agent: Agent, text: str, code: int = 0) -> str:
    """A PATH with a journalctl that prints this."""
    folder = agent.folder / "bin"
    folder.mkdir()
    (folder / "lines").write_text(text)
    (folder / "journalctl").write_text(f"#!/bin/sh\ncat {folder}/lines\nexit {code}\n")
    (folder / "journalctl").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def with_token(agent: Agent) -> None:
    (agent.folder / "jenkins.token").write_text(SECRET + "\n")


@pytest.mark.usefixtures("daemon")
def test_a_bundle_has_versions_configuration_status_and_reasons_and_no_parameters(
    agent: Agent, jenkins: LocalJenkins, hivel: LocalHivel
) -> None:
    hivel.fault(Fault(kind="status", status=400, match="#2"))
    jenkins.add_builds("deploy/shop", 1, repo=REPO, parameters={"ENVIRONMENT": "prod", "PIN": "0815-4711"})
    jenkins.add_builds("deploy/shop", 1, repo=REPO)
    wait_until(lambda: "event=delivered" in agent.log() and "event=failed" in agent.log(), "both are settled")
    found = bundle(agent)
    assert '"delivered": 1' in found["status.json"] and '"daemon_pid": null' not in found["status.json"]
    assert '"failed": 1' in found["failures.json"] and "400" in found["failures.json"]
    assert '"sqlite"' in found["versions.json"] and '"httpx"' in found["versions.json"]
    assert 'username = "hivel-agent"' in found["config.toml"]
    assert "-rw------- " in found["files.txt"] and "outbox.db" in found["files.txt"]
    assert "0815-4711" not in "".join(found.values())


def test_no_spelling_of_a_token_is_in_the_log_lines(agent: Agent) -> None:
    with_token(agent)
    path = journal(agent, "".join(f"2026-01-31 line {spelling} end\n" for spelling in SPELLINGS))
    assert bundle(agent, PATH=path)["log.txt"].count(" end\n") == len(SPELLINGS)


def test_a_journal_that_cannot_be_read_is_explained(agent: Agent) -> None:
    words = bundle(agent, PATH=journal(agent, "No journal files were opened\n", code=1))["log.txt"]
    assert "No journal files were opened" in words and "sudo journalctl --unit=hivel-agent" in words


def test_a_machine_without_a_journal_is_no_problem(agent: Agent) -> None:
    (agent.folder / "empty").mkdir()
    assert "sudo journalctl" in bundle(agent, PATH=str(agent.folder / "empty"))["log.txt"]


def test_a_bundle_is_made_without_an_outbox(agent: Agent) -> None:
    found = bundle(agent)
    assert "not available: there is no outbox" in found["status.json"]
    assert not agent.outbox.exists()


@pytest.mark.parametrize("content", [b"SQLite format 3\0" + b"\xff" * 5000, b"no outbox", b""])
def test_a_bundle_is_made_of_a_damaged_outbox_and_leaves_it_as_it_is(agent: Agent, content: bytes) -> None:
    agent.outbox.write_bytes(content)
    found = bundle(agent)
    assert len(found["status.json"]) > 20
    if content:
        assert found["status.json"].startswith("not available: ")
        assert agent.outbox.read_bytes() == content


@pytest.mark.parametrize(
    "wrong",
    [
        "[[[",
        "unknown = 1\n",
        f'token = "{SECRET}"\n',
        f'# {SECRET}\nurl = "https://user:{SECRET}@host"\n',
        "\0\0",
        f"{SECRET}\n",
        'outbox = "text"\n',
    ],
)
def test_a_bundle_is_made_with_a_wrong_configuration(agent: Agent, wrong: str) -> None:
    with_token(agent)
    agent.config.write_text(wrong + agent.config.read_text())
    found = bundle(agent, PATH=journal(agent, f"first {SECRET}\nsecond\n"))
    assert found["config.toml"].startswith("# error: ")
    assert 'username = "hivel-agent"' in found["config.toml"]
    assert found["status.json"].startswith("not available: ")


def test_the_outbox_is_looked_at_even_if_another_table_is_wrong(agent: Agent) -> None:
    assert agent.run("once").returncode == 0
    agent.config.write_text(agent.config.read_text() + "\n[unknown]\n")
    assert '"counts"' in bundle(agent)["failures.json"]


def test_a_bundle_is_made_without_any_configuration(agent: Agent) -> None:
    agent.config.unlink()
    assert "the file does not exist" in bundle(agent)["config.toml"]


def test_tokens_and_passwords_of_the_environment_are_hidden(agent: Agent) -> None:
    path = journal(agent, f"first {SECRET}\nsecond pa55word-of-proxy\n")
    proxy = "http://user:pa55word-of-proxy@127.0.0.1:1"
    assert "pa55word-of-proxy" not in bundle(agent, PATH=path, HIVEL_API_TOKEN=SECRET, HTTPS_PROXY=proxy)["log.txt"]


def test_a_url_for_notifications_is_hidden(agent: Agent) -> None:
    (agent.folder / "notify.url").write_text("https://chat.example.com/hooks/Zx81-0123456789abcdef\n")
    agent.config.write_text(agent.config.read_text() + '\n[notify]\nurl_file = "notify.url"\n')
    path = journal(agent, "first https://chat.example.com/hooks/Zx81-0123456789abcdef\nPOST Zx81-0123456789abcdef\n")
    assert "Zx81" not in "".join(bundle(agent, PATH=path).values())


def test_a_folder_can_be_written_instead_and_nothing_is_replaced(agent: Agent, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    assert agent.run("support-bundle", "--directory", str(target)).returncode == 0
    assert sorted(path.name for path in target.iterdir()) == sorted(NAMES)
    assert {stat.S_IMODE(path.stat().st_mode) for path in target.iterdir()} == {0o600}
    for option in ("--directory", "--output"):
        again = agent.run("support-bundle", option, str(target))
        assert again.returncode == 1 and "already exists" in again.stderr
