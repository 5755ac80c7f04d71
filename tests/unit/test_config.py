"""The configuration file: what its keys mean, and errors that name the key that is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from agent import __version__
from agent.config.file import DEFAULT_PATH, ConfigError, find_file, load
from agent.config.rules import DEFAULT_ENVIRONMENT, DEFAULT_JOBS, STAGE_ENVIRONMENT, Options
from agent.config.settings import DeliverySettings, Settings
from agent.config.sizes import describe_size, parse_size
from agent.model.status import Status

SECRET = "s3cr3t-0123456789"
HIVEL = '[hivel]\nurl = "https://app.hivel.ai"\ntoken_file = "hivel"\n'
JENKINS = '[[jenkins]]\nurl = "https://ci.example/jenkins/"\n'
JAN_31 = 1769817600000  # 2026-01-31T00:00:00Z

Load = Callable[[str], Settings]


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HIVEL_API_TOKEN",
        "JENKINS_API_TOKEN",
        "HIVEL_AGENT_NOTIFY_URL",
        "CREDENTIALS_DIRECTORY",
        "HIVEL_AGENT_CONFIG",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def settings(tmp_path: Path) -> Load:
    """Load a text as a file beside which lie the token files ``hivel`` and ``jenkins``."""
    (tmp_path / "hivel").write_text(f"{SECRET}-hivel\n", encoding="utf-8")
    (tmp_path / "jenkins").write_text(f"{SECRET}-jenkins\n", encoding="utf-8")

    def load_text(text: str) -> Settings:
        file = tmp_path / "config.toml"
        file.write_text(text, encoding="utf-8")
        return load(file)

    return load_text


def problem(settings: Load, text: str) -> str:
    """The error without the file's name, which every error starts with."""
    with pytest.raises(ConfigError) as error:
        settings(text)
    place, message = re.match(r"(?s).*?/config\.toml((?::\d+)?): (.*)", str(error.value)).groups()  # type: ignore[union-attr]
    assert len(error.value.problems) == 1, error.value
    assert place == f":{line}" if (line := error.value.problems[0].line) else place == ""
    return message


# ---- notifications


def test_notifications_are_off_without_their_table_and_have_defaults_with_it(settings: Load) -> None:
    assert settings(HIVEL + JENKINS).notify is None
    notify = settings(f'{HIVEL}{JENKINS}[notify]\ncommand = ["/bin/mail", "-s", "x y"]\n').notify
    assert notify is not None
    assert notify.command == ("/bin/mail", "-s", "x y") and notify.url is None
    assert (notify.after_ms, notify.repeat_ms, notify.timeout_ms) == (900_000, 86_400_000, 30_000)
    never = settings(f'{HIVEL}{JENKINS}[notify]\ncommand = ["/bin/mail"]\nrepeat = ""\n').notify
    assert never is not None and never.repeat_ms == 0


def test_the_url_for_notifications_comes_from_a_file_the_environment_or_a_credential(
    settings: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def url(text: str) -> str:
        notify = settings(f"{HIVEL}{JENKINS}[notify]\n{text}\n").notify
        assert notify is not None and notify.url is not None
        return notify.url.reveal()

    for name in ("file", "notify-url"):
        (tmp_path / name).write_text(f"https://chat.example/{name}\n", encoding="utf-8")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert url("") == "https://chat.example/notify-url"
    monkeypatch.setenv("HIVEL_AGENT_NOTIFY_URL", "https://chat.example/environment")
    assert url("") == "https://chat.example/environment"
    assert url('url_file = "file"') == "https://chat.example/file"


def test_a_url_for_notifications_that_cannot_be_read_keeps_nobody_from_starting(settings: Load) -> None:
    notify = settings(f'{HIVEL}{JENKINS}[notify]\nurl_file = "none"\n').notify
    assert notify is not None and notify.url is not None
    assert "none: No such file" in str(notify.url.problem)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "notify.command: no command and no URL: set command or url_file"),
        ("command = []", "notify.command: must be a list that starts with the full path of a program"),
        ('command = ["mail"]', "notify.command: must be a list that starts with the full path of a program"),
        ('command = "/bin/mail"', "notify.command: "),
        (
            'command = ["/bin/mail"]\nurl_file = "hivel"',
            "notify.url_file: cannot be set together with command",
        ),
        ('command = ["/bin/mail"]\ntimeout = "6m"', "notify.timeout: '6m' is longer than 5m"),
        ('command = ["/bin/mail"]\nafter = "0s"', "notify.after: '0s' must be longer than 0"),
        ('command = ["/bin/mail"]\nurl = "https://x"', "notify.url: unknown key"),
    ],
)
def test_what_is_wrong_with_notifications_is_said(settings: Load, text: str, complaint: str) -> None:
    assert problem(settings, f"{HIVEL}{JENKINS}[notify]\n{text}\n").startswith(complaint)


# ---- who may report


