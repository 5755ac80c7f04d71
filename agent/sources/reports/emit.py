"""``hivel-agent emit``: a build reports its own deployment.

It must start as fast as a shell tool, so it imports only light modules of the standard library. It stores the report
unchanged. The daemon turns it into a fact, as it does with reports from the intake and the spool folder.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time

from agent.config.paths import DEFAULT_CONFIG, DEFAULT_OUTBOX, DEFAULT_SPOOL
from agent.deployments.systems.ci import SYSTEMS, fields, fields_of_resource, recognise
from agent.model.report import GIVEN, MOST_BYTES, ReportError, checked
from agent.model.status import parse_word, provider_called
from agent.model.terminal import printable
from agent.sources.reports.fields import moment, refuse_hopeless

LONGEST_S = 10
LONGEST_SENDING_S = 30
SEND_URL = "HIVEL_AGENT_SEND_URL"
HIVEL = "https://app.hivel.ai"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, Protocol, TextIO

    class Direct(Protocol):
        """Hivel itself as the receiver, without an agent in between; see ``agent/cli/direct.py``."""

        def event(self, report: dict[str, object]) -> dict[str, object]:
            """The event of a report."""

        def send(self, report: dict[str, object], timeout_s: float) -> str:
            """Send the event; returns the result for people."""

    class Receiver(Protocol):
        """Where the report goes."""

        def send(self, report: dict[str, object], timeout_s: float) -> str:
            """Store or send the report; returns the result for people."""


_DESCRIPTION = """\
Report the deployment of the build that runs this command.

Fields without an option are taken from the environment of the build. Jenkins, GitHub Actions, GitLab CI, CircleCI,
Azure DevOps, Argo Workflows and Argo CD are recognised. The report goes to one of these:

  by default   this machine: the outbox if this user can write to it, else the spool folder. When the command ends, the
               report is on disk, even if the agent is not running.
  --send URL   the HTTP intake of an agent on another machine
  --direct     Hivel, without an agent. Nothing is stored: if Hivel cannot be reached, the event is lost.

emit refuses a report that can never become an event, for the same reasons as the HTTP intake. An error never fails the
build: emit prints a warning and exits with 0, even for invalid options.
"""
_EPILOG = """\
exit codes:
  0  the report is stored or sent. Without --strict also if it is not; standard error then says why
  1  with --strict: the report is not stored or sent or, with --dry-run, would not be accepted

files and variables:
  $HIVEL_AGENT_CONFIG, else %(config)s
      configuration with the paths of outbox and spool folder: [outbox] path, [hook] spool
  %(outbox)s, %(spool)s
      default paths, also used if this user cannot read the configuration
  $HIVEL_AGENT_SEND_URL
      address for --send, if neither --send nor --direct is given
  $HIVEL_TOKEN
      for --send: token of the intake
  $HIVEL_API_TOKEN
      for --direct: API key of Hivel

examples:
  hivel-agent emit --status "$RESULT" --environment production
  hivel-agent emit --stage "Deploy production" --environment production --status SUCCESS --start-time 1795435200000
  hivel-agent emit --run "nightly-7" --repo-url https://git.example.com/acme/shop --branch main \\
      --environment staging --status success
  hivel-agent emit --dry-run --status "$RESULT" --environment production
  kubectl get application shop -o json | hivel-agent emit --system argocd --resource -
  hivel-agent emit --send https://hivel-agent.example.com --status "$RESULT" --environment production
  hivel-agent emit --direct --status "$RESULT" --environment production
