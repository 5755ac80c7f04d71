"""docs/compatibility.md: what a version has, later versions keep. ``tests/data/stable`` has what this one promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from agent.config import file as config
from agent.config import tables
from agent.config.rules import Pattern, Rule, Template
from agent.deployments.derive import Rules
from agent.inspect.derived import of_build
from agent.model.build import Build, Checkout, Stage
from agent.model.ids import limited_id, reused_number_id

from . import surface, test_systems

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
OUTPUTS, KEYS = surface.read("json.txt"), surface.read("configuration.txt")["config.toml"]


def kinds(words: list[str]) -> set[str]:
    """Without the words of an enumeration, to which new ones may be added."""
    return {"text" if word.startswith('"') else word for word in words}


def broken(promised: surface.Fields, now: surface.Fields) -> list[str]:
    """The fields of an output that others cannot rely on any more."""
    found = [f"{path} is gone" for path in promised if path not in now]
    for path, words in promised.items():
        if path in now and not kinds(now[path]) <= kinds(words):
            found.append(f"{path} can be something else: {' | '.join(now[path])}")
        if path in now and (lost := [word for word in words if word.startswith('"') and word not in now[path]]):
            found.append(f"{path} is never {', '.join(lost)}")
    return found


@pytest.mark.parametrize("name", surface.SURFACES)
def test_the_files_are_those_of_this_version(name: str) -> None:
    hint = "a new version? python -m tests.unit.surface; look at the difference: lines may be added, none may go"
    assert surface.version(name) == __version__, hint


# ---- what is printed and answered


@pytest.mark.parametrize("section", OUTPUTS)
def test_fields_keep_their_names_and_what_they_can_be(section: str) -> None:
    assert broken(OUTPUTS[section], surface.SURFACES["json.txt"][section]) == []


def test_a_field_that_is_gone_or_something_else_would_be_noticed() -> None:
    promised = {"id": ["number"], "state": ['"held"', '"failed"'], "reason": ["text"]}
    assert broken(promised, {**promised, "more": ["text"], "state": ['"held"', '"failed"', '"new"']}) == []
    now = {"state": ['"held"'], "reason": ["null", "text"]}
    assert broken(promised, now) == [
        "id is gone", 'state is never "failed"', "reason can be something else: null | text",
    ]  # fmt: skip


# ---- what is written and sent to the agent


def test_the_keys_of_the_configuration_stay_and_take_what_they_took() -> None:
    now = surface.SURFACES["configuration.txt"]["config.toml"]
    assert [path for path in KEYS if path not in now] == []
    assert [path for path, words in KEYS.items() if not set(words) <= set(now[path])] == []


def test_no_key_has_to_be_set_that_had_not_to_be() -> None:
    """Of a table that is new, the keys that it needs are no burden: older files have none of it."""
    now = {
        key
        for key in surface.required(tables.File)
        if key.rpartition(".")[0].removesuffix("[]") in KEYS or "." not in key
    }
    of_0_1_0 = {"hivel", "hivel.url", "jenkins[].url", "deployment[].job"}
    assert now == of_0_1_0 | {  # of tables that are new
        "example[].job", "web.proxy.user_header", "webhook[].name", "webhook[].platform", "webhook[].rule[].name",
        "webhook[].rule[].environment",
    }  # fmt: skip


def test_a_configuration_of_0_1_0_with_every_key_still_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEL_API_TOKEN", "token-of-a-test")
    monkeypatch.setenv("JENKINS_API_TOKEN", "token-of-a-test")
    file = surface.FOLDER / "config-0.1.0.toml"
    settings = config.load(file)
    assert (settings.controllers[0].poll_interval_ms, len(settings.rules)) == (15_000, 3)


def test_every_field_of_a_report_is_still_taken() -> None:
    assert set(surface.read("report.txt")["report"]) <= set(surface.SURFACES["report.txt"]["report"])


# ---- the ids

STARTED = 1_795_425_139_202
REPOSITORIES = tuple(Checkout((f"https://h/acme/{name}",), ("origin/main",), "c") for name in ("shop", "infra"))
STAGES = (Stage("Deploy eu", "FAILED", 1, 2), Stage("Deploy eu", "SUCCESS", 3, 4), Stage("Deploy us", "SUCCESS", 1, 2))


def made(job: str = "deploy/shop", stages: tuple[Stage, ...] | None = None, **rule: Any) -> list[str]:
    """The ids of the events of a build with two repositories, under one rule."""
    build = Build(
        controller="main", job=job, number=12, started_at=STARTED, ended_at=STARTED + 1000,
        checkouts=REPOSITORIES, stages=stages,
    )  # fmt: skip
    stage = Pattern.parse("re:Deploy (?P<environment>.+)") if stages else None
    environment = Template.parse("{environment}" if stages else "production", ("environment",) if stages else ())
    rules = Rules((Rule(Pattern.parse("**"), environment, stage=stage, **rule),))
    return [each.deployment_id for each in of_build(build, rules)]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (made(), ["main:deploy/shop#12"]),
        (made("shop-mb/feature%2Fx"), ["main:shop-mb/feature%2Fx#12"]),
        (made(checkouts="each"), ["main:deploy/shop#12:acme/shop", "main:deploy/shop#12:acme/infra"]),
        (made(stages=STAGES), ["main:deploy/shop#12:eu", "main:deploy/shop#12:us"]),
        (
            made(stages=STAGES, attempts="each"),
            ["main:deploy/shop#12:eu", "main:deploy/shop#12:eu~2", "main:deploy/shop#12:us"],
        ),
        (
            made(stages=STAGES[1:2], checkouts="each"),
            ["main:deploy/shop#12:eu:acme/shop", "main:deploy/shop#12:eu:acme/infra"],
        ),
        ([reused_number_id("main:deploy/shop#12", STARTED)], ["main:deploy/shop#12@1795425139202"]),
        ([limited_id("main:" + "x" * 300 + "#12")], ["main:" + "x" * 233 + "~" + "55e5bd4bdb628e37"]),
    ],
    ids=["build", "branch", "repositories", "stages", "attempts", "stage and repositories", "number again", "too long"],
)
def test_a_build_has_the_ids_that_it_always_had(ids: list[str], expected: list[str]) -> None:
    """With others, Hivel would count the build again: whoever has to change this test, doubles deployments."""
    assert sorted(ids) == sorted(expected)


@pytest.mark.parametrize(
    ("system", "environment", "run"),
    [
        ("github_actions", test_systems.GITHUB, "github_actions:acme/shop#1658821493/deploy"),
        ("gitlab_ci", test_systems.GITLAB, "gitlab_ci:acme/shop#98765"),
        ("circleci", test_systems.CIRCLECI, "circleci:acme/shop#8142"),
        ("azure_devops", test_systems.AZURE, "azure_devops:acme/Web Shop#842/Production/DeployWeb"),
        ("azure_devops", test_systems.AZURE_RELEASE, "azure_devops:acme/Shop#release-118/Prod EU"),
        (
            "argo_workflows",
            test_systems.ARGO_WORKFLOWS,
            "argo_workflows:deploy-shop-x7k2p#0b9c1f0e-6f1d-4c38-9a55-6d2f1c6d8a10",
        ),
    ],
    ids=["GitHub Actions", "GitLab CI", "CircleCI", "Azure DevOps", "a classic release", "Argo Workflows"],
)
def test_a_run_of_another_system_has_the_name_that_it_always_had(
    system: str, environment: dict[str, str], run: str
) -> None:
    assert test_systems.fields(system, environment)["run"] == run


# ---- the page


def test_the_page_names_the_files_that_hold_its_promises() -> None:
    assert sorted(re.findall(r"`tests/data/stable/([\w.-]+)`", PAGE)) == sorted(
        path.name for path in surface.FOLDER.iterdir() if path.suffix == ".txt"
    )


def test_the_monitoring_page_explains_every_metric_with_its_labels() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8").partition("## Metrics")[2]
    told = {
        name: set(labels.split(",")) - {""}
        for row in page.splitlines()
        for name, labels in re.findall(r"`(hivel_agent_\w+)(?:\{([\w,]+)\})?`", row.split(" | ")[0])
    }
    assert told == {name: set(words[1:]) for name, words in surface.read("metrics.txt")["/metrics"].items()}