def test_a_team_is_a_token_alone_or_with_the_jobs_and_environments_that_it_may_report(settings: Load) -> None:
    read = settings(
        f'{HIVEL}{JENKINS}[intake.teams]\npay = "hivel"\n'
        'shop = {token_file = "jenkins", jobs = ["shop/**", "re:^x"], environments = ["staging", "test-*"]}\n'
    ).intake
    assert read is not None
    assert [(name, token.reveal()) for name, token in read.tokens] == [
        ("pay", f"{SECRET}-hivel"), ("shop", f"{SECRET}-jenkins"),
    ]  # fmt: skip
    pay, shop = read.teams["pay"], read.teams["shop"]
    assert pay.job("deploy/pay") and pay.environment("production") and str(pay) == "any job, any environment"
    assert [shop.job(name) for name in ("shop/a/b", "x", "shop", "ashop/a", "ax")] == [True, True, False, False, False]
    assert [shop.environment(name) for name in ("staging", "test-1", "production", "")] == [True, True, False, False]
    assert str(shop) == "jobs shop/** re:^x, environments staging test-*"


@pytest.mark.parametrize(
    ("team", "complaint"),
    [
        ("{}", "intake.teams.shop.token_file: this key is required"),
        (
            '{token_file = "hivel", job = ["a"]}',
            "intake.teams.shop.job: unknown key; did you mean jobs, or does it belong in [[deployment]] or "
            "[[example]]?",
        ),
        ('{token_file = "hivel", jobs = []}', "intake.teams.shop.jobs: is empty; to allow everything"),
        (
            '{token_file = "hivel", environments = [""]}',
            "intake.teams.shop.environments: is empty; to allow everything",
        ),
        ('{token_file = "hivel", jobs = ["re:("]}', "intake.teams.shop.jobs: 're:(' is not a regular expression"),
        ('{token_file = "gone"}', "intake.teams.shop.token_file: cannot read"),
        ('"gone"', "intake.teams.shop: cannot read"),
        (
            '{token_file = "hivel", jobs = "a"}',
            "intake.teams.shop.jobs: must be a list in brackets, not text; write it",
        ),
        ("7", "intake.teams.shop: must be text in quotes, not a whole number"),
    ],
)
def test_what_is_wrong_with_a_team_is_named(settings: Load, team: str, complaint: str) -> None:
    assert problem(settings, f"{HIVEL}{JENKINS}[intake.teams]\nshop = {team}\n").startswith(complaint)


# ---- who asks


def test_the_contact_is_part_of_what_jenkins_and_hivel_are_told(settings: Load) -> None:
    assert settings(HIVEL + JENKINS).hivel.user_agent == f"hivel-jenkins-agent/{__version__}"
    read = settings('[http]\ncontact = " https://wiki.example.com/hivel "\n' + HIVEL + JENKINS)
    expected = f"hivel-jenkins-agent/{__version__} (https://wiki.example.com/hivel)"
    assert (read.hivel.user_agent, read.controllers[0].user_agent) == (expected, expected)


@pytest.mark.parametrize(
    "contact", ["", "  ", "a (b)", "a\\r\\nX: y", "a\\tb", "jürgen", "a\\\\b", "a\\u0000", "x" * 201, ")"]
)
def test_a_contact_that_is_no_comment_of_a_header_is_refused(settings: Load, contact: str) -> None:
    assert "cannot be sent in a header" in problem(settings, f'[http]\ncontact = "{contact}"\n' + HIVEL + JENKINS)


# ---- the folders that are asked


def test_roots_are_full_names_of_folders_and_the_outermost_are_asked(settings: Load) -> None:
    assert settings(HIVEL + JENKINS).controllers[0].roots == ()
    read = settings(HIVEL + JENKINS + 'roots = ["a/b", "c", "a/b/d", "c", "c d", "a/bc"]\n').controllers[0]
    assert read.roots == ("a/b", "c", "a/b/d", "c", "c d", "a/bc")
    assert read.outermost_roots == ("a/b", "c", "c d", "a/bc")


@pytest.mark.parametrize("root", ["", "/a", "a/", "a//b", " ", "a/ /b", "a\\nb"])
def test_a_root_that_is_no_full_name_is_refused(settings: Load, root: str) -> None:
    assert problem(settings, HIVEL + JENKINS + f'roots = ["{root}"]\n').startswith("jenkins[0].roots: ")


# ---- what is read


def test_two_tables_are_enough_and_the_rest_has_defaults(settings: Load) -> None:
    read = settings(HIVEL + JENKINS)
    assert read.hivel.deployment_url == "https://app.hivel.ai/api/hooks/v2/deployment"
    assert read.hivel.token.reveal() == f"{SECRET}-hivel"
    (controller,) = read.controllers
    assert (controller.name, controller.url) == ("ci.example", "https://ci.example/jenkins/")
    assert (controller.username, controller.token) == (None, None)
    assert (controller.poll_interval_ms, controller.timeout_ms) == (15_000, 30_000)
    assert controller.report_from(JAN_31) == JAN_31
    (rule,) = read.rules
    assert (rule.job.text, rule.environment.text) == (DEFAULT_JOBS, DEFAULT_ENVIRONMENT)
    assert (rule.repo_url, rule.branch, rule.image) == (None, None, None)
    assert read.outbox == Path("/var/lib/hivel-agent/outbox.db")
    assert read.delivery == DeliverySettings(
        concurrency=8,
        timeout_ms=10_000,
        interval_ms=1_000,
        backoff_initial_ms=5_000,
        backoff_max_ms=900_000,
        canceled_spelling="canceled",
    )
    assert read.delivery == DeliverySettings()