"""
_WHICH = {
    "system": ("NAME", "CI system; default: detected; one of %(systems)s"),
    "provider": ("NAME", "CI system whose status words --status uses; default: --system"),
    "controller": ("NAME", "name of the [[jenkins]] controller; default: found from --build-url"),
    "job": ("NAME", "full name of the Jenkins job"),
    "build_number": ("NUMBER", "number of the build"),
    "build_url": ("URL", "URL of the Jenkins build"),
    "run": ("NAME", "name of a run of another CI system; with the environment it gives the deployment_id"),
    "stage": ("NAME", "stage that deployed; the event is about this stage only"),
    "deployment_id": ("ID", "deployment_id to use instead of the default one"),
}
_WHAT = {
    "status": ("WORD", "result: a status word of the CI system, or success, failed, canceled, unknown"),
    "environment": ("NAME", "production, staging, …"),
    "repo_url": ("URL", "repository that was deployed"),
    "branch": ("NAME", "branch or tag"),
    "commit_hash": ("HASH", "commit that was deployed"),
    "start_time": ("TIME", "RFC 3339, or seconds or milliseconds since 1970"),
    "end_time": ("TIME", "in the same formats; default: now"),
    "pr_number": ("NUMBER", "pull request"),
    "pr_numbers": ("NUMBERS", "all pull requests, separated by commas"),
    "image": ("NAME", "container image"),
    "logs_url": ("URL", "page with the log; default: page of the build"),
}


# The keys of the configuration that emit needs. A key can also be written with escapes.
_KEYS = (b"path", b"spool", b"max_size", b"\\")
# Fields of the code's origin. Values from options override what the build checked out.
_PLACE = ("repo_url", "branch", "commit_hash")
_TIMES = ("start_time", "end_time")


class EmitError(Exception):
    """The report cannot be created or stored; the message says why."""


class _TooLongError(EmitError):
    """The time limit is exceeded, so the next place is not tried either."""


class _Parser(argparse.ArgumentParser):
    """argparse would exit with 2, which would fail the build."""

    def error(self, message: str) -> NoReturn:
        raise EmitError(f"{message}; see hivel-agent emit --help")


def main(arguments: list[str], direct: Callable[[str], Direct]) -> NoReturn:
    """Run the verb. The exit code is always 0 without ``--strict``. ``direct`` is Hivel at a URL, for ``--direct``."""
    try:
        options = _parser().parse_args(arguments)
        options.timeout = options.timeout or (LONGEST_SENDING_S if _is_sent(options) else LONGEST_S)
        _bound(options.timeout)
        if options.dry_run:
            code = _dry_run(options, direct)
            _bound(0)
            sys.exit(code)
        report = _report(options)
        _complete(report, options)
        done = _receiver(options, direct).send(report, options.timeout)
    except Exception as error:  # noqa: BLE001 - no error may fail the build
        _bound(0)
        _say(f"warning: not reported: {str(error) or type(error).__name__}", sys.stderr)
        sys.exit(1 if "--strict" in arguments else 0)
    _bound(0)
    _say(done, sys.stdout)
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    places = {"config": DEFAULT_CONFIG, "outbox": DEFAULT_OUTBOX, "spool": DEFAULT_SPOOL}
    parser = _Parser(
        prog="hivel-agent emit", usage="%(prog)s [OPTION …]", description=_DESCRIPTION, epilog=_EPILOG % places,
        allow_abbrev=False, add_help=False,
        # A fixed width: to find the width of the terminal, argparse imports shutil and much of the standard library.
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=26, width=120),
    )  # fmt: skip
    for title, options in (("options for the deployment", _WHICH), ("options for the fields", _WHAT)):
        group = parser.add_argument_group(title)
        for name, (metavar, words) in options.items():
            choices = SYSTEMS if name == "system" else None
            group.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, choices=choices,
                               help=words % {"systems": ", ".join(SYSTEMS)})  # fmt: skip
    group.add_argument("--resource", metavar="FILE", help="read fields without an option from the JSON of an "
                       "Argo CD Application or an Argo Workflow; -: standard input")  # fmt: skip
    group = parser.add_argument_group("options for the receiver")
    group.add_argument("--send", metavar="URL", help="send the report to the intake of an agent; https, except on this "
                       "machine")  # fmt: skip
    group.add_argument("--direct", nargs="?", const=HIVEL, metavar="URL", help="send the event to Hivel; default: "
                       "%(const)s")  # fmt: skip
    group = parser.add_argument_group("other options")
    group.add_argument("--config", metavar="FILE", help="configuration file")
    group.add_argument("--timeout", type=_seconds, metavar="SECONDS", help=f"time limit; default: {LONGEST_S}, with "
                       f"--send and --direct {LONGEST_SENDING_S}")  # fmt: skip
    group.add_argument("--strict", action="store_true", help="exit with 1 if the report is not stored or sent")
    group.add_argument("--dry-run", action="store_true", help="store and send nothing; print the report as JSON and "
                       "whether it would be accepted")  # fmt: skip
    group.add_argument("--help", action="help", help="show this message")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to 3600")
    return seconds


def _bound(seconds: float) -> None:
    """Limit the time, so that the build continues whatever hangs. 0: no limit any more."""

    def give_up(*_: object) -> None:
        raise _TooLongError(f"it took longer than {seconds:g} s")

    signal.signal(signal.SIGALRM, give_up if seconds else signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _say(words: str, stream: TextIO | None) -> None:
    encoding = getattr(stream, "encoding", None) or "ascii"
    _print(f"hivel-agent emit: {printable(words).encode(encoding, 'backslashreplace').decode(encoding)}", stream)


def _print(text: str, stream: TextIO | None) -> None:
    """Print, and ignore a stream that is closed or full."""
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):
        # Python would try again at its end, and exit with 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno() if stream else 1)


# ---- what is reported


def _report(options: argparse.Namespace) -> dict[str, object]:
    system = options.system or recognise(os.environ)
    report = _usable(fields(system, os.environ))
    if options.resource:
        report |= _usable(fields_of_resource(system, _read(options.resource)))
    for name in (*_WHICH, *_WHAT):
        value = getattr(options, name)
        if value is not None and name != "system":
            report[name] = _numbers(value) if name == "pr_numbers" else value
    if given := [name for name in _PLACE if getattr(options, name)]:
        report[GIVEN] = given
    return checked(report)


def _complete(report: dict[str, object], options: argparse.Namespace) -> None:
    """Add the provider, and refuse a report that can never become an event.

    Raises :class:`EmitError` and :class:`agent.model.report.ReportError`.
    """
    of_jenkins = "build_url" in report or {"job", "build_number"} <= report.keys()
    if of_jenkins and options.system is None and report["provider"] == "other" and "run" not in report:
        report["provider"] = "jenkins"  # a Jenkins build that is reported from elsewhere
    if "deployment_id" not in report and not (of_jenkins if report["provider"] == "jenkins" else "run" in report):
        raise EmitError("no build is identified: pass --job and --build-number, --run, or --deployment-id")
    _in_known_words(report, said=options.status is not None)
    refuse_hopeless(report, time.time_ns() // 1_000_000)


def _dry_run(options: argparse.Namespace, direct: Callable[[str], Direct]) -> int:
    """Print the report, whether it would be accepted and, with ``--direct``, the event; returns the exit code."""
    report, reason, more = None, None, {}
    try:
        report = _report(options)
        _complete(report, options)
        if options.direct is not None and options.send is None:
            more = {"event": direct(options.direct).event(report)}
        elif _is_sent(options):
            _receiver(options, direct)  # the address and the token
    except _TooLongError:
        raise
    except Exception as error:  # noqa: BLE001 - what the user gets to read
        reason = str(error) or type(error).__name__
    shown = {"accepted": reason is None, "reason": reason, "report": report, **more}
    _print(json.dumps(shown, indent=2), sys.stdout)
    return 1 if reason is not None and options.strict else 0


def _in_known_words(report: dict[str, object], *, said: bool) -> None:
    """Refuse unknown words. ``said``: the status is an option. One from the environment is removed with a warning.

    Raises :class:`EmitError`.
    """
    try:
        provider = provider_called(str(report["provider"]))
    except ValueError as error:
        raise EmitError(f"--provider: {error}") from None
    try:
        parse_word(provider, str(report.get("status", "unknown")))
    except ValueError as error:
        if said:
            raise EmitError(f"--status: {error}") from None
        _say(f"warning: ignored: status: {error}", sys.stderr)
        del report["status"]


def _usable(found: dict[str, str]) -> dict[str, object]:
    """The valid values from the environment. An invalid one is ignored with a warning, so that the rest is reported."""
    usable: dict[str, object] = {}
    for name, value in found.items():
        try:
            one = checked({name: value})
            if name in _TIMES and one:
                moment(name, value)
            usable |= one
        except ReportError as error:
            _say(f"warning: ignored: {error}", sys.stderr)
    return usable


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read(4 * 1024 * 1024)
    with open(name, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes time to import
        return file.read(4 * 1024 * 1024)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise EmitError(f"--pr-numbers: {text!r} is not a list of numbers; write it like 71,35") from None


# ---- where it goes


def _is_sent(options: argparse.Namespace) -> bool:
    given = options.send is not None or options.direct is not None
    return given or bool(os.environ.get(SEND_URL, "").strip())


def _receiver(options: argparse.Namespace, direct: Callable[[str], Direct]) -> Receiver:
    """What gets the report: an option, else the variable, else this machine."""
    if options.send is not None and options.direct is not None:
        raise EmitError("--send and --direct exclude each other; choose one")
    if options.direct is not None:
        return direct(options.direct)
    if not _is_sent(options):
        return _Machine(options)
    from agent.sources.reports.sending import IntakeAt  # noqa: PLC0415 - the HTTP client takes time to load

    return IntakeAt(os.environ[SEND_URL] if options.send is None else options.send)


class _Machine:
    """The outbox or the spool folder of this machine."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options

    def send(self, report: dict[str, object], _timeout_s: float) -> str:
        return f"stored in {_store(self._options, report)}"


