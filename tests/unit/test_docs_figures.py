"""Figures and messages in the documentation are those of the code."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.daemon import listener, log_queue, once
from agent.daemon.service import STOP_S
from agent.delivery import answers, breaker, claims
from agent.model import build, report
from agent.model import event as events
from agent.model.names import build_of_url
from agent.outbox import values
from agent.outbox.sqlite import repair
from agent.sources.jenkins import backoff, client, details, discovery, look, pace, raw, related, transport
from agent.sources.jenkins.answers import _BYTES_FOR_A_VALUE, Answer, Item
from agent.sources.jenkins.reader import OVERLAP
from agent.sources.reports import fields
from tests.unit.test_docs import ROOT, code, rows

if TYPE_CHECKING:
    from pathlib import Path

KB, MB, DAY_MS, MINUTE_MS = 1024, 1024 * 1024, 86_400_000, 60_000
BOUNDS = "docs/guarantees.md"
OPERATIONS = "docs/operations.md"


def word(number: float) -> str:
    """A number as it is written in a sentence."""
    return {1: "one", 3: "three", 4: "four", 5: "five", 7: "seven", 8: "eight", 10: "ten", 100: "hundred"}[int(number)]


FIGURES = [
    (BOUNDS, f"{report.MOST_BYTES // KB} KB; a URL {report.LONGEST_URL:,} characters"),
    (BOUNDS, f"`pr_number` and `build_number` {report.MOST_DIGITS} digits"),
    (BOUNDS, f"other numbers and times {report.LONGEST_NUMBER} characters, every other text {report.LONGEST_TEXT:,}"),
    (BOUNDS, f"{report.MOST_PULL_REQUESTS:,} numbers in `pr_numbers`"),
    (
        BOUNDS,
        f"{transport.BODY_LIMIT // MB} MB, compressed and uncompressed, and "
        f"{transport.BODY_LIMIT // _BYTES_FOR_A_VALUE:,} JSON values",
    ),
    (BOUNDS, f"{word(transport.WHOLE_TIMEOUTS)} times `timeout`, at least a minute"),
    (BOUNDS, f"{transport._REST_LIMIT // KB} KB, {word(transport._REST_S)} second"),
    (BOUNDS, f"{client._ROOM_FOR_JOBS // MB} MB, where each job counts with its name and {client._JOB_BYTES} bytes"),
    (BOUNDS, f"| {client.LONGEST_NAME:,} characters | The job is left out"),
    (BOUNDS, f"{raw.LONGEST_TEXT:,} characters of a text, {build.PARAMETERS_TEXT:,} of all parameters"),
    (BOUNDS, f"{raw._CHECKOUTS_TEXT:,} of all checkouts, {raw.CHANGES} messages of commits with"),
    (BOUNDS, f"with {raw.MESSAGE_LENGTH} characters each, {details.MOST_STAGES:,} stages"),
    (BOUNDS, f"{transport._COOKIES} of {transport._COOKIE_LENGTH} characters"),
    (BOUNDS, f"{answers.BODY_LIMIT // KB} KB, compressed and uncompressed; `[delivery] timeout`"),
    (BOUNDS, f"{word(once.LONGEST_MS // MINUTE_MS)} minutes, or `--within`"),
    (OPERATIONS, f"{word(breaker.OUTAGE_AFTER)} different events in a row"),
    (OPERATIONS, f"After {word(look.GRACE_MS // MINUTE_MS)} minutes it is reported with what is known"),
    (OPERATIONS, f"up to {claims.UNSETTLED_AT_MOST:,} results"),
    (OPERATIONS, f"At most {log_queue.MOST_LINES:,} lines or {log_queue.MOST_BYTES // MB} MB wait in memory"),
    (OPERATIONS, f"reads the builds of the last {word(repair.REREAD_MS // DAY_MS)} days again"),
    (OPERATIONS, f"at most {related.UPSTREAM_STEPS} causes deep"),
    (OPERATIONS, f"in {client.NESTING} or more nested folders"),
    (OPERATIONS, f"From {look.PAGE} new builds of one job on 1 more, and again for every {look.PAGE - OVERLAP} more"),
    (OPERATIONS, f"the median of the last {pace.REMEMBERED} polls"),
    (OPERATIONS, f"more than {word(pace.SLOW_TIMES)} times the usual time"),
    (OPERATIONS, f"up to {word(2**pace.MOST_DOUBLINGS)} times `poll_interval`"),
    (OPERATIONS, f"at least every {word(backoff.LONGEST_PAUSE_S / 60)} minutes"),
    (OPERATIONS, f"at most for {word(backoff.LONGEST_BACKOFF_S / 3600)} hour"),
    (OPERATIONS, f"a {word(discovery.BACK_AT_ONCE)} in each poll"),
    ("docs/installation.md", f"for at most {STOP_S:.0f} seconds"),
    ("docs/reporting.md", f"at most one day after and {fields.MOST_BEFORE_MS // DAY_MS} days before"),
    ("docs/reporting.md", f"a JSON object of at most {report.MOST_BYTES // KB} KB"),
    ("docs/events.md", f"at most {events.MOST_PULL_REQUESTS}"),
    ("docs/command-line.md", f"The first attempt and the last {values.LAST_ATTEMPTS} are kept"),
    ("SECURITY.md", f"at most {listener.MOST_CONNECTIONS} connections"),
    ("SECURITY.md", f"within {listener.PATIENCE_S} seconds"),
]


@pytest.mark.parametrize(("page", "figure"), FIGURES, ids=[f"{page}: {figure}"[:90] for page, figure in FIGURES])
def test_a_figure_is_that_of_the_code(page: str, figure: str) -> None:
    assert figure in " ".join((ROOT / page).read_text(encoding="utf-8").split())


def test_a_build_number_has_ten_digits_at_most() -> None:
    assert build_of_url("https://jenkins.example.com/job/shop/" + "1" * report.MOST_DIGITS) is not None
    assert build_of_url("https://jenkins.example.com/job/shop/" + "1" * (report.MOST_DIGITS + 1)) is None


def test_the_list_of_100_000_jobs_with_names_of_60_characters_is_read() -> None:
    """As docs/operations.md says: one answer of Jenkins, with the class that has the longest usual name."""
    job = {"_class": "org.jenkinsci.plugins.workflow.job.WorkflowJob", "fullName": "x" * 60, "nextBuildNumber": 12345}
    body = msgspec.json.encode({"jobs": [job] * 100_000})
    assert len(body) <= transport.BODY_LIMIT
    assert len(Answer("/api/json", body, {}, limit=transport.BODY_LIMIT).decode(Item).jobs or ()) == 100_000


# ---- alerts and the unit

ALERTS = re.findall(
    r"(?m)expr: (.*(hivel_agent_\w+).*)\n\s+for: (\w+)", (ROOT / "monitoring/alerts.yml").read_text(encoding="utf-8")
)


@pytest.mark.parametrize(("expression", "metric", "lasting"), ALERTS, ids=[expression for expression, *_ in ALERTS])
def test_an_alert_stands_beside_its_metric(expression: str, metric: str, lasting: str) -> None:
    """The page leaves out the name, which stands at the beginning of the row."""
    table = rows((ROOT / "docs/monitoring.md").read_text(encoding="utf-8").partition("## Metrics")[2])
    (told,) = [row[-1] for row in table if f"`{metric}" in row[0] or f", `{metric}`" in row[0]]
    comparison = expression.rpartition(") ")[2] if "(" in expression else expression.partition(metric)[2].strip()
    assert f"{comparison}` for {lasting}" in told or f"{metric})` for {lasting}" in told


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("LimitNOFILE=4096", "4,096 open files and sockets"),
        ("TasksMax=1024", "1,024 threads"),
        ("RestartSec=30", "again after 30 seconds"),
        ("RestartPreventExitStatus=2", "exits with 2 and is not started again"),
    ],
)
def test_a_limit_of_the_unit_is_in_the_installation_page(setting: str, told: str) -> None:
    assert f"\n{setting}\n" in (ROOT / "systemd/hivel-agent.service").read_text(encoding="utf-8")
    assert told in (ROOT / "docs/installation.md").read_text(encoding="utf-8")


# Of two folders the page has what is in them.
MADE = re.findall(
    r"(?m)^[dfz] (?!/etc/hivel-agent |/var/lib/hivel-agent )(\S+) +(\d{4}) +(\S+) +(\S+)",
    (ROOT / "systemd/tmpfiles.d/hivel-agent.conf").read_text(encoding="utf-8"),
)


@pytest.mark.parametrize(("path", "mode", "owner", "group"), MADE, ids=[path for path, *_ in MADE])
def test_the_installation_page_has_owner_and_mode_of_every_file(path: str, mode: str, owner: str, group: str) -> None:
    page = (ROOT / "docs/installation.md").read_text(encoding="utf-8").partition("\n## Files")[2]
    told = {code(row[0])[0].replace("NAME", "*"): (code(row[1])[0], row[2]) for row in rows(page) if row[2]}
    assert told[path] in ((owner, mode), (f"{owner}:{group}", mode))


# ---- messages


def templates() -> list[str]:
    """Every text in the code, with ``…`` for what is filled in."""
    found = []
    for path in (ROOT / "agent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                pieces = (each.value if isinstance(each, ast.Constant) else "…" for each in node.values)
                found.append("".join(map(str, pieces)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


TEMPLATES = templates()
SYMPTOMS = [
    symptom
    for row in rows((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"))
    for symptom in code(row[0])
    if not symptom.endswith((".json", ".txt", ".toml")) and "systemctl" not in symptom
]


LOG_LINES = [
    line
    for row in rows((ROOT / "docs" / "reporting.md").read_text(encoding="utf-8").partition("## Log lines")[2])
    for line in code(row[0])
] + re.findall(r"(?m)^timestamp=.* event=(\w+)", (ROOT / "docs" / "installation.md").read_text(encoding="utf-8"))
ANSWERS = [
    answer
    for quoted in re.findall(r"\*(No event[^*]+)\*", (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8"))
    for answer in [re.sub(r"\d{4}-\S+Z", "…", " ".join(quoted.split()))]
]


def can_be_said(symptom: str) -> bool:
    """Whether one text of the code has the parts of a message between ``…``, or makes most of it by filling in."""
    parts = re.split(r"\s*…\s*", symptom)
    fixed = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
    return any(fixed.search(template) or _makes(template, symptom) for template in TEMPLATES)


def _makes(template: str, message: str) -> bool:
    """Whether the fixed parts of a text stand in the message in their order, and are most of it."""
    parts, at = [part for part in template.split("…") if len(part) > 2], 0
    for part in parts:
        if (found := message.find(part, at)) < 0:
            return False
        at = found + len(part)
    return len(template) > 8 and sum(map(len, parts)) >= 0.6 * len(message)


def test_the_page_shows_symptoms() -> None:
    assert (len(SYMPTOMS) > 40, len(LOG_LINES) > 8, len(ANSWERS)) == (True, True, 3)


@pytest.mark.parametrize("symptom", [*SYMPTOMS, *LOG_LINES, *ANSWERS])
def test_a_symptom_is_a_text_that_the_code_can_print(symptom: str) -> None:
    assert can_be_said(symptom)


def test_a_symptom_that_nothing_prints_would_be_noticed() -> None:
    assert not can_be_said("the outbox is on holiday")
    assert not can_be_said("already uses the outbox … another hivel-agent")


# ---- what commands print

CORPUS = " ".join(" ".join(re.sub(r"\[/?[a-z]*\]", "", template).split()) for template in TEMPLATES)
FILLED_IN = {"main", *TEMPLATES}  # the name of a controller; "outage", "delivered"
NOT_DATA = r"(?![\w/#@-]|[.:]\w)"
PAIR = re.compile(rf"(?=(?<![\w./#:@'-])([a-z]{{2,}}) ([a-z]{{2,}}){NOT_DATA})")


def output_lines(text: str) -> list[str]:
    """The lines below a command; without further commands and the comments beside them."""
    blocks = re.findall(r"(?ms)^```text\n\$ hivel-agent .*?\n(.*?)^```$", text)
    lines = [line for block in blocks for line in block.splitlines() if not re.match(r"\$|\s+--|\s+hivel-agent ", line)]
    return [re.sub(r"  +#.*", "", line) for line in lines]


def unknown_pairs(line: str) -> list[str]:
    """Neighbouring words that no text of the code has. One of them can be filled in, if the code has it alone."""
    found = [(pair[1], pair[2]) for pair in PAIR.finditer(line)]
    return [
        f"{one} {two}"
        for one, two in found
        if f"{one} {two}" not in CORPUS
        and not (one in FILLED_IN and f"… {two}" in CORPUS)
        and not (two in FILLED_IN and f"{one} …" in CORPUS)
    ]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_the_output_that_a_page_shows_is_in_the_words_of_the_code(page: Path) -> None:
    assert [pair for line in output_lines(page.read_text(encoding="utf-8")) for pair in unknown_pairs(line)] == []


def test_output_in_other_words_would_be_noticed() -> None:
    assert len(output_lines((ROOT / "docs" / "command-line.md").read_text(encoding="utf-8"))) > 100
    assert unknown_pairs("another agent has seized the outbox") == ["has seized", "seized the"]