def test_every_key_is_read(settings: Load, tmp_path: Path) -> None:
    read = settings(
        HIVEL
        + """
        [[jenkins]]
        name = "main"
        url = "http://[::1]:8080/ci"
        username = "bot"
        token_file = "jenkins"
        poll_interval = "1m30s"
        since = "7d"
        timeout = "2.5s"

        [[jenkins]]
        name = "second"
        url = "http://127.0.0.1:8081"

        [[deployment]]
        job = "re:^(?P<team>[^/]+)/deploy-(?P<app>.+)$"
        environment = "{params.ENVIRONMENT}|{team}"
        repo_url = "https://github.com/{team}/{app}"
        branch = "{params.BRANCH}|{branch}"
        image = "{team}/{app}:{params.VERSION}"

        [[deployment]]
        job = "release-*"
        environment = "production"

        [outbox]
        path = "state/outbox.db"

        [delivery]
        concurrency = 32
        timeout = "5s"
        interval = "250ms"
        backoff_initial = "100ms"
        backoff_max = "1h"
        canceled_spelling = "cancelled"
        """
    )
    first, second = read.controllers
    assert (first.name, first.url, first.username) == ("main", "http://[::1]:8080/ci/", "bot")
    assert first.token is not None
    assert first.token.reveal() == f"{SECRET}-jenkins"
    assert (first.poll_interval_ms, first.timeout_ms) == (90_000, 2_500)
    assert first.report_from(JAN_31) == JAN_31 - 7 * 86_400_000
    assert (second.name, second.url, second.token) == ("second", "http://127.0.0.1:8081/", None)
    deploy, release = read.rules
    assert deploy.job.match("shop/deploy-web") == {"team": "shop", "app": "web"}
    templates = (deploy.environment, deploy.repo_url, deploy.branch, deploy.image)
    assert [template.text for template in templates if template] == [
        "{params.ENVIRONMENT}|{team}",
        "https://github.com/{team}/{app}",
        "{params.BRANCH}|{branch}",
        "{team}/{app}:{params.VERSION}",
    ]
    assert (release.job.text, release.environment.text) == ("release-*", "production")
    assert read.outbox == tmp_path / "state" / "outbox.db"
    assert read.delivery == DeliverySettings(32, 5_000, 250, 100, 3_600_000, canceled_spelling="cancelled")


def test_the_keys_for_stages_repositories_environments_and_statuses_are_read(settings: Load) -> None:
    read = settings(
        HIVEL
        + JENKINS
        + """
        [[deployment]]
        job = "re:^(?P<team>[^/]+)/"
        stage = "re:^Deploy (to )?(?P<environment>.+)$"
        attempts = "each"
        without_stages = "none"
        repository = "**/shop"
        checkouts = "each"
        image = "{team}/{stage}"

        [repositories]
        libraries = ["**/deploy-lib", "re:-tools$"]
        url_form = "https"

        [environments]
        PROD = " production "

        [status]
        UNSTABLE = "success"
        NOT_BUILT = "canceled"
        """
    )
    (rule,) = read.rules
    assert rule.stage is not None
    assert rule.stage.match("Deploy to qa") == {"environment": "qa"}
    assert rule.environment.text == STAGE_ENVIRONMENT
    assert rule.repository is not None
    assert (rule.repository.text, rule.checkouts, rule.without_stages) == ("**/shop", "each", "none")
    assert rule.attempts == "each"
    assert [pattern.text for pattern in read.options.libraries] == ["**/deploy-lib", "re:-tools$"]
    assert read.options.url_form == "https"
    assert read.options.environment_map == {"prod": "production"}
    assert read.options.status_map == {"UNSTABLE": Status.SUCCESS, "NOT_BUILT": Status.CANCELED}


def test_without_those_keys_everything_is_as_it_was(settings: Load) -> None:
    read = settings(f"{HIVEL}{JENKINS}[[deployment]]\njob = 'x'\n")
    (rule,) = read.rules
    assert (rule.repository, rule.stage, rule.checkouts, rule.without_stages) == (None, None, "one", "build")
    assert rule.attempts == "last"
    assert read.options == Options()


@pytest.mark.parametrize(
    ("stage", "environment"),
    [
        ("Deploy*", DEFAULT_ENVIRONMENT),
        ("re:^Deploy (?P<where>.+)$", DEFAULT_ENVIRONMENT),
        ("re:^Deploy (?P<environment>.+)$", STAGE_ENVIRONMENT),
    ],
)
def test_the_pattern_of_a_stage_may_name_the_environment(settings: Load, stage: str, environment: str) -> None:
    (rule,) = settings(f"{HIVEL}{JENKINS}[[deployment]]\njob = '**'\nstage = '{stage}'\n").rules
    assert rule.environment.text == environment
    (rule,) = settings(f"{HIVEL}{JENKINS}[[deployment]]\njob = '**'\nstage = '{stage}'\nenvironment = 'x'\n").rules
    assert rule.environment.text == "x"


@pytest.mark.parametrize(
    ("url", "name", "asked"),
    [
        ("https://ci.example", "ci.example", "https://ci.example/"),
        ("https://ci.example/", "ci.example", "https://ci.example/"),
        ("https://ci.example/a/jenkins//", "ci.example", "https://ci.example/a/jenkins/"),
        ("http://ci.example:8080/jenkins", "ci.example:8080", "http://ci.example:8080/jenkins/"),
        ("http://[2001:db8::1]:8080/", "[2001:db8::1]:8080", "http://[2001:db8::1]:8080/"),
        ("http://[::1]/jenkins", "[::1]", "http://[::1]/jenkins/"),
    ],
)
def test_a_controller_is_called_after_its_host(settings: Load, url: str, name: str, asked: str) -> None:
    (controller,) = settings(f'{HIVEL}[[jenkins]]\nurl = "{url}"\n').controllers
    assert (controller.name, controller.url) == (name, asked)


