"""The documentation is held against the code: what it says has to exist, and what exists has to be said."""

from __future__ import annotations

import re
import tomllib
from configparser import RawConfigParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import click
import msgspec
import pytest

from agent import __version__
from agent.cli import main as command_line
from agent.config import file as config
from agent.config import tables
from agent.config.file import ConfigError
from agent.config.rules import Pattern
from agent.daemon.service import STOP_S
from agent.delivery.answers import Answer, Verdict, classify
from agent.inspect.derived import of_build, rules_of
from agent.model.build import Build
from agent.model.deployment import State
from agent.model.event import DeploymentEvent
from agent.model.status import WORDS, Provider
from agent.sandbox.hivel import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *PAGES))
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *PAGES,
        *(path for name in ("agent", "jenkinsfile-snippets", "systemd") for path in (ROOT / name).rglob("*.md")),
    ]
)
EXAMPLE = ROOT / "systemd" / "config.example.toml"

# A file that says nothing about deployments, to complete what the pages show of a configuration.
HEAD = """
[hivel]
url = "https://hivel.example.com"
[[jenkins]]
url = "https://jenkins.example.com"
"""


@pytest.fixture(autouse=True)
def tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens are in the environment, as for somebody who tries the examples."""
    monkeypatch.setenv("HIVEL_API_TOKEN", "token-of-a-test")
    monkeypatch.setenv("JENKINS_API_TOKEN", "token-of-a-test")
    monkeypatch.setenv("HIVEL_AGENT_WEBHOOK_SECRET_GITHUB", "secret-of-a-test")


def section(heading: str) -> str:
    """The text below a heading of the documentation, up to the next heading of the same or a higher level."""
    level = len(heading) - len(heading.lstrip("#"))
    text = re.sub(r"(?ms)^```.*?^```$", lambda found: found[0].replace("\n#", "\n "), DOCS)
    start = re.search(rf"(?m)^{re.escape(heading)}$", text)
    assert start is not None, f"the documentation has no heading {heading!r}"
    end = re.search(rf"(?m)^#{{1,{level}}} ", text[start.end() :])
    return text[start.end() : start.end() + end.start()] if end else text[start.end() :]


def rows(text: str) -> list[list[str]]:
    """The rows of the tables in a text, without their heads; ``\\|`` is a bar within a cell."""
    tables = re.findall(r"(?m)^\|[^\n]*\|\n\|[-|]+\|\n((?:\|[^\n]*\|\n)+)", text)
    return [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for table in tables
        for line in table.splitlines()
    ]


def code(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def toml_blocks() -> list[str]:
    return re.findall(r"(?ms)^```toml\n(.*?)^```$", DOCS)


def load(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "config.toml"
    file.write_text(text, encoding="utf-8")
    return config.load(file)


# ---- configuration

TABLES = {
    "## `[hivel]`": tables.Hivel,
    "## `[http]`": tables.Http,
    "## `[[jenkins]]`": tables.Jenkins,
    "## `[[deployment]]`": tables.Deployment,
    "## `[[example]]`": tables.Example,
    "## `[repositories]`": tables.Repositories,
    "## `[outbox]`": tables.Outbox,
    "## `[delivery]`": tables.Delivery,
    "## `[monitoring]`": tables.Monitoring,
    "## `[hook]`": tables.Hook,
    "## `[intake]`": tables.Intake,
    "## `[notify]`": tables.Notify,
    "## `[web]`": tables.Web,
    "## `[web.proxy]`": tables.Proxy,
    "## `[webhooks]`": tables.Webhooks,
    "## `[[webhook]]`": tables.Webhook,
    "## `[[webhook.rule]]`": tables.WebhookRule,
}
KEYS = [
    pytest.param(heading, field, id=f"{heading.strip('# `')}-{field.name}")
    for heading, struct in TABLES.items()
    for field in msgspec.structs.fields(struct)
]


def test_every_table_of_the_configuration_has_its_section() -> None:
    names = {name for heading in TABLES if "." not in (name := heading.strip("# `[]"))}  # [web.proxy] is in [web]
    names |= {"environments", "status"}  # maps without keys of their own
    assert DOCS.count("## `[environments]` and `[status]`") == 1
    assert {field.name for field in msgspec.structs.fields(tables.File)} == names


@pytest.mark.parametrize(("heading", "field"), KEYS)
def test_every_key_is_in_the_readme_with_its_default(heading: str, field: msgspec.structs.FieldInfo) -> None:
    found = [row for row in rows(section(heading)) if code(row[0]) == [field.name]]
    assert len(found) == 1, f"{field.name} needs one row below {heading}"
    default = found[0][1]
    if field.required:
        assert default == "required"
    elif field.default in (None, msgspec.NODEFAULT):
        assert default, f"say what {field.name} is without being set"
        assert not code(default) or field.name == "name", f"{field.name} has no default, the page says {default}"
    else:
        written = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        assert code(default) == [written]
    assert len(found[0][2]) > 20, f"say what {field.name} means"


@pytest.mark.parametrize("heading", TABLES)
def test_the_readme_names_no_key_that_does_not_exist(heading: str) -> None:
    known = {field.name for field in msgspec.structs.fields(TABLES[heading])}
    assert {code(row[0])[0] for row in rows(section(heading))} <= known


def test_every_configuration_in_the_readme_loads(tmp_path: Path) -> None:
    whole = [block for block in toml_blocks() if "[hivel]" in block]
    assert len(whole) >= 3
    (tmp_path / "intake.token").write_text("token-of-the-intake\n")
    for block in whole:
        settings = load(tmp_path, block)
        assert settings.controllers or settings.intake


def test_every_rule_in_the_readme_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEL_AGENT_WEBHOOK_SECRET_CI", "sandbox-secret")  # as docs/sandbox.md sets it
    parts = [block for block in toml_blocks() if "[hivel]" not in block]
    assert parts
    for block in parts:
        assert len(load(tmp_path, HEAD + block).rules) == max(block.count("[[deployment]]"), 1)  # the default rule


# They have to be there; and a table of them.
FILES = {"token_file", "ca_file", "client_certificate", "client_key", "url_file"}
FILES |= {"password_file", "view_password_file", "view_token_file", "secret_file", "secret_files", "api_token_file"}
OF_FILES = FILES | {"teams", "proxy", "user_header", "operators", "rule"}


def test_the_complete_example_has_every_key_of_every_table() -> None:
    complete = max((block for block in toml_blocks() if "[hivel]" in block), key=len)
    everything = tomllib.loads(re.sub(r"(?m)^# (?=\w+ = |\[)", "", complete))
    assert everything.keys() == {field.name for field in msgspec.structs.fields(tables.File)}
    for heading, struct in TABLES.items():
        found: Any = [everything]
        for name in heading.strip("# `[]").split("."):
            found = [each[name] for each in found if name in each]
            found = [table for each in found for table in (each if isinstance(each, list) else [each])]
        written = {key for table in found for key in table}
        assert written == {field.name for field in msgspec.structs.fields(struct)}, heading
    [team] = everything["intake"]["teams"].values()
    assert team.keys() == {field.name for field in msgspec.structs.fields(tables.Team)}


def test_the_example_configuration_loads() -> None:
    settings = config.load(EXAMPLE)
    assert [controller.name for controller in settings.controllers] == ["main"]
    assert len(settings.rules) == 4
    assert settings.outbox == Path("/var/lib/hivel-agent/outbox.db")


def test_the_example_configuration_names_every_key_and_true_defaults(tmp_path: Path) -> None:
    """What is commented out shows the default: with the # taken away, the settings are the same."""
    text = EXAMPLE.read_text(encoding="utf-8")
    for struct in TABLES.values():
        for field in msgspec.structs.fields(struct):
            assert re.search(rf"(?m)(^(# )?|[{{,] ){field.name} = |^# \[\[\w+\.{field.name}\]\]", text), field.name
    for table in ("[[example]]", "[intake]", "[notify]", "[web]", "[webhooks]", "[[webhook]]", "[[webhook.rule]]"):
        text = text.replace(f"# {table}", table)
    text = text.replace("# require_token = true", "# require_token = false")
    defaults = re.sub(rf"(?m)^# (?=(?!{'|'.join(OF_FILES)}|max_age)\w+ = )", "", text)
    assert defaults != text
    as_it_is, spelled_out = config.load(EXAMPLE), load(tmp_path, defaults)
    assert spelled_out.delivery == as_it_is.delivery
    for name in ("outbox", "keep_delivered_ms", "keep_deployments_ms", "keep_ids_ms", "max_size_bytes", "hold_for_ms"):
        assert getattr(spelled_out, name) == getattr(as_it_is, name), name
    for name in ("poll_interval_ms", "since", "timeout_ms"):
        assert getattr(spelled_out.controllers[0], name) == getattr(as_it_is.controllers[0], name)