def _store(options: argparse.Namespace, report: dict[str, object]) -> str:
    """Store it in the outbox if this user can write to it, else in the spool folder; returns the file."""
    body = json.dumps(report, ensure_ascii=False).encode("utf-8", "replace")
    if len(body) > MOST_BYTES:
        raise EmitError(f"the report has {len(body)} bytes, more than {MOST_BYTES}")
    outbox, spool, unread, max_size = _places(options.config)
    if os.access(outbox, os.W_OK) and os.access(os.path.dirname(outbox) or ".", os.W_OK):  # noqa: PTH120
        try:
            return _into_outbox(outbox, body, options.timeout / 2, max_size)
        except _TooLongError:
            raise
        except Exception as error:  # noqa: BLE001 - the spool folder is tried next
            reason = f"{outbox}: {error}"
    else:
        reason = f"{outbox} does not exist, or this user cannot write to it"
    if spool and os.path.isdir(spool):  # noqa: PTH112
        return _into_spool(spool, body)
    raise EmitError(f"{reason}; the spool folder {spool or '[hook] spool'} does not exist either{unread}")


def _into_outbox(outbox: str, body: bytes, patience_s: float, max_size: int) -> str:
    from agent.outbox.sqlite.inbox import add_report  # noqa: PLC0415 - SQLite is loaded only where it is needed

    add_report(outbox, body.decode(), patience_s, max_size)
    return outbox