@pytest.mark.parametrize(
    ("since", "moment"),
    [
        ('"now"', JAN_31),
        ('"24h"', JAN_31 - 86_400_000),
        ('"2026-01-30"', JAN_31 - 86_400_000),
        ('"2026-01-31T02:00:00+02:00"', JAN_31),
        ("2026-01-30", JAN_31 - 86_400_000),
        ("2026-01-31T01:00:00Z", JAN_31 + 3_600_000),
        ("2026-01-31T01:00:00", JAN_31 + 3_600_000),
    ],
)
def test_since_is_a_word_a_duration_or_a_date_of_toml(settings: Load, since: str, moment: int) -> None:
    (controller,) = settings(f"{HIVEL}{JENKINS}since = {since}\n").controllers
    assert controller.report_from(JAN_31) == moment


def test_a_date_of_toml_stays_a_date(settings: Load) -> None:
    (controller,) = settings(f"{HIVEL}{JENKINS}since = 2026-01-30T00:00:00Z\n").controllers
    assert controller.since == datetime(2026, 1, 30, tzinfo=UTC)
    assert isinstance(controller.since, date)


def test_the_tokens_may_come_from_the_environment(settings: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEL_API_TOKEN", "hivel-of-the-environment")
    monkeypatch.setenv("JENKINS_API_TOKEN", "jenkins-of-the-environment")
    read = settings(f'[hivel]\nurl = "https://app.hivel.in/"\n{JENKINS}username = "bot"\n')
    assert read.hivel.token.reveal() == "hivel-of-the-environment"
    assert read.controllers[0].token is not None
    assert read.controllers[0].token.reveal() == "jenkins-of-the-environment"


def test_the_tokens_may_come_from_systemd(settings: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "hivel-token").write_text("hivel-of-systemd", encoding="utf-8")
    (tmp_path / "jenkins-token").write_text("jenkins-of-systemd", encoding="utf-8")
    read = settings(f'[hivel]\nurl = "https://app.hivel.in/"\n{JENKINS}username = "bot"\n')
    assert read.hivel.token.reveal() == "hivel-of-systemd"
    assert read.controllers[0].token is not None
    assert read.controllers[0].token.reveal() == "jenkins-of-systemd"


def test_absolute_paths_stay_as_they_are(settings: Load) -> None:
    assert settings(f'{HIVEL}{JENKINS}[outbox]\npath = "/srv/outbox.db"\n').outbox == Path("/srv/outbox.db")


DAY = 86_400_000


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ("", (30 * DAY, 400 * DAY, 3650 * DAY)),
        ('keep_deployments = "90d"', (30 * DAY, 90 * DAY, 3650 * DAY)),
        ('keep_delivered = "7d"\nkeep_deployments = "7d"\nkeep_ids = "1000d"', (7 * DAY, 7 * DAY, 1000 * DAY)),
        ('keep_delivered = "500d"', (500 * DAY, 500 * DAY, 3650 * DAY)),  # as files had it before keep_deployments
    ],
    ids=["defaults", "shorter", "all", "not set and below keep_delivered"],
)
def test_how_long_deployments_are_kept(settings: Load, lines: str, kept: tuple[int, int, int]) -> None:
    read = settings(with_outbox(lines))
    assert (read.keep_delivered_ms, read.keep_deployments_ms, read.keep_ids_ms) == kept
    assert read.keep_deployments_ms >= read.keep_delivered_ms


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 0),
        ("5GB", 5_000_000_000),
        ("10 mb", 10_000_000),
        ("1.5GiB", 1_610_612_736),
        (" 20480KiB ", 20_971_520),
        ("20000KB", 20_000_000),
        ("1TB", 10**12),
        ("64MiB", 67_108_864),
        ("10000000 B", 10_000_000),
    ],
)
def test_the_size_of_the_outbox_is_bytes_and_0_without_a_limit(settings: Load, text: str, size: int) -> None:
    assert settings(with_outbox(f'max_size = "{text}"')).max_size_bytes == size
    assert settings(HIVEL + JENKINS).max_size_bytes == 0


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1 KB"), (812_400_000, "812.4 MB"), (5 * 10**9, "5 GB"), (10**15, "1000 TB")],
)
def test_a_size_in_words(size: int, text: str) -> None:
    assert describe_size(size) == text
    assert abs(parse_size(text) - size) <= size * 0.05


def test_no_token_is_in_what_settings_show_of_themselves(settings: Load) -> None:
    read = settings(f'{HIVEL}{JENKINS}username = "bot"\ntoken_file = "jenkins"\n')
    for shown in (str(read), repr(read), f"{read}", f"{read.hivel} {read.controllers}"):
        assert SECRET not in shown


# ---- what is refused


def short(value: str) -> str:
    """A name for a case: not the whole file, but what is expected of it."""
    return "file" if "\n" in value else value


def with_hivel(line: str) -> str:
    return f"[hivel]\n{line}\n{JENKINS}"


def with_jenkins(line: str) -> str:
    return f"{HIVEL}[[jenkins]]\n{line}\n"


def with_deployment(line: str) -> str:
    return f"{HIVEL}{JENKINS}[[deployment]]\n{line}\n"


def with_delivery(line: str) -> str:
    return f"{HIVEL}{JENKINS}[delivery]\n{line}\n"