def test_an_example_with_a_mistake_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        load(tmp_path, EXAMPLE.read_text(encoding="utf-8").replace("# timeout =", "timeuot ="))


# ---- rules and the event

PATTERNS = [row for row in rows(section("# Rules")) if len(row) == 3]


def test_the_readme_shows_patterns() -> None:
    assert len(PATTERNS) >= 5


@pytest.mark.parametrize("row", PATTERNS, ids=lambda row: row[0])
def test_a_pattern_matches_what_the_readme_says(row: list[str]) -> None:
    pattern, matching, other = (code(cell)[0] for cell in row)
    assert Pattern.parse(pattern).match(matching) is not None
    assert Pattern.parse(pattern).match(other) is None


def test_the_example_of_the_templates_derives_what_the_readme_says(tmp_path: Path) -> None:
    text = section("## Templates")
    block = re.search(r"(?ms)^```toml\n(.*?)^```$", text)
    assert block is not None
    (told,) = re.findall(r"(?ms)^A build of .*?\.$", text)
    job, *parameters, environment, repo_url, branch = code(told)
    build = Build(
        controller="main",
        job=job,
        number=1,
        started_at=0,
        ended_at=1,
        parameters=dict(parameter.split("=") for parameter in parameters),
    )
    [derived] = of_build(build, rules_of(load(tmp_path, HEAD + block[1])))
    event = derived.event
    assert event is not None
    assert (event.environment, event.repo_url, event.branch) == (environment, repo_url, branch)


