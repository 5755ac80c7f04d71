"""``hivel-agent emit``: a build reports its own deployment, and goes on.

It has to start like a shell tool: nothing here imports more than the standard library's light modules. The report is
stored as it is; the daemon makes the event of it, with the same code that serves the poller.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys

from agent.hook.report import FIELDS, MOST_BYTES, ReportError, checked
from agent.hook.systems import fields, fields_of_resource, recognise

DEFAULT_CONFIG = "/etc/hivel-agent/config.toml"
DEFAULT_OUTBOX = "/var/lib/hivel-agent/outbox.db"
DEFAULT_SPOOL = "/var/spool/hivel-agent"
LONGEST_S = 10

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_DESCRIPTION = """\
Report the deployment of the build that runs this command. What no option says is taken from the build's environment:
Jenkins, GitHub Actions, GitLab CI, CircleCI, Azure DevOps, Argo Workflows and Argo CD are recognised. The report is on
the disk when the command ends. A build never fails for it: whatever goes wrong is a warning and exit code 0, unless
--strict is given.
"""
_EXAMPLES = """\
Examples:
  hivel-agent emit --status "$RESULT" --environment production
  hivel-agent emit --stage "Deploy production" --environment production --status SUCCESS --start-time 1795435200000
  kubectl get application shop -o json | hivel-agent emit --system argocd --resource -
"""
_HELP = {
    "provider": "the CI system that the words of --status are of; default: the one that is recognised",
    "controller": "name of the [[jenkins]] controller; default: by --build-url",
    "job": "full name of the Jenkins job",
    "build_url": "page of the Jenkins build",
    "build_number": "number of the build",
    "run": "what names this run of another system; the deployment_id is made of it and the environment",
    "stage": "the stage that deployed: its event is of that stage alone, and final at once",
    "deployment_id": "the id itself, instead of the one that is made",
    "status": "how it ended, in the system's own word or one of success, failed, canceled, unknown",
    "start_time": "RFC 3339, or seconds or milliseconds since 1970",
    "end_time": "likewise; default: now",
    "pr_number": "number of the pull request",
    "pr_numbers": "numbers of all pull requests, with commas",
}


class EmitError(Exception):
    """The report cannot be made or stored; the message says why."""


def main(arguments: list[str]) -> NoReturn:
    """The verb. Exit code 0 unless ``--strict``; ``--help`` and wrong options are argparse's own."""
    options = _parser().parse_args(arguments)
    _bound(options.timeout)
    try:
        report = _report(options)
        place = _store(options, json.dumps(report, ensure_ascii=False).encode("utf-8", "replace"))
    except (EmitError, ReportError, OSError, ValueError) as error:
        print(f"hivel-agent emit: warning: not reported: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1 if options.strict else 0)
    print(f"hivel-agent emit: stored in {place}")  # noqa: T201
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hivel-agent emit", description=_DESCRIPTION, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    for name in FIELDS:
        if name != "event_type":
            parser.add_argument(f"--{name.replace('_', '-')}", metavar="TEXT", help=_HELP.get(name))
    parser.add_argument("--system", help="do not recognise the CI system, it is this one", metavar="NAME")
    parser.add_argument("--resource", metavar="FILE", help="JSON of an Argo CD application or an Argo workflow; - is "
                        "standard input")  # fmt: skip
    parser.add_argument("--config", metavar="FILE", help=f"where outbox and spool are said; default: "
                        f"$HIVEL_AGENT_CONFIG, else {DEFAULT_CONFIG}")  # fmt: skip
    parser.add_argument("--timeout", type=float, default=LONGEST_S, metavar="SECONDS", help="give up after so long; "
                        "default: %(default)s")  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="exit with 1 when the report could not be stored")
    return parser


def _bound(seconds: float) -> None:
    """Whatever hangs, the build goes on."""

    def give_up(*_: object) -> None:
        raise EmitError(f"it took longer than {seconds:g} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))


# ---- what is reported


def _report(options: argparse.Namespace) -> dict[str, object]:
    system = options.system or recognise(os.environ)
    report: dict[str, object] = {"provider": system, **fields(system, os.environ)}
    if options.resource:
        report.update(fields_of_resource(system, _read(options.resource)))
    for name in FIELDS:
        value = getattr(options, name, None)
        if value is not None:
            report[name] = _numbers(value) if name == "pr_numbers" else value
    report = checked(report)
    if not any(name in report for name in ("deployment_id", "run", "job", "build_url")):
        raise EmitError("nothing says which build this is: give --job and --build-number, --run, or --deployment-id")
    return report


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read(4 * 1024 * 1024)
    with open(name, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes time to import
        return file.read(4 * 1024 * 1024)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise EmitError(f"--pr-numbers: {text!r} is no list of numbers") from None


# ---- where it is stored


def _store(options: argparse.Namespace, body: bytes) -> str:
    """Into the outbox if this user may write it, else into the spool folder; on the disk when it returns."""
    if len(body) > MOST_BYTES:
        raise EmitError(f"the report has {len(body)} bytes, more than {MOST_BYTES}")
    outbox, spool = _places(options.config)
    if os.access(outbox, os.W_OK) and os.access(os.path.dirname(outbox) or ".", os.W_OK):  # noqa: PTH120
        try:
            return _into_outbox(outbox, body)
        except Exception as error:  # noqa: BLE001 - whatever it is, there is another door
            reason = str(error)
    else:
        reason = f"{outbox} is not there, or not writable for this user"
    if spool and os.path.isdir(spool):  # noqa: PTH112
        return _into_spool(spool, body)
    raise EmitError(f"{reason}; and there is no folder {spool or '[hook] spool'}")


def _into_outbox(outbox: str, body: bytes) -> str:
    from agent.outbox.reporting import add_report  # noqa: PLC0415 - SQLite is loaded only where it is needed

    add_report(outbox, body.decode())
    return outbox


def _into_spool(spool: str, body: bytes) -> str:
    """Written aside, then moved: the agent sees all of it or nothing."""
    name = f"{os.getpid()}-{os.urandom(8).hex()}"
    unfinished, path = os.path.join(spool, f".{name}"), os.path.join(spool, f"{name}.json")  # noqa: PTH118
    fd = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
    try:
        os.write(fd, body)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(unfinished, path)  # noqa: PTH104
    folder = os.open(spool, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return path


def _places(config: str | None) -> tuple[str, str]:
    """Outbox and spool as the configuration says; a file that this user cannot read says nothing."""
    path = config or os.environ.get("HIVEL_AGENT_CONFIG") or DEFAULT_CONFIG
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            text = file.read()
    except OSError as error:
        if config:
            raise EmitError(f"cannot read {config}: {error.strerror}") from error
        return DEFAULT_OUTBOX, DEFAULT_SPOOL
    import tomllib  # noqa: PLC0415

    try:
        tables = tomllib.loads(text.decode())
        outbox = tables.get("outbox", {}).get("path", DEFAULT_OUTBOX)
        spool = tables.get("hook", {}).get("spool", DEFAULT_SPOOL)
        folder = os.path.dirname(path)  # noqa: PTH120
        return os.path.join(folder, outbox), os.path.join(folder, spool) if spool else ""  # noqa: PTH118
    except (ValueError, AttributeError, TypeError) as error:
        raise EmitError(f"{path} is no configuration: {error}; hivel-agent check says more") from None