def with_outbox(line: str) -> str:
    return f"{HIVEL}{JENKINS}[outbox]\n{line}\n"


def with_table(text: str) -> str:
    return f"{HIVEL}{JENKINS}{text}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('url = "https://db.example/outbox"', "outbox.url: is not like postgresql://"),
        ('url = "/var/lib/hivel-agent/outbox.db"', "outbox.url: is not like postgresql://"),
        ('url = "postgresql://db.example"', "outbox.url: is not like postgresql://"),
        ('url = "postgresql://[::1/outbox"', "outbox.url: is not like postgresql://"),
        ('url = "postgresql://db.example:abc/outbox"', "outbox.url: a port must be a number from 1 to 65535"),
        ('url = "postgresql://a:5432,b:99999/outbox"', "outbox.url: a port must be a number from 1 to 65535"),
        ('url = "postgresql://me:hunter22/x@db.example/outbox"', "outbox.url: is not like postgresql://"),
        ('url = "me:hunter22@db.example/outbox"', "outbox.url: is not like postgresql://"),
        ('url = "postgresql:/me:hunter22@db.example/outbox"', "outbox.url: is not like postgresql://"),
        ('url = "postgresql://me:[hunter22]@db.example/outbox"', "outbox.url: is not like postgresql://"),
        ('url = "postgresql://me:hunter22\u2100@db.example/outbox"', "outbox.url: is not like postgresql://"),
        ('url = "host=db user=me password=hunter22"', "outbox.url: the configuration does not contain the pas"),
        (
            'url = "postgresql://me:hunter22@db.example/outbox"',
            "outbox.url: the configuration does not contain the pas",
        ),
        ('url = "postgresql://db.example/o?password=hunter22"', "outbox.url: the configuration does not contain the p"),
        ('password_file = "x"', "outbox.password_file: is used only with url; set url or remove it"),
        ('lease = "1h"', "outbox.lease: '1h' is not between 500ms and 5m"),
    ],
    ids=short,
)
def test_an_address_of_postgresql_is_checked_and_contains_no_password(settings: Load, text: str, message: str) -> None:
    found = problem(settings, HIVEL + JENKINS + f"[outbox]\n{text}\n")
    assert found.startswith(message)
    assert "hunter22" not in found


def test_the_outbox_can_be_in_postgresql_with_a_password_from_a_file(settings: Load, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter22\n")
    url = "postgresql://me@one.example,two.example:5433/outbox"
    found = settings(HIVEL + JENKINS + f'[outbox]\nurl = "{url}"\npassword_file = "{tmp_path / "password"}"\n')
    assert found.postgresql is not None and found.postgresql.password is not None
    assert (found.postgresql.url, found.postgresql.password.reveal()) == (url, "hunter22")
    assert "hunter22" not in repr(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; write the secret as its only line"),
        ("two\nlines", "does not contain a secret; one line of ASCII characters is expected"),
        ("schl\u00fcssel", "does not contain a secret; one line of ASCII characters is expected"),
    ],
)
def test_a_password_file_that_cannot_be_used_is_named(settings: Load, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "password").write_text(text, encoding="utf-8")
    lines = f'url = "postgresql://me@db.example/outbox"\npassword_file = "{tmp_path / "password"}"'
    assert problem(settings, with_outbox(lines)) == f"outbox.password_file: {tmp_path / 'password'} {message}"