def test_every_field_of_the_event_is_explained() -> None:
    explained = [name for row in rows(section("# The event")) for name in code(row[0])]
    for field in msgspec.structs.fields(DeploymentEvent):
        assert field.name in explained


def test_the_status_table_is_that_of_the_code() -> None:
    table = [row for row in rows(section("# The event")) if code(row[0]) and code(row[0])[0].isupper()]
    told = {code(row[0])[0]: code(row[1])[0] for row in table}
    assert told == {word.upper(): status.value for word, status in WORDS[Provider.JENKINS].items()}


def test_every_state_of_an_event_is_explained() -> None:
    explained = {code(row[0])[0] for row in rows(section("# The event")) if row[0].startswith("`")}
    assert {state.value for state in State} <= explained


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.RETRY, Verdict.PAUSED])
def test_what_happens_when_lists_the_statuses_that_the_policy_treats_so(verdict: Verdict) -> None:
    words = {Verdict.FAILED: "refuses an event", Verdict.RETRY: "Hivel is down", Verdict.PAUSED: "token or address"}
    (row,) = [row for row in rows(section("## What happens when…")) if words[verdict] in row[0]]
    statuses = [int(status) for status in re.findall(r"\b[45]\d\d\b", row[0])]
    assert statuses
    for status in statuses:
        assert classify(Answer(status), "main:shop#1", 0).verdict is verdict
    if verdict is Verdict.FAILED:
        everything = {s for s in range(400, 600) if classify(Answer(s), "main:shop#1", 0).verdict is verdict}
        assert set(statuses) == everything


# ---- verbs


def test_every_state_can_be_chosen_in_the_list_as_the_readme_says() -> None:
    told = re.search(r"`--state` \| ([^|]+)\|", section("## `hivel-agent queue list`"))
    assert told is not None
    (option,) = [p for p in command_line.load("queue").commands["list"].params if p.name == "states"]
    assert re.findall(r"`([a-z]+)`", told[1]) == list(option.type.choices)
    assert set(option.type.choices) == {state.value for state in State}


