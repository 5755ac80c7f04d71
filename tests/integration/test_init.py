"""``init``: from nothing to a tested configuration, asked for or given."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from agent.cli import init
from agent.config.file import load
from tests.integration.support import Agent
from tests.integration.terminal import Terminal
from tests.integration.test_terminal import is_harmless

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.sandbox.hivel import LocalHivel
    from agent.sandbox.jenkins import LocalJenkins
    from agent.sandbox.server import LocalServer

TOKEN = "sandbox-token"
ROOT = Path(__file__).parents[2]
SESSION = ROOT / "tests" / "data" / "init" / "session.txt"


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", "init", "--folder", str(folder), *arguments]
    clean = Agent(folder).environment()
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, env=clean | environment,
        check=False,
    )  # fmt: skip


@pytest.fixture
def told(jenkins_server: LocalServer, hivel_server: LocalServer) -> list[str]:
    return [
        "--hivel-url", hivel_server.url, "--jenkins-url", jenkins_server.url, "--jenkins-name", "main",
        "--username", "hivel-agent", "--since", "30d", "--job", "deploy/**", "--job", 're:a"b\\.c$',
    ]  # fmt: skip


TOKENS = {"HIVEL_API_TOKEN": TOKEN, "JENKINS_API_TOKEN": TOKEN}


def test_what_it_writes_is_tested_works_and_is_safe(
    tmp_path: Path, jenkins: LocalJenkins, hivel: LocalHivel, told: list[str]
) -> None:
    jenkins.add_job("deploy/shop")
    jenkins.add_job("lab/other")
    jenkins.add_builds("deploy/shop", 3, repo="https://github.example.test/acme/shop.git")
    folder = tmp_path / "etc" / "agent"
    done = run(folder, *told, **TOKENS)
    assert done.returncode == 0, done.stderr
    assert "accepts the token (no event was sent)" in done.stdout
    assert "1 of 2 visible job(s) match a rule" in done.stdout
    assert "without a rule: lab/other" in done.stdout
    assert hivel.deployments() == []
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {
        "config.toml": "0o640", "hivel.token": "0o600", "jenkins.token": "0o600", "web.password": "0o400",
    }  # fmt: skip
    settings = load(folder / "config.toml")
    assert [rule.job.text for rule in settings.rules] == ["deploy/**", 're:a"b\\.c$']
    assert TOKEN not in done.stdout + done.stderr + (folder / "config.toml").read_text()
    once = subprocess.run(
        [sys.executable, "-m", "agent", "once", "--config", str(folder / "config.toml")],
        capture_output=True, text=True, timeout=240, env=Agent(folder).environment(), check=False,
    )  # fmt: skip
    assert once.returncode == 0, once.stderr


def test_nothing_is_written_when_jenkins_or_hivel_say_no(tmp_path: Path, told: list[str]) -> None:
    done = run(tmp_path / "a", *told, **(TOKENS | {"HIVEL_API_TOKEN": "wrong"}))
    assert done.returncode == 1
    assert "the token is not accepted" in done.stdout
    assert "nothing was written; correct --hivel-token-file, or skip the checks with --no-test" in done.stderr
    assert not (tmp_path / "a").exists()
    assert run(tmp_path / "a", *told, "--no-test", **(TOKENS | {"HIVEL_API_TOKEN": "wrong"})).returncode == 0


def test_a_configuration_that_exists_is_overwritten_only_by_force_and_after_a_backup(
    tmp_path: Path, told: list[str]
) -> None:
    (tmp_path / "config.toml").write_text("# mine\n")
    (tmp_path / "config.toml").chmod(0o604)
    (tmp_path / "jenkins.token").write_text("former-token\n")
    (tmp_path / "jenkins.token").chmod(0o600)
    done = run(tmp_path, *told, "--no-test", **TOKENS)
    assert done.returncode == 1
    assert "exists already; --force overwrites it after a backup" in done.stderr
    assert (tmp_path / "config.toml").read_text() == "# mine\n"
    assert run(tmp_path, *told, "--no-test", "--force", **TOKENS).returncode == 0
    backups = {path.name.partition(".bak-")[0]: path for path in tmp_path.glob("*.bak-*")}
    told_of = {name: (path.read_text(), oct(path.stat().st_mode & 0o777)) for name, path in backups.items()}
    assert told_of == {"config.toml": ("# mine\n", "0o604"), "jenkins.token": ("former-token\n", "0o600")}
    assert load(tmp_path / "config.toml").rules


def test_without_a_question_it_writes_only_what_is_missing(tmp_path: Path, told: list[str]) -> None:
    assert run(tmp_path, *told, "--no-test", **TOKENS).returncode == 0
    assert run(tmp_path, *told, "--no-test", "--force", **TOKENS).returncode == 0
    assert list(tmp_path.glob("*.bak-*")) == [], "a backup of what stays the same says nothing"


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ({"HIVEL_API_TOKEN"}, "--hivel-token-file is missing; give it, or set HIVEL_API_TOKEN in the environment"),
        ({"JENKINS_API_TOKEN"}, "--jenkins-token-file is missing"),
        ({"--jenkins-url"}, "--jenkins-url is missing; without a terminal, init cannot ask for it"),
    ],
)
def test_without_a_terminal_it_says_what_is_missing(
    tmp_path: Path, told: list[str], missing: set[str], complaint: str
) -> None:
    pairs = list(zip(told[::2], told[1::2], strict=True))
    arguments = [part for pair in pairs if pair[0] not in missing for part in pair]
    done = run(tmp_path / "a", *arguments, **{name: value for name, value in TOKENS.items() if name not in missing})
    assert done.returncode == 1
    assert complaint in done.stderr


def test_a_wrong_answer_names_the_option_without_a_traceback(tmp_path: Path, told: list[str]) -> None:
    told[told.index("--since") + 1] = "sometime"
    done = run(tmp_path / "a", *told, **TOKENS)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: --since: 'sometime'")


# ---- on a terminal


class Init(Terminal):
    """`init` into ``folder/agent``, with what its user answers to get to some question."""

    def __init__(self, folder: Path, jenkins: str, hivel: str, *arguments: str) -> None:
        self.folder = folder / "agent"
        self.jenkins, self.hivel = jenkins, hivel
        where = () if "--config" in arguments else ("--folder", str(self.folder))
        temporary = folder / "tmp"
        temporary.mkdir(exist_ok=True)
        super().__init__("init", *where, *arguments, env=Agent(folder).environment() | {"TMPDIR": str(temporary)})

    def answers(self) -> list[tuple[str, str]]:
        """One for each question, in their order."""
        return [
            ("Hivel address", self.hivel), ("Hivel API key", TOKEN), ("Jenkins address", self.jenkins),
            ("Controller name", "main"), ("Jenkins user", ""), ("API token of this user", TOKEN),
            ("Report builds", ""), ("Contact", "platform@example.test"), ("Rules to use", ""), ("Environment", ""),
            ("Use these rules", ""),
        ]  # fmt: skip

    def answer_up_to(self, question: str) -> None:
        """Every question before this one."""
        for text, reply in self.answers():
            if text == question:
                return
            self.answer(text, reply)

    def answer_from(self, question: str) -> int:
        """This question and the rest; the exit code."""
        answers = self.answers()
        for text, reply in answers[[each for each, _ in answers].index(question) :]:
            self.answer(text, reply)
        return self.end()


@pytest.fixture
def filled(jenkins: LocalJenkins) -> LocalJenkins:
    for name in ("deploy/shop", "deploy/cart", "billing-release", "lab/other"):
        jenkins.add_job(name)
        jenkins.add_builds(name, 2, repo="https://github.example.test/acme/shop.git")
    return jenkins


@pytest.fixture
def terminal(
    tmp_path: Path, filled: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer
) -> Iterator[Init]:
    assert filled.has_job("lab/other")
    with Init(tmp_path, jenkins_server.url, hivel_server.url) as init:
        yield init


def test_a_session_is_the_one_of_the_documentation(terminal: Init) -> None:
    assert terminal.answer_from("Hivel address") == 0, terminal.shown
    shown = terminal.shown.replace(terminal.hivel, "https://app.hivel.ai")
    shown = shown.replace(terminal.jenkins, "https://jenkins.example.com").replace(str(terminal.folder), "~/agent")
    shown = "$ hivel-agent init --folder ~/agent\n" + re.sub(r" +$", "", shown, flags=re.MULTILINE).rstrip() + "\n"
    if os.environ.get("WRITE_GOLDEN"):
        SESSION.write_text(shown)
    assert shown == SESSION.read_text(), "WRITE_GOLDEN=1 writes it anew"
    page = (ROOT / "docs" / "command-line.md").read_text()
    assert f"```text\n{shown}```\n" in page


def test_what_a_session_writes_is_what_was_answered(terminal: Init) -> None:
    assert terminal.answer_from("Hivel address") == 0, terminal.shown
    assert TOKEN not in terminal.shown
    settings = load(terminal.folder / "config.toml")
    assert [rule.job.text for rule in settings.rules] == ["deploy/**", "billing-release"]
    assert (settings.hivel.url, settings.hivel.token.reveal()) == (terminal.hivel, TOKEN)
    controller = settings.controllers[0]
    assert (controller.name, controller.url, controller.username) == ("main", f"{terminal.jenkins}/", "hivel-agent")
    assert "(platform@example.test)" in controller.user_agent
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in terminal.folder.iterdir()} == {
        "config.toml": "0o640", "hivel.token": "0o600", "jenkins.token": "0o600", "web.password": "0o400",
    }  # fmt: skip


STOPS = [(Init.interrupt, place) for place in range(11)] + [(Init.end_of_input, place) for place in (0, 1, 10)]


@pytest.mark.parametrize(("stop", "place"), STOPS, ids=lambda value: getattr(value, "__name__", None))
def test_who_stops_at_a_question_leaves_nothing_behind(
    terminal: Init, stop: Callable[[Terminal], None], place: int
) -> None:
    question = terminal.answers()[place][0]
    terminal.answer_up_to(question)
    terminal.wait_for(question)
    stop(terminal)
    assert terminal.end() == 130
    assert "stopped; nothing was written" in terminal.shown
    assert "Traceback" not in terminal.shown
    assert not terminal.folder.exists()
    assert list((terminal.folder.parent / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("question", "wrong", "complaint"),
    [
        ("Hivel address", "app.hivel.ai", "is not a URL"),
        ("Hivel address", "https://u:p@app.hivel.ai", "contains credentials"),
        ("Jenkins address", "http://", "is not a URL"),
        ("Controller name", "a#b", "a name cannot be empty or contain #"),
        ("API token of this user", "two words", "does not contain a token"),
        ("Report builds", "soon", "'soon' is not a date"),
        ("Contact", "(nobody)", "cannot be sent in a header"),
        ("Rules to use", "7", "enter numbers from 1 to 2"),
        ("Environment", "{nothing}", "there is no field {nothing}"),
    ],
)
def test_a_malformed_answer_is_asked_for_again_and_nothing_else(
    terminal: Init, question: str, wrong: str, complaint: str
) -> None:
    terminal.answer_up_to(question)
    terminal.answer(question, wrong)
    terminal.wait_for(complaint)
    assert terminal.answer_from(question) == 0, terminal.shown
    assert load(terminal.folder / "config.toml").controllers[0].name == "main"


def test_a_pasted_page_is_asked_for_again_with_the_base_address_as_default(terminal: Init) -> None:
    terminal.answer_up_to("Jenkins address")
    terminal.answer("Jenkins address", f"{terminal.jenkins}/job/deploy/job/shop/")
    terminal.wait_for("is the address of a page of Jenkins")
    terminal.answer(f"Jenkins address [{terminal.jenkins}]", "")
    assert terminal.answer_from("Controller name") == 0
    assert load(terminal.folder / "config.toml").controllers[0].url == f"{terminal.jenkins}/"


def test_a_server_that_is_not_jenkins_is_named_and_can_be_kept(terminal: Init) -> None:
    terminal.answer_up_to("Jenkins address")
    terminal.answer("Jenkins address", terminal.hivel)
    terminal.wait_for("there is no Jenkins at this address")
    terminal.answer("What now?", "")
    assert terminal.answer_from("Jenkins address") == 0


def test_a_token_that_is_refused_is_asked_for_again(terminal: Init) -> None:
    terminal.answer_up_to("Hivel API key")
    terminal.answer("Hivel API key", "another-token")
    terminal.wait_for("the token is not accepted")
    terminal.answer("What now?", "a")
    assert terminal.answer_from("Hivel API key") == 0
    assert "another-token" not in terminal.shown
    assert load(terminal.folder / "config.toml").hivel.token.reveal() == TOKEN


def test_after_a_refused_token_the_user_can_be_another_one(terminal: Init) -> None:
    terminal.answer_up_to("Jenkins user")
    terminal.answer("Jenkins user", "nobody")
    terminal.answer("API token of this user", TOKEN)
    terminal.wait_for("error")
    terminal.answer("What now?", "b")
    assert terminal.answer_from("Jenkins user") == 0
    assert load(terminal.folder / "config.toml").controllers[0].username == "hivel-agent"


def test_a_permission_that_is_given_meanwhile_is_seen_when_it_checks_once_more(
    terminal: Init, filled: LocalJenkins
) -> None:
    names = ("deploy/shop", "deploy/cart", "billing-release", "lab/other")
    for name in names:
        filled.hide(name)
    terminal.answer_up_to("API token of this user")
    terminal.answer("API token of this user", TOKEN)
    terminal.wait_for("give the user Job/Read")
    for name in names:
        filled.show(name)
    terminal.answer("What now?", "c")
    terminal.wait_for("4 job(s) visible")
    assert terminal.answer_from("Report builds") == 0


def test_what_cannot_be_reached_now_can_be_kept(tmp_path: Path, filled: LocalJenkins) -> None:
    assert filled.has_job("lab/other")
    with Init(tmp_path, "http://127.0.0.1:9", "http://127.0.0.1:9") as terminal:
        for question in ("Hivel address", "Hivel API key", "Jenkins address", "Controller name", "Jenkins user",
                         "API token of this user"):  # fmt: skip
            terminal.answer(question, dict(terminal.answers())[question])
            if question not in ("Controller name", "Jenkins user"):
                terminal.wait_for("cannot connect" if "Hivel" in question else "no answer from")
                terminal.answer("What now?", "k")
        terminal.answer("Report builds", "")
        terminal.answer("Contact", "")
        terminal.answer("Jobs that deploy", "shop/**")
        terminal.answer("Another pattern", "")
        terminal.answer("Environment", "production")
        terminal.answer("Use these rules", "")
        assert terminal.end() == 0, terminal.shown
    settings = load(tmp_path / "agent" / "config.toml")
    assert [(rule.job.text, rule.environment.text) for rule in settings.rules] == [("shop/**", "production")]


def test_patterns_of_ones_own_are_held_against_the_jobs(terminal: Init) -> None:
    terminal.answer_up_to("Rules to use")
    terminal.answer("Rules to use", "o")
    terminal.answer("Jobs that deploy", "shop")
    terminal.wait_for("no visible job matches shop; there are")
    terminal.answer("What now?", "a")
    terminal.answer("Jobs that deploy", "deploy/s*")
    terminal.wait_for("1 job(s), such as deploy/shop")
    terminal.answer("Another pattern", "")
    terminal.answer("Environment", "production")
    terminal.wait_for("1 of 4 visible job(s) match a rule")
    terminal.answer("Use these rules", "n")
    terminal.answer("Rules to use", "2")
    terminal.answer("Environment", "")
    terminal.answer("Use these rules", "y")
    assert terminal.end() == 0
    assert [rule.job.text for rule in load(terminal.folder / "config.toml").rules] == ["billing-release"]


def test_without_rules_the_default_one_is_named(terminal: Init) -> None:
    terminal.answer_up_to("Rules to use")
    terminal.answer("Rules to use", "s")
    assert terminal.end() == 0
    assert 'without rules, builds of jobs that match "re:(?i)deploy" are deployments' in terminal.shown
    assert "[[deployment]]" not in (terminal.folder / "config.toml").read_text()


def test_names_of_jobs_do_not_steer_the_terminal(terminal: Init, filled: LocalJenkins) -> None:
    filled.add_job("deploy/\u202egnp.exe[red]")
    filled.add_job("release-\x9b2J")
    filled.add_builds("deploy/\u202egnp.exe[red]", 1, repo="https://github.example.test/acme/shop.git")
    assert terminal.answer_from("Hivel address") == 0, terminal.shown
    assert "\\u202egnp.exe[red]" in terminal.shown
    assert is_harmless(terminal.shown)


@pytest.fixture
def existing(tmp_path: Path, jenkins_server: LocalServer, hivel_server: LocalServer) -> Agent:
    (tmp_path / "agent").mkdir()
    return Agent.configured(tmp_path / "agent", jenkins=jenkins_server, hivel=hivel_server)


def test_what_exists_is_said_first_and_a_no_leaves_it_as_it_is(
    tmp_path: Path, existing: Agent, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    before = existing.config.read_bytes()
    with Init(tmp_path, jenkins_server.url, hivel_server.url) as terminal:
        terminal.wait_for(f"found {existing.config}: Hivel {hivel_server.url}, Jenkins main ({jenkins_server.url}/)")
        terminal.answer("What now? a = add a Jenkins to it, o = write a new one (after a backup), q = quit", "")
        assert terminal.end() == 130
    assert existing.config.read_bytes() == before
    assert sorted(path.name for path in existing.folder.iterdir()) == ["config.toml", "hivel.token", "jenkins.token"]


@pytest.mark.usefixtures("filled")
def test_a_new_configuration_has_the_old_one_as_defaults_and_as_a_backup(
    tmp_path: Path, existing: Agent, jenkins_server: LocalServer, hivel_server: LocalServer
) -> None:
    before = existing.config.read_bytes()
    with Init(tmp_path, jenkins_server.url, hivel_server.url) as terminal:
        terminal.answer("What now?", "o")
        terminal.answer("Hivel address", "")
        terminal.answer("Hivel API key", TOKEN)
        terminal.answer("Jenkins address", "")
        terminal.answer("Controller name", "")
        assert terminal.answer_from("Jenkins user") == 0, terminal.shown
        assert "only in the backup" in terminal.shown
    (backup,) = existing.folder.glob("config.toml.bak-*")
    assert backup.read_bytes() == before
    settings = load(existing.config)
    assert (settings.hivel.url, settings.controllers[0].name) == (hivel_server.url, "main")


# ---- one controller more


@pytest.fixture
def configured(tmp_path: Path, filled: LocalJenkins, jenkins_server: LocalServer, hivel_server: LocalServer) -> Agent:
    assert filled.has_job("lab/other")
    (tmp_path / "agent").mkdir()
    agent = Agent.configured(
        tmp_path / "agent", jenkins=jenkins_server, hivel=hivel_server, extra="# the end\n[status]\nUNSTABLE = 'failed'"
    )
    agent.config.chmod(0o640)
    return agent


def test_a_controller_is_added_and_the_rest_of_the_file_stays_byte_for_byte(configured: Agent) -> None:
    before = configured.config.read_bytes()
    url = load(configured.config).controllers[0].url
    with Init(configured.folder.parent, url, "", "--add-controller") as terminal:
        terminal.answer("Jenkins address", url)
        terminal.answer("Controller name", "main")
        terminal.wait_for("another controller already has the name 'main'")
        terminal.answer("Controller name", "a/b")
        terminal.wait_for("cannot be part of a file name")
        terminal.answer("Controller name", "mobile")
        terminal.answer("Jenkins user", "")
        terminal.answer("API token of this user", TOKEN)
        terminal.answer("Report builds", "7d")
        assert terminal.end() == 0, terminal.shown
        assert "mobile:deploy/shop#2" in terminal.shown, "what the rules that exist make of its builds"
    after = configured.config.read_bytes()
    assert after.startswith(before)
    assert configured.config.stat().st_mode & 0o777 == 0o640
    (backup,) = configured.folder.glob("config.toml.bak-*")
    assert (backup.read_bytes(), backup.stat().st_mode & 0o777) == (before, 0o640)
    token_file = configured.folder / "jenkins.mobile.token"
    assert token_file.stat().st_mode & 0o777 == 0o600
    first, second = load(configured.config).controllers
    assert (first.name, second.name, second.since) == ("main", "mobile", "7d")
    assert second.token is not None and second.token.path == token_file
    assert configured.run("check").returncode == 0


def test_a_controller_is_added_without_a_question(configured: Agent, jenkins_server: LocalServer) -> None:
    done = run(
        configured.folder, "--add-controller", "--jenkins-url", jenkins_server.url, "--jenkins-name", "mobile",
        "--username", "-", "--no-test",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [each.username for each in load(configured.config).controllers] == ["hivel-agent", None]
    again = run(configured.folder, "--add-controller", "--jenkins-url", jenkins_server.url, "--jenkins-name", "mobile")
    assert (again.returncode, again.stderr.count("another controller already has the name")) == (1, 1)


def test_no_controller_is_added_where_a_table_cannot_be_appended(tmp_path: Path) -> None:
    text = '[hivel]\nurl = "https://app.hivel.ai"\n'
    (tmp_path / "config.toml").write_text(f'jenkins = [{{ url = "https://jenkins.example.test" }}]\n{text}')
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    arguments = ["--add-controller", "--jenkins-url", "http://127.0.0.1:9", "--jenkins-name", "b", "--no-test"]
    done = run(tmp_path, *arguments, "--jenkins-token-file", str(tmp_path / "t"), **TOKENS)
    assert done.returncode == 1 and "cannot read" in done.stderr
    done = run(tmp_path, *arguments, **TOKENS)
    assert done.returncode == 1, done.stdout
    assert f"nothing was written: with one more [[jenkins]] table, {tmp_path / 'config.toml'}" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_controller_is_added_to_nothing_only_after_a_configuration_was_written(tmp_path: Path) -> None:
    done = run(tmp_path, "--add-controller")
    assert done.returncode == 1
    assert "config.toml does not exist; write a configuration first: hivel-agent init" in done.stderr


# ---- where it is a service


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if ``folder/config.toml`` were the one of the unit."""
    file = tmp_path / "etc" / "config.toml"
    monkeypatch.setattr(init, "SYSTEM_FILE", file)
    for name, value in TOKENS.items():
        monkeypatch.setenv(name, value)
    return file