def _into_spool(spool: str, body: bytes) -> str:
    """Write it under a hidden name, then rename it, so that the agent never sees half a report."""
    name = f"{os.getpid()}-{os.urandom(8).hex()}"
    unfinished, path = os.path.join(spool, f".{name}"), os.path.join(spool, f"{name}.json")  # noqa: PTH118
    with open(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:  # noqa: PTH123
        try:
            file.write(body)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # readable for the agent, which is another user, whatever the umask is
            os.fsync(file.fileno())
            os.rename(unfinished, path)  # noqa: PTH104
        except BaseException:
            os.unlink(unfinished)  # noqa: PTH108
            raise
        _sync_folder(spool, file.fileno())
    return path


def _sync_folder(folder: str, moved: int) -> None:
    """Put the new name on the disk too."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except PermissionError:  # write-only folder: syncing the file also writes the journal with its name
        os.fsync(moved)
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _bytes(size: str) -> int:
    from agent.config.sizes import parse_size  # noqa: PLC0415 - few outboxes have a limit

    return parse_size(size)


def _places(config: str | None) -> tuple[str, str, str, int]:
    """Outbox, spool folder, a note, and the maximum size of the outbox in bytes (0: no limit).

    The note says that this user cannot read the configuration, so that the defaults are used.
    """
    path = config or os.environ.get("HIVEL_AGENT_CONFIG") or DEFAULT_CONFIG
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            text = file.read()
    except OSError as error:
        if config:
            raise EmitError(f"cannot read {config}: {error.strerror}") from error
        return DEFAULT_OUTBOX, DEFAULT_SPOOL, f" ({path} cannot be read: {error.strerror})", 0
    if not any(key in line.partition(b"#")[0] for line in text.splitlines() for key in _KEYS):
        return DEFAULT_OUTBOX, DEFAULT_SPOOL, "", 0  # tomllib takes as long to load as everything else
    import tomllib  # noqa: PLC0415

    try:
        tables = tomllib.loads(text.decode())
        outbox = tables.get("outbox", {}).get("path", DEFAULT_OUTBOX)
        spool = tables.get("hook", {}).get("spool", DEFAULT_SPOOL)
        folder = os.path.dirname(path)  # noqa: PTH120
        max_size = tables.get("outbox", {}).get("max_size", "")
        spool = os.path.join(folder, spool) if spool else ""  # noqa: PTH118
        return os.path.join(folder, outbox), spool, "", _bytes(max_size) if max_size else 0  # noqa: PTH118
    except (ValueError, AttributeError, TypeError) as error:
        raise EmitError(f"{path} is not a valid configuration: {error}; run hivel-agent check") from None
