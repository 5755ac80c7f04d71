"""Pipelines without Jenkins: the snippets' Groovy with stand-ins for the steps, real shells, a real HTTP server.

``python -m tests.integration.snippets`` prints the table of the snippets' README.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "jenkinsfile-snippets"
GROOVY = ROOT / "tests" / "groovy"
SNIPPETS = sorted(path.name for path in FOLDER.iterdir() if path.suffix in {".Jenkinsfile", ".sh"})
LIBRARY = {path.stem: path.read_text(encoding="utf-8") for path in (FOLDER / "vars").glob("*.groovy")}
PASTE = (FOLDER / "paste" / "hivelDeployment.groovy").read_text(encoding="utf-8")
# The snippets that call the library, each once more as somebody without the library has it.
PASTED = {
    f"pasted-{name}": (FOLDER / name).read_text(encoding="utf-8").replace("@Library('hivel') _\n", "") + PASTE
    for name in SNIPPETS
    if "@Library" in (FOLDER / name).read_text(encoding="utf-8")
}

TOKEN = "token-of-a-test.0123456789"
RESULTS = {"success": "SUCCESS", "unstable": "UNSTABLE", "failure": "FAILURE", "aborted": "ABORTED"}
BUILD = {
    "JOB_NAME": "deploy/shop",
    "BUILD_NUMBER": "12",
    "BUILD_URL": "https://jenkins.example.com/job/deploy/job/shop/12/",
}
SOURCE = {
    "GIT_URL": "https://git.example.com/acme/shop.git",
    "GIT_COMMIT": "c0ffee0123456789c0ffee0123456789c0ffee01",
    "GIT_BRANCH": "origin/main",
}
AT_ONCE = 24

# First in the PATH: it notes the command lines of all processes, and hands on to the real curl.
CURL = '#!/bin/sh\ncat /proc/[0-9]*/cmdline >> "$HOME/processes" 2>/dev/null\nexec {curl} "$@"\n'
WORK = '#!/bin/sh\nprintf \'%s\\n\' "$*" >> "$0.calls"\nexit {code}\n'
EMIT = '#!/bin/sh\n{ printf \'%s\\n\' "$*"; env; } > "$HOME/emitted"\n'


@dataclass(frozen=True)
class Case:
    """One build of a pipeline. ``deploy``, ``build`` and ``report`` say how these steps of it go."""

    snippet: str
    deploy: str = "success"
    build: str = "success"
    report: str = "success"
    fault: str = ""
    variables: dict[str, str | None] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    credentials: dict[str, str] = field(default_factory=lambda: {"hivel-agent-token": TOKEN})
    without: str = ""  # a plugin or a program that is not there
    windows: bool = False

    @property
    def freestyle(self) -> bool:
        return self.snippet.endswith(".sh")


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def report(self) -> dict[str, Any]:
        report = json.loads(self.body)
        assert isinstance(report, dict)
        return report


@dataclass(frozen=True)
class Played:
    """What came of a case."""

    result: str
    error: str | None
    log: str
    seconds: float
    files: list[str]
    unrunnable: list[dict[str, Any]]
    requests: list[Request]
    processes: bytes
    emitted: str


class Intake(ThreadingHTTPServer):
    """Records what arrives. The first part of the path is the case's; what is asked there can go wrong as it says."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: dict[str, list[Request]] = {}
        self.closing = threading.Event()

    def url(self, case: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{case}"


class _Handler(BaseHTTPRequestHandler):
    server: Intake

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        _, case, path = self.path.split("/", 2)
        request = Request("POST", "/" + path, {name.lower(): value for name, value in self.headers.items()}, body)
        self.server.requests.setdefault(case, []).append(request)
        fault = case.partition("-")[0]
        if fault == "slow":
            self.server.closing.wait(30)
        status = {"refused": 401, "broken": 500, "login": 200}.get(fault, 202)
        answer = b'{"deployment_id": "main:deploy/shop#12", "state": "held"}'
        if status != 202:
            answer = b"<html>" + b"x" * 5000 if fault == "login" else b'{"error": "this is why"}'
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        except OSError:
            pass  # the client was not as patient

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the library gives it
        pass


def missing() -> str | None:
    """What has to be installed to run the pipelines."""
    wanted = {"groovy": "groovy", "java": "default-jre-headless", "curl": "curl"}
    return ", ".join(package for program, package in wanted.items() if not shutil.which(program)) or None


def play(cases: dict[str, Case], scripts: dict[str, str]) -> tuple[dict[str, Played], dict[str, Any]]:
    """Run the cases; ``scripts`` are pipelines beside the snippets. Also tells what each script calls."""
    with tempfile.TemporaryDirectory() as folder, _intake() as intake, _closed_port() as closed:
        stage = _Stage(Path(folder), intake, closed)
        given = {case_id: stage.given(case_id, case) for case_id, case in cases.items()}
        sources = {name: (FOLDER / name).read_text(encoding="utf-8") for name in SNIPPETS if not name.endswith(".sh")}
        pipelines = {case_id: values for case_id, values in given.items() if not cases[case_id].freestyle}
        others = given.keys() - pipelines
        with ThreadPoolExecutor(AT_ONCE) as pool:  # they wait more than they work
            freestyle = {case_id: pool.submit(stage.run_freestyle, given[case_id]) for case_id in others}
            answers = stage.run_groovy(sources | PASTED | scripts, pipelines)
        ran = answers["cases"] | {case_id: future.result() for case_id, future in freestyle.items()}
        return {case_id: stage.played(case_id, ran[case_id]) for case_id in cases}, answers["calls"]


class _Stage:
    """Folders, programs and addresses for the cases."""

    def __init__(self, folder: Path, intake: Intake, closed: int) -> None:
        self._folder = folder
        self._intake = intake
        self._closed = closed
        self._tools = folder / "tools"
        self._tools.mkdir()
        curl = shutil.which("curl")
        assert curl is not None
        self._program(self._tools / "curl", CURL.format(curl=curl))
        self._program(self._tools / "hivel-agent", EMIT)
        # For a node without curl (only what a shell needs), with one that hangs, or that Jenkins kills with the build.
        for name in ("without", "hanging", "killed"):
            (folder / name).mkdir()
        for program in ("sh", "cat", "sleep", "awk", "env"):
            target = shutil.which(program)
            assert target is not None
            (folder / "without" / program).symlink_to(target)
        self._program(folder / "hanging" / "curl", "#!/bin/sh\nexec sleep 60\n")
        self._program(folder / "killed" / "curl", "#!/bin/sh\nkill $$\n")

    def _program(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def _path(self, without: str) -> str:
        if without == "curl":
            return str(self._folder / "without")
        instead = {"patience": "hanging", "mercy": "killed"}
        first = [str(self._folder / instead[without])] if without in instead else []
        return os.pathsep.join([*first, str(self._tools), os.environ["PATH"]])

    def given(self, case_id: str, case: Case) -> dict[str, Any]:
        home = self._folder / case_id
        workspace = home / "workspace"
        workspace.mkdir(parents=True)
        for name, word in (("build.sh", case.build), ("deploy.sh", case.deploy)):
            self._program(workspace / name, WORK.format(code=int(word == "failure")))
        url = f"http://127.0.0.1:{self._closed}" if case.fault == "down" else self._intake.url(case_id)
        variables = BUILD | ({} if case.snippet.endswith("scripted.Jenkinsfile") else SOURCE)
        variables |= {"PATH": self._path(case.without), "HOME": str(home), "HIVEL_AGENT_URL": url}
        if case.freestyle:
            variables |= {"HIVEL_TOKEN": TOKEN}
        known = {name: value for name, value in (variables | case.variables).items() if value is not None}
        return {
            "script": case.snippet,
            "workspace": str(workspace),
            "variables": known,
            "params": case.params,
            "scm": SOURCE | {name: known[name] for name in SOURCE.keys() & known.keys()},
            "credentials": case.credentials,
            "deploy": case.deploy,
            "build": case.build,
            "report": case.report,
            "windows": case.windows,
            "no_credentials_plugin": case.without == "credentials plugin",
            "pwsh": shutil.which("pwsh"),
        }

    def run_groovy(self, scripts: dict[str, str], cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
        asked, answered = self._folder / "asked.json", self._folder / "answered.json"
        question = {"scripts": scripts, "library": LIBRARY, "cases": cases, "at_once": AT_ONCE}
        asked.write_text(json.dumps(question), encoding="utf-8")
        command = ["groovy", "-cp", str(GROOVY), str(GROOVY / "RunCases.groovy"), str(asked), str(answered)]
        # A node whose locale knows no umlauts is the worst case.
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "LC_ALL": "C", "JAVA_HOME": _java_home()}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        answers = json.loads(answered.read_text(encoding="utf-8"))
        assert isinstance(answers, dict)
        return answers

    def run_freestyle(self, given: dict[str, Any]) -> dict[str, Any]:
        """As Jenkins runs a shell step: `sh -xe` and a file."""
        began = time.monotonic()
        done = subprocess.run(
            ["sh", "-xe", str(FOLDER / given["script"])],
            cwd=given["workspace"], env=given["variables"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=240, check=False,
        )  # fmt: skip
        return {
            "result": "SUCCESS" if done.returncode == 0 else "FAILURE",
            "error": None,
            "log": done.stdout.decode("utf-8", "replace"),
            "seconds": time.monotonic() - began,
            "files": [path.name for path in Path(given["workspace"]).iterdir()],
            "unrunnable": [],
        }

    def played(self, case_id: str, answer: dict[str, Any]) -> Played:
        home = self._folder / case_id
        processes, emitted = home / "processes", home / "emitted"
        return Played(
            **answer,
            requests=self._intake.requests.get(case_id, []),
            processes=processes.read_bytes() if processes.exists() else b"",
            emitted=emitted.read_text(encoding="utf-8", errors="replace") if emitted.exists() else "",
        )


@contextmanager
def _intake() -> Iterator[Intake]:
    with Intake() as intake:
        thread = threading.Thread(target=intake.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield intake
        finally:
            intake.closing.set()
            intake.shutdown()
            thread.join()


@contextmanager
def _closed_port() -> Iterator[int]:
    """A port that is taken, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def _java_home() -> str:
    """Debian's groovy looks for the default Java; another one is as good."""
    java = shutil.which("java")
    assert java is not None
    return os.environ.get("JAVA_HOME") or str(Path(java).resolve().parents[1])


# ---- the table


def main_cases() -> dict[str, Case]:
    """Every snippet, with the library and pasted, with every result of the deployment."""
    cases = {}
    for snippet in (*SNIPPETS, *PASTED):
        for deploy, result in RESULTS.items():
            variables: dict[str, str | None] = {"BRANCH_NAME": "main"}
            if snippet == "freestyle.sh":
                variables |= {"BUILD_RESULT": result, "BRANCH_NAME": None}
            case = Case(snippet, deploy, variables=variables, params={"VERSION": "1.4"})
            cases[f"main-{snippet}-{deploy}"] = case
    return cases


def reports(snippet: str, played: Played) -> list[dict[str, Any]]:
    """What reached the intake, or would have: PowerShell's requests and emit's arguments included."""
    if snippet == "emit.Jenkinsfile":
        words = played.emitted.partition("\n")[0].removeprefix("emit ")
        return [{name.replace("-", "_"): value for name, value in re.findall(r"--([\w-]+) (\S+)", words)}]
    if played.requests:
        return [request.report for request in played.requests]
    ran = [one for one in played.unrunnable if one["shell"] == "powershell"]
    return [json.loads(one["variables"]["HIVEL_REPORT"]) for one in ran]


def table(played: dict[str, Played]) -> str:
    """The table of the README: which report each snippet made, by the deployment's result."""
    lines = [f"| Snippet | {' | '.join(RESULTS)} |", f"|---|{'---|' * len(RESULTS)}"]
    for snippet in SNIPPETS:
        cells = []
        for deploy in RESULTS:
            made = reports(snippet, played[f"main-{snippet}-{deploy}"])
            cells.append("<br>".join(_cell(report) for report in made))
        lines.append(f"| `{snippet}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(report: dict[str, Any]) -> str:
    what = f"stage `{report['stage']}`" if "stage" in report else "whole build"
    return f"`{report['status']}`, {report['environment']}, {what}"


if __name__ == "__main__":
    print(table(play(main_cases(), {})[0]), end="")  # noqa: T201