def called(*arguments: str) -> str:
    done = CliRunner().invoke(init.command, [*arguments, "--no-test", "--non-interactive"])
    assert done.exit_code == 0, done.output
    return done.output


def test_for_the_service_no_token_file_is_named_and_the_unit_is_what_comes_next(system: Path) -> None:
    shown = called("--folder", str(system.parent), "--jenkins-url", "https://jenkins.example.test")
    assert "systemctl enable --now hivel-agent" in shown and "journalctl -u hivel-agent -f" in shown
    assert "token_file" not in system.read_text() and "[outbox]" not in system.read_text()
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in system.parent.iterdir()} == {
        "config.toml": "0o640", "hivel.token": "0o600", "jenkins.token": "0o600", "web.password": "0o400",
    }  # fmt: skip


def test_a_second_token_of_the_service_comes_with_the_line_that_the_unit_needs(system: Path) -> None:
    folder = ("--folder", str(system.parent))
    called(*folder, "--jenkins-url", "https://jenkins.example.test")
    shown = called(
        *folder, "--add-controller", "--jenkins-url", "https://mobile.example.test", "--jenkins-name", "mobile"
    )
    assert f"LoadCredential=jenkins-token.mobile:{system.parent}/jenkins.mobile.token" in shown
    assert "systemctl edit hivel-agent" in shown and "systemctl restart hivel-agent" in shown
    assert "token_file" not in system.read_text()
    assert (system.parent / "jenkins.mobile.token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent", "completion", shell], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0
    assert "_HIVEL_AGENT_COMPLETE" in done.stdout


def test_the_password_of_the_pages_is_random_and_never_replaced(tmp_path: Path, told: list[str]) -> None:
    passwords = []
    for name in ("one", "other"):
        assert run(tmp_path / name, *told, "--no-test", **TOKENS).returncode == 0
        passwords.append((tmp_path / name / "web.password").read_text().strip())
    assert len(set(passwords)) == 2 and all(len(each) == 20 for each in passwords)
    assert run(tmp_path / "one", *told, "--no-test", "--force", **TOKENS).returncode == 0
    assert (tmp_path / "one" / "web.password").read_text().strip() == passwords[0]