def verbs(command: click.Command, words: tuple[str, ...] = ("hivel-agent",)) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with what is typed to call it."""
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from verbs(command_line.load(name) if command is command_line.cli else child, (*words, name))
    else:
        yield " ".join(words), command


VERBS = [pytest.param(name, command, id=name) for name, command in verbs(command_line.cli)]


@pytest.mark.parametrize(("name", "command"), VERBS)
def test_every_verb_has_a_section_with_its_options(name: str, command: click.Command) -> None:
    headings = [line for line in DOCS.splitlines() if line.startswith("## ") and f"`{name}`" in line]
    assert len(headings) == 1, f"{name} needs a section"
    elsewhere = {"--config", "--json", "--help", "--host", "--token"}
    told = DOCS if name.startswith("hivel-agent sandbox") else section(headings[0])
    options = {max(p.opts, key=len) for p in command.params if isinstance(p, click.Option)} - elsewhere
    assert [option for option in sorted(options) if option not in told] == []


@pytest.mark.parametrize(("name", "command"), VERBS)
def test_every_verb_has_an_example_of_itself_in_its_help(name: str, command: click.Command) -> None:
    text = command.get_help(click.Context(command, info_name=name))
    assert re.search(rf"(?s)Examples?:.*{re.escape(name)}\b", text)


def test_every_verb_that_the_readme_calls_exists() -> None:
    known = {name for name, _ in verbs(command_line.cli)}
    blocks = re.findall(r"(?ms)^```(?:sh|text)\n(.*?)^```$", DOCS)
    called = re.findall(
        r"(?m)^(?:\$ |sudo |.*bin/)?hivel-agent "
        r"([a-z][a-z-]*(?: (?:list|show|discard|hivel|jenkins|platform|test|repair))?)",
        "\n".join(blocks),
    )
    assert len(called) > 10
    assert {f"hivel-agent {name}" for name in called} <= known


def test_every_fault_of_the_local_hivel_is_explained() -> None:
    text = section("## Faults of the local Hivel")
    needs = {code(row[0])[0]: code(row[2]) for row in rows(text) if len(row) == 4}
    assert set(needs) == set(get_args(get_type_hints(Fault)["kind"]))
    for kind, needed in needs.items():
        if needed:
            with pytest.raises(msgspec.ValidationError, match=needed[0]):
                msgspec.convert({"kind": kind}, Fault)
        else:
            assert msgspec.convert({"kind": kind}, Fault).kind == kind
    assert [field.name for field in msgspec.structs.fields(Fault) if f"`{field.name}`" not in text] == []


# ---- the other files


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as they are made on the web."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```$", "", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if re.match(r"\w+://", target):
            continue
        file = document.parent / target if target else document
        assert file.exists(), f"{document.name} links to {link}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{document.name} links to {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_tests_that_a_page_names_exist(document: Path) -> None:
    for name, function in re.findall(r"`(tests/[\w/.-]+)(?:::(\w+))?`", document.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), f"{document.name} names {name}"
        source = (ROOT / name).read_text(encoding="utf-8") if function else ""
        assert f"def {function}(" in source or not function, f"there is no {function} in {name}"


def test_every_guarantee_names_a_test_that_proves_it() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8").partition("## Limits")[0]
    promises = rows(page)
    assert len(promises) >= 12
    assert [row[0] for row in promises if "::test_" not in row[-1]] == []


def test_every_promise_about_security_names_a_test_that_exists() -> None:
    rows = re.findall(
        r"(?m)^\| (.+) \| `(tests/\S+\.py)::(\w+)` \|$", (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    )
    assert len(rows) > 40
    for promise, file, name in rows:
        code = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"(?m)^def {name}\(", code), f"{promise}: there is no {name} in {file}"


def test_the_changelog_knows_this_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^## \[(.+?)\]", changes)[:2] == ["Unreleased", __version__]


def test_the_architecture_page_maps_every_module() -> None:
    told = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = [path.relative_to(ROOT).as_posix() for path in (ROOT / "agent").rglob("*.py")]
    for module in modules:
        if not module.rpartition("/")[2].startswith("__") and "/sandbox/" not in module:
            assert f"`{module}`" in told, module


def test_the_unit_gives_the_agent_what_it_looks_for_and_the_time_that_it_needs() -> None:
    unit = RawConfigParser(strict=False, comment_prefixes=("#",), dict_type=dict)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    text = (ROOT / "systemd" / "hivel-agent.service").read_text(encoding="utf-8")
    unit.read_string(text)
    assert int(unit["Service"]["TimeoutStopSec"]) > STOP_S
    assert f"--config {config.DEFAULT_PATH}" in unit["Service"]["ExecStart"]
    assert Path("/var/lib", unit["Service"]["StateDirectory"], "outbox.db") == Path(tables.Outbox().path)
    credentials = re.findall(r"(?m)^LoadCredential=([^:]+):", text)
    folder = Path(config.__file__).parent
    source = "".join((folder / name).read_text(encoding="utf-8") for name in ("file.py", "credentials.py"))
    assert credentials
    for credential in credentials:
        assert f'"{credential}"' in source
