"""Wrong configurations as people write them, and the messages that they get: the whole text, word by word."""

from __future__ import annotations

import os
import tempfile
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import given

from agent.config.credentials import Token, TokenError
from agent.config.file import ConfigError, load
from agent.config.positions import Positions
from agent.config.reading import ReadError, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = "/etc/hivel-agent"
FILES = {"hivel.token": "hivel-0123456789", "jenkins.token": "jenkins-0123456789", "empty.token": "\n"}
HIVEL = '[hivel]\nurl = "https://app.hivel.ai"\ntoken_file = "hivel.token"\n\n'
JENKINS = '[[jenkins]]\nurl = "https://ci.acme.test"\nusername = "bot"\ntoken_file = "jenkins.token"\n\n'

TEN: dict[str, tuple[str | bytes, str]] = {
    "nothing quoted": (
        HIVEL + "[[jenkins]]\nurl = https://ci.acme.test\n",
        f'{FOLDER}/config.toml:6: not valid TOML: Invalid value; write text in straight quotes: key = "text"',
    ),
    "one bracket": (
        HIVEL + JENKINS.replace("[[jenkins]]", "[jenkins]"),
        f"{FOLDER}/config.toml:5: [jenkins]: there can be several such tables; write [[jenkins]] in double brackets",
    ),
    "the token itself": (
        HIVEL.replace('token_file = "hivel.token"', 'token = "s3cr3t-0123456789"') + JENKINS,
        f"{FOLDER}/config.toml:3: hivel.token: unknown key; the configuration does not contain the token: write "
        'it to a file that only the agent can read, and set token_file = "FILE"',
    ),
    "misspelt keys and tables": (
        HIVEL + JENKINS.replace("username", "user") + '[deployments]\njob = "deploy/**"\n\n[outbox]\nkeep = "30d"\n',
        "3 errors in the configuration:\n"
        f"  {FOLDER}/config.toml:7: jenkins[0].user: unknown key; did you mean username?\n"
        f"  {FOLDER}/config.toml:10: deployments: unknown table; did you mean [[deployment]]?\n"
        f"  {FOLDER}/config.toml:14: outbox.keep: unknown key; use one of path, keep_delivered, keep_deployments, "
        "keep_ids, max_size, url, password_file, ca_file, "
        "client_certificate, client_key, lease",
    ),
    "wrong types": (
        HIVEL + JENKINS.rstrip() + '\npoll_interval = 15\nconcurrency = "8"\nroots = "services"\n',
        "3 errors in the configuration:\n"
        f"  {FOLDER}/config.toml:9: jenkins[0].poll_interval: must be text in quotes, not a whole number; write it "
        'like poll_interval = "15"\n'
        f"  {FOLDER}/config.toml:10: jenkins[0].concurrency: must be a whole number without quotes, not text\n"
        f"  {FOLDER}/config.toml:11: jenkins[0].roots: must be a list in brackets, not text; write it like "
        '["services"]',
    ),
    "durations in words": (
        HIVEL + JENKINS.rstrip() + '\npoll_interval = "15"\nsince = "7 days"\n\n[delivery]\nbackoff_max = "1 week"\n',
        "3 errors in the configuration:\n"
        f"  {FOLDER}/config.toml:9: jenkins[0].poll_interval: '15' is not a duration; the unit is missing: 15s, 15m, "
        "15h or 15d\n"
        f"  {FOLDER}/config.toml:10: jenkins[0].since: '7 days' is not a date, a time or a duration; write 7d\n"
        f"  {FOLDER}/config.toml:13: delivery.backoff_max: '1 week' is not a duration; write 7d",
    ),
    "an empty token file and one that is not there": (
        HIVEL.replace("hivel.token", "empty.token") + JENKINS + '[intake]\ntoken_file = "intake.token"\n',
        "2 errors in the configuration:\n"
        f"  {FOLDER}/config.toml:3: hivel.token_file: {FOLDER}/empty.token is empty; write the token as its only "
        "line\n"
        f"  {FOLDER}/config.toml:11: intake.token_file: cannot read {FOLDER}/intake.token: No such file or directory",
    ),
    "saved by an old editor": (
        (HIVEL + JENKINS).encode() + "# Jürgen's jobs\n".encode("cp1252"),
        f"{FOLDER}/config.toml:10: line 10 is not UTF-8 (byte 0xFC, which is ü in Windows-1252); save the file as "
        "UTF-8",
    ),
    "rules": (
        HIVEL + JENKINS + '[[deployment]]\njob = "re:deploy/("\n\n[[deployment]]\njob = "deploy/**"\n'
        'environment = "{env}"\ncheckouts = "all"\n',
        "3 errors in the configuration:\n"
        f"  {FOLDER}/config.toml:11: deployment[0].job: 're:deploy/(' is not a regular expression: missing ), "
        "unterminated subpattern at position 7\n"
        f"  {FOLDER}/config.toml:15: deployment[1].environment: '{{env}}': there is no field {{env}}; use "
        "{params.NAME}, {job}, {job.environment}, {number}, {repo_url}, {branch}, {commit}\n"
        f'  {FOLDER}/config.toml:16: deployment[1].checkouts: \'all\' is not valid here; write "each" or "one"',
    ),
    "half of it": (
        '[hivel]\ntoken_file = "hivel.token"\n\n[[jenkins]]\nname = "main"\nurl = "ci.acme.test:8080"\n\n'
        '[[jenkins]]\nname = "main"\nurl = "https://bot:s3cr3t-0123456789@ci"\n',
        "4 errors in the configuration:\n"
        f"  {FOLDER}/config.toml:1: hivel.url: this key is required\n"
        f"  {FOLDER}/config.toml:6: jenkins[0].url: 'ci.acme.test:8080' is not a URL; write it like https://host or "
        "http://host:8080/jenkins/\n"
        f"  {FOLDER}/config.toml:9: jenkins[1].name: another controller has the name 'main'; give each its own name\n"
        f"  {FOLDER}/config.toml:10: jenkins[1].url: contains credentials, or an @; write credentials in a token "
        "file",
    ),
}


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("HIVEL_", "JENKINS_", "CREDENTIALS_DIRECTORY")):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(("text", "message"), TEN.values(), ids=TEN)
def test_a_wrong_configuration_gets_all_its_errors_with_lines_and_advice(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    file = tmp_path / "config.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as error:
        load(file)
    assert str(error.value).replace(str(tmp_path), FOLDER) == message
    assert "s3cr3t" not in str(error.value)


def test_no_configuration_names_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "absent.toml"
    words = 'to create it, run "hivel-agent init", or give a file with --config'
    with pytest.raises(ConfigError) as error:
        load(file)
    assert str(error.value) == f"{file}: the file does not exist; {words}"
    monkeypatch.setenv("HIVEL_AGENT_CONFIG", str(file))
    with pytest.raises(ConfigError, match="it is the value of HIVEL_AGENT_CONFIG"):
        load(file)


def test_an_error_can_be_read_by_a_program(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[hivel]\n" + JENKINS)
    with pytest.raises(ConfigError) as error:
        load(file, tokens=False)
    [problem] = error.value.problems
    assert (problem.file, problem.line, problem.key, problem.problem) == (
        file, 1, "hivel.url", "this key is required",
    )  # fmt: skip


# ---- files of another user


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder that this test's user owns; within, the files that nobody else may read cannot be read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def readable_by_owner_only(path: Path, content: str) -> None:
    path.write_text(content)
    path.chmod(0o600 if os.geteuid() == 0 else 0o000)


@contextmanager
def unprivileged() -> Iterator[None]:
    """root reads everything; so be somebody else for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_of_another_user_is_told_with_its_owner_and_what_to_run() -> None:
    with as_nobody() as folder:
        config, token = folder / "config.toml", folder / "a token"
        readable_by_owner_only(config, HIVEL)
        readable_by_owner_only(token, "s3cr3t-0123456789")
        owner, mode = f"{config.owner()}:{config.group()}", config.stat().st_mode & 0o777
        with unprivileged(), pytest.raises(ConfigError) as wrong:
            load(config)
        with unprivileged(), pytest.raises(TokenError) as unusable:
            Token.from_file(token)
    said = f"Permission denied: it belongs to {owner} with mode {mode:04o}, and you are user "
    assert str(wrong.value).startswith(f"{config}: cannot be read: {said}")
    assert str(unusable.value).startswith(f"cannot read {token}: {said}")
    assert str(unusable.value).endswith(f" '{token}'") and "sudo chown " in str(unusable.value)


def test_a_folder_that_may_not_be_entered_is_named_instead_of_the_file() -> None:
    with as_nobody() as folder:
        closed = folder / "closed"
        closed.mkdir()
        (closed / "token").write_text("s3cr3t-0123456789")
        closed.chmod(0o700 if os.geteuid() == 0 else 0o000)
        with unprivileged(), pytest.raises(ReadError, match=f": {closed} belongs to .* run the command as the owner"):
            read_text(closed / "token")
        closed.chmod(0o700)


# ---- lines of keys

NAMES = st.text("abz_-09", min_size=1, max_size=5)
VALUES = st.sampled_from(
    ["1", '"a # b"', "'[x]'", '"""\n[no]\nkey = 1 "\n"""', "'''\nb = 2\n'''", "[1, # [\n  2,\n]", '{ a = "}" }']
)  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(["[", "[["]), NAMES, st.dictionaries(NAMES, VALUES, max_size=3)), max_size=6))
def test_the_line_of_every_key_is_found(tables: list[tuple[str, str, dict[str, str]]]) -> None:
    lines: list[str] = []
    expected: dict[str, int] = {}
    kinds: dict[str, list[str]] = {}
    for brackets, name, keys in tables:
        if name in kinds and (brackets == "[" or kinds[name][0] == "["):
            continue
        kinds.setdefault(name, []).append(brackets)
        table = name if brackets == "[" else f"{name}[{len(kinds[name]) - 1}]"
        expected[table] = len(lines) + 1
        lines.append(f"{brackets}{name}{brackets.replace('[', ']')} # a table")
        for key, value in keys.items():
            expected[f"{table}.{key}"] = len(lines) + 1
            lines += f"{key} = {value}\n".splitlines()
        lines.append("")
    text = "\n".join(lines)
    tomllib.loads(text)
    positions = Positions(text)
    assert {key: positions.line(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("jenkins", None), ("jenkins[0]", 1), ("jenkins[0].url", 1), ("jenkins[1]", 3), ("jenkins[1].roots[2]", 4),
        ("jenkins[1].ca_file, client_key", 5), ("[intake]", 6), ("intake.teams.shop.token_file", 7), ("a.b.c", 8),
        ("environments.pre prod", 10), ("hivel", None), ("hivel.url", None),
    ],
)  # fmt: skip
def test_a_key_that_is_not_written_has_the_line_of_its_table(key: str, line: int | None) -> None:
    text = (
        '[[jenkins]]\n\n[[jenkins]]\nroots = ["a", "b"]\nca_file = ""\n[intake]\nteams.shop = {token_file = 1}\n'
        "[a.b]\n[environments]\n'pre prod' = \"x\"\n"
    )
    tomllib.loads(text)
    assert Positions(text).line(key) == line