@pytest.mark.parametrize("hosts", ["db.example:", "[::1]", "[::1]:5433,db.example:5432", "%2Frun%2Fpostgresql", ""])
def test_hosts_of_postgresql_as_libpq_reads_them(settings: Load, hosts: str) -> None:
    found = settings(with_outbox(f'url = "postgresql://me@{hosts}/outbox"'))
    assert found.postgresql is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed = 1\n" + HIVEL + JENKINS, "speed: unknown key; use one of [hivel], [http], [[jenkins]], "),
        (with_hivel('url = "https://x"\ntokenfile = "h"'), "hivel.tokenfile: unknown key; did you mean token_file?"),
        (with_jenkins('url = "https://x"\nuser = "bot"'), "jenkins[0].user: unknown key; did you mean username?"),
        (HIVEL + JENKINS + '[[jenkins]]\nUrl = "https://x"', "jenkins[1].Url: unknown key; did you mean url?"),
        (with_deployment('job = "x"\nenv = "prod"'), "deployment[0].env: unknown key; did you mean environment?"),
        (HIVEL + JENKINS + "[outbox]\nstore = 1\n", "outbox.store: unknown key; use one of path, keep_delivered, "),
        (with_delivery("retries = 3"), "delivery.retries: unknown key; use one of concurrency, timeout, "),
        (
            with_delivery('poll_interval = "3s"'),
            "delivery.poll_interval: unknown key; did you mean interval, or does it belong in [[jenkins]]?",
        ),
        (with_delivery('username = "bot"'), "delivery.username: unknown key; it belongs in [[jenkins]]"),
        ('path = "x"\n' + HIVEL + JENKINS, "path: unknown key; it belongs in [outbox]"),
        (with_table('[deployments]\njob = "x"'), "deployments: unknown table; did you mean [[deployment]]?"),
        (with_table('[monitor]\nlisten = ""'), "monitor: unknown table; did you mean [monitoring]?"),
    ],
    ids=short,
)
def test_an_unknown_key_is_named_and_what_may_be_meant(settings: Load, text: str, message: str) -> None:
    assert problem(settings, text).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (JENKINS, "hivel: the table [hivel] is required"),
        ('[hivel]\ntoken_file = "hivel"\n' + JENKINS, "hivel.url: this key is required"),
        (with_jenkins('name = "main"'), "jenkins[0].url: this key is required"),
        (with_deployment('environment = "production"'), "deployment[0].job: this key is required"),
    ],
    ids=short,
)
def test_a_missing_key_is_named(settings: Load, text: str, message: str) -> None:
    assert problem(settings, text) == message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (with_hivel('url = 1\ntoken_file = "hivel"'), "hivel.url"),
        ("hivel = 1\n" + JENKINS, "hivel"),
        (HIVEL + '[jenkins]\nurl = "https://x"\n', "[jenkins]"),
        ('[[hivel]]\nurl = "https://x"\ntoken_file = "hivel"\n' + JENKINS, "[[hivel]]"),
        ("jenkins = 1\n" + HIVEL, "jenkins"),
        (with_jenkins('url = "https://x"\npoll_interval = 15'), "jenkins[0].poll_interval"),
        (with_jenkins('url = "https://x"\ntimeout = true'), "jenkins[0].timeout"),
        (with_jenkins('url = "https://x"\nusername = ["bot"]'), "jenkins[0].username"),
        (with_jenkins('url = "https://x"\nsince = 7'), "jenkins[0].since"),
        (with_jenkins('url = "https://x"\nsince = 18:00:00'), "jenkins[0].since"),
        (with_deployment('job = ["a", "b"]'), "deployment[0].job"),
        (with_deployment('job = "a"\nimage = 1'), "deployment[0].image"),
        (HIVEL + JENKINS + "[outbox]\npath = 1\n", "outbox.path"),
        (with_delivery('concurrency = "8"'), "delivery.concurrency"),
        (with_delivery("concurrency = true"), "delivery.concurrency"),
        (with_delivery("timeout = 10"), "delivery.timeout"),
        (with_delivery('canceled_spelling = "aborted"'), "delivery.canceled_spelling"),
    ],
    ids=short,
)
def test_a_wrong_type_names_its_key(settings: Load, text: str, key: str) -> None:
    assert problem(settings, text).startswith(f"{key}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (with_jenkins('url = "ci.example"'), "jenkins[0].url: 'ci.example' is not a URL"),
        (with_jenkins('url = "ftp://ci.example"'), "jenkins[0].url: 'ftp://ci.example' is not a URL"),
        (with_jenkins('url = ""'), "jenkins[0].url: '' is not a URL"),
        (with_jenkins('url = "http://"'), "jenkins[0].url: 'http://' is not a URL"),
        (with_jenkins('url = "http://:8080"'), "jenkins[0].url: 'http://:8080' is not a URL"),
        (with_jenkins('url = "http://h:99999"'), "jenkins[0].url: 'http://h:99999' is not a URL"),
        (with_jenkins('url = "http://h:0"'), "jenkins[0].url: 'http://h:0' is not a URL"),
        (with_jenkins('url = "http://[::1"'), "jenkins[0].url: 'http://[::1' is not a URL"),
        (with_jenkins('url = "http://ci example/"'), "jenkins[0].url: 'http://ci example/' is not a URL"),
        (with_jenkins('url = "http://ci\\n/"'), "jenkins[0].url: 'http://ci\\n/' is not a URL"),
        (with_jenkins('url = "http://ci/?a=b"'), "jenkins[0].url: 'http://ci/?a=b' must end with the path"),
        (with_jenkins('url = "http://ci/#top"'), "jenkins[0].url: 'http://ci/#top' must end with the path"),
        (with_jenkins('url = "http://ci/?"'), "jenkins[0].url: 'http://ci/?' must end with the path"),
        (with_jenkins('url = "http://ci/#"'), "jenkins[0].url: 'http://ci/#' must end with the path"),
        (with_hivel('url = "app.hivel.ai"\ntoken_file = "hivel"'), "hivel.url: 'app.hivel.ai' is not a URL"),
        (with_jenkins('url = "http://ci"\nname = ""'), "jenkins[0].name: ''"),
        (with_jenkins('url = "http://ci"\nname = "a#1"'), "jenkins[0].name: 'a#1'"),
        (with_jenkins('url = "http://ci"\npoll_interval = "often"'), "jenkins[0].poll_interval: 'often' is not a dur"),
        (with_jenkins('url = "http://ci"\npoll_interval = "0s"'), "jenkins[0].poll_interval: '0s' must be longer"),
        (with_jenkins('url = "http://ci"\ntimeout = "-1s"'), "jenkins[0].timeout: '-1s' is not a duration"),
        (with_jenkins('url = "http://ci"\nsince = "soon"'), "jenkins[0].since: 'soon' is not a date, a time or a"),
        (with_jenkins('url = "http://ci"\ntoken_file = "jenkins"'), "jenkins[0].username: is missing"),
        (JENKINS.join([HIVEL, JENKINS]), "jenkins[1].name: another controller has the name 'ci.example'"),
        (with_deployment('job = ""'), "deployment[0].job: is empty"),
        (with_deployment('job = "re:("'), "deployment[0].job: 're:(' is not a regular expression"),
        (with_deployment('job = "a"\nenvironment = ""'), "deployment[0].environment: ''"),
        (with_deployment('job = "a"\nenvironment = "{env}"'), "deployment[0].environment: '{env}': there is no field"),
        (with_deployment('job = "a"\nrepo_url = "{job"'), "deployment[0].repo_url: '{job': a brace"),
        (with_deployment('job = "a"\nbranch = "a|"'), "deployment[0].branch: 'a|': one side of a | is empty"),
        (with_deployment('job = "a"\nimage = "{app}"'), "deployment[0].image: '{app}': there is no field {app}"),
        (with_deployment('job = "a"\nstage = ""'), "deployment[0].stage: is empty"),
        (with_deployment('job = "a"\nstage = "re:("'), "deployment[0].stage: 're:(' is not a regular expression"),
        (with_deployment('job = "a"\nenvironment = "{stage}"'), "deployment[0].environment: '{stage}': there is no"),
        (with_deployment('job = "a"\nrepository = "re:["'), "deployment[0].repository: 're:[' is not a regular"),
        (with_deployment('job = "a"\ncheckouts = "all"'), "deployment[0].checkouts: 'all' is not valid here"),
        (with_deployment('job = "a"\nattempts = "all"'), "deployment[0].attempts: 'all' is not valid here"),
        (with_deployment('job = "a"\nwithout_stages = ""'), "deployment[0].without_stages: '' is not valid here"),
        (with_table('[repositories]\nlibraries = ["a", "re:("]'), "repositories.libraries[1]: 're:(' is not a regular"),
        (with_table('[repositories]\nlibraries = ["a", ""]'), "repositories.libraries[1]: is empty"),
        (with_table('[repositories]\nlibraries = ["a", 1]'), "repositories.libraries[1]: must be text in quotes"),
        (with_table('[repositories]\nurl_form = "ssh"'), "repositories.url_form: 'ssh' is not valid here"),
        (with_table('[repositories]\nlibrary = "x"'), "repositories.library: unknown key"),
        (with_table('[status]\nUNSTABEL = "success"'), "status.UNSTABEL: is not a result of Jenkins; use SUCCESS"),
        (with_table('[status]\nUNSTABLE = "ok"'), "status.UNSTABLE: 'ok' is not a status; use success"),
        (with_table('[environments]\nprod = " "'), "environments.prod: is empty"),
        (with_table('[environments]\nprod = "a"\nPROD = "b"'), "environments.PROD: is set twice"),
        (with_table("[environments]\nprod = 1"), "environments"),
        (HIVEL + JENKINS + '[outbox]\npath = ""\n', "outbox.path: is empty"),
        (with_outbox('keep_deployments = "x"'), "outbox.keep_deployments: 'x' is not a duration"),
        (with_outbox('keep_deployments = "0s"'), "outbox.keep_deployments: '0s' must be longer"),
        (with_outbox('keep_deployments = "29d"'), "outbox.keep_deployments: is shorter than keep_delivered"),
        (with_outbox('max_size = "much"'), "outbox.max_size: 'much' is not a size; write it like 500MB, 5GB or 5GiB"),
        (with_outbox('max_size = "5000000"'), "outbox.max_size: '5000000' is not a size"),
        (with_outbox('max_size = "-5GB"'), "outbox.max_size: '-5GB' is not a size"),
        (with_outbox('max_size = "5Gb/s"'), "outbox.max_size: '5Gb/s' is not a size"),
        (with_outbox('max_size = "9MB"'), "outbox.max_size: '9MB' is less than 10 MB"),
        (with_outbox(f'max_size = "{"9" * 400}GB"'), "outbox.max_size: "),
        (with_delivery("concurrency = 0"), "delivery.concurrency: 0 is not between"),
        (with_delivery("concurrency = 257"), "delivery.concurrency: 257 is not between"),
        (with_delivery('timeout = "10"'), "delivery.timeout: '10' is not a duration"),
        (with_delivery('interval = "0ms"'), "delivery.interval: '0ms' must be longer"),
        (with_delivery('backoff_initial = "x"'), "delivery.backoff_initial: 'x' is not a duration"),
        (with_delivery('backoff_max = "1s"'), "delivery.backoff_max: is shorter than backoff_initial"),
    ],
    ids=short,
)
def test_a_value_without_sense_names_its_key_and_itself(settings: Load, text: str, message: str) -> None:
    assert problem(settings, text).startswith(message)


def test_a_duration_beyond_all_numbers_names_its_key(settings: Load) -> None:
    text = with_delivery(f'timeout = "{"9" * 400}d"')
    assert problem(settings, text).startswith("delivery.timeout: ")


@pytest.mark.parametrize(
    "url",
    [
        f"https://bot:{SECRET}@ci.example/",
        f"https://{SECRET}@ci.example/",
        f"ftp://bot:{SECRET}@ci.example/",
        f"https://bot:{SECRET}#1@ci.example/",
        f"https://bot:{SECRET}@ci.example:none/",
    ],
)
@pytest.mark.parametrize("table", ["hivel", "jenkins[0]"])
def test_credentials_in_a_url_are_refused_and_not_repeated(settings: Load, table: str, url: str) -> None:
    line = f'url = "{url}"'
    text = with_hivel(f'{line}\ntoken_file = "hivel"') if table == "hivel" else with_jenkins(line)
    message = problem(settings, text)
    assert message.startswith(f"{table}.url: ")
    assert SECRET not in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            with_hivel('url = "https://x"'),
            "hivel.token_file: no token: set a file here, or the environment variable",
        ),
        (with_hivel('url = "https://x"\ntoken_file = "none"'), "hivel.token_file: cannot read "),
        (with_hivel('url = "https://x"\ntoken_file = "."'), "hivel.token_file: cannot read "),
        (with_hivel('url = "https://x"\ntoken_file = ""'), "hivel.token_file: is empty"),
        (with_hivel('url = "https://x"\ntoken_file = "a\\u0000b"'), "hivel.token_file: "),
        (with_jenkins('url = "https://x"\nusername = "bot"'), "jenkins[0].token_file: no token: set a file here"),
        (
            with_jenkins('url = "https://x"\nusername = "bot"\ntoken_file = "a\\u0000b"'),
            "jenkins[0].token_file: ",
        ),
    ],
    ids=short,
)
def test_a_token_that_cannot_be_had_names_its_key(settings: Load, text: str, message: str) -> None:
    assert problem(settings, text).startswith(message)


@pytest.mark.parametrize("name", ["none", ".", "empty"])
def test_the_token_of_a_controller_may_be_missing_and_come_later(settings: Load, tmp_path: Path, name: str) -> None:
    """The other controllers are not kept from working by it."""
    (tmp_path / "empty").touch()
    (controller,) = settings(with_jenkins(f'url = "https://x"\nusername = "bot"\ntoken_file = "{name}"')).controllers
    assert controller.token is not None
    assert controller.token.problem is not None
    assert str(tmp_path) in controller.token.problem


def test_two_controllers_whose_variable_is_the_same_do_not_share_a_token_by_accident(
    settings: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(
        f'[[jenkins]]\nname = "{name}"\nurl = "https://{name}"\nusername = "bot"\n' for name in ("a-b", "a.b")
    )
    monkeypatch.setenv("JENKINS_API_TOKEN", "of-both")
    assert len(settings(HIVEL + text).controllers) == 2
    monkeypatch.setenv("JENKINS_API_TOKEN_A_B", "of-one")
    assert "jenkins[1].name: JENKINS_API_TOKEN_A_B would be the token of two" in problem(settings, HIVEL + text)


def test_the_file_alone_can_be_checked_without_any_token(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    text = '[hivel]\nurl = "https://x"\n[[jenkins]]\nurl = "https://y"\nusername = "bot"\n[intake]\n'
    file.write_text(text + '[intake.teams]\npayments = "absent"\n', encoding="utf-8")
    assert load(file, tokens=False).hivel.token.problem is not None
    with pytest.raises(ConfigError, match=r"token_file: no token"):
        load(file)
    file.write_text(text.replace("bot", 'bot"\nnonsense = "'), encoding="utf-8")
    with pytest.raises(ConfigError, match="nonsense: unknown key"):
        load(file, tokens=False)


def test_an_empty_token_in_the_environment_names_key_and_variable(
    settings: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVEL_API_TOKEN", "")
    message = problem(settings, with_hivel('url = "https://x"'))
    assert message.startswith("hivel.token_file: the environment variable HIVEL_API_TOKEN is empty")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[hivel\n", ":1: not valid TOML: Expected ']' at the end of a table declaration"),
        (b"[hivel]\n\nurl = https://x\n", ':3: not valid TOML: Invalid value; write text in straight quotes: key ='),
        ("[hivel]\nurl = “x”\n".encode(), ':2: not valid TOML: Invalid value; write text in straight quotes: key ='),
        (b"a = 1\na = 2\n", ":2: not valid TOML: Cannot overwrite a value; the key is set twice"),
        (b'a = "x\n', ":1: not valid TOML: Illegal character"),
        (b'\njob = "re:\\d"\n', ":2: not valid TOML: Unescaped '\\' in a string; write each backslash twice"),
        (b"[jenkins]\n[jenkins]\n", ":2: not valid TOML: Cannot declare ('jenkins',) twice; write [[jenkins]]"),
        (b"# fine\na = 'M\xfcller'\n", ":2: line 2 is not UTF-8 (byte 0xFC, which is ü in Windows-1252); save"),
        ("a = 1".encode("utf-16"), ": cannot be read: the file is UTF-16 text; save it as UTF-8"),
    ],
)  # fmt: skip
def test_what_is_no_toml_names_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load(file)
    assert str(error.value).startswith(f"{file}{message}")


def test_a_byte_order_mark_of_windows_is_accepted(settings: Load, tmp_path: Path) -> None:
    assert settings("\ufeff" + HIVEL + JENKINS).hivel.url == "https://app.hivel.ai"
    (tmp_path / "hivel").write_bytes(b"\xef\xbb\xbf" + SECRET.encode() + b"\r\n")
    assert settings(HIVEL + JENKINS).hivel.token.reveal() == SECRET


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the file does not exist") as error:
        load(tmp_path / "absent.toml")
    assert str(error.value).startswith(f"{tmp_path / 'absent.toml'}: ")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


# ---- which file


def test_the_file_given_comes_before_the_environment_and_that_before_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert find_file(None) == DEFAULT_PATH == Path("/etc/hivel-agent/config.toml")
    monkeypatch.setenv("HIVEL_AGENT_CONFIG", "/srv/agent.toml")
    assert find_file(None) == Path("/srv/agent.toml")
    assert find_file(Path("here.toml")) == Path("here.toml")
    monkeypatch.setenv("HIVEL_AGENT_CONFIG", "")
    assert find_file(None) == DEFAULT_PATH
