"""Asking one Jenkins controller: the few questions that the poller has, in typed answers and typed errors."""

from __future__ import annotations

import email.utils
import json
import os
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import jenkins
import msgspec
import requests

from agent import __version__
from agent.model.build import BUILD_TREE, BuildNumber, RawBuild
from agent.model.names import build_of_url, job_path
from agent.model.rate import RateLimit
from agent.model.times import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config.settings import JenkinsSettings

# So deep the tree of folders is asked for in one request; deeper folders cost a request each.
NESTING = 8
BODY_LIMIT = 256 * 1024 * 1024
_ITEM_FIELDS = "_class,fullName,nextBuildNumber"
_RUNNING_TREE = "computer[executors[currentExecutable[url]],oneOffExecutors[currentExecutable[url]]]"

T = TypeVar("T")


class JenkinsError(Exception):
    """A question was not answered; the message says by whom, why and what to do."""


class UnreachableError(JenkinsError):
    """No answer, or one that says that Jenkins or a proxy is out of order for now."""


class UnauthorizedError(JenkinsError):
    """Jenkins knows the user or the token not, or does not let the user see this."""


class ForbiddenError(UnauthorizedError):
    """403: the user may not see this one page, or nobody who is not known."""


class NotFoundError(JenkinsError):
    """404: not there, or not visible to this user."""


class BadAnswerError(JenkinsError):
    """An answer, but not one of Jenkins' API: a login page, a redirect, cut or wrong JSON."""


class PageError(BadAnswerError):
    """A failure or another shape: this one page has nothing to tell, others may be fine."""


@dataclass(frozen=True)
class Job:
    """A job that builds. ``next_build_number`` moves whenever a build is started."""

    full_name: str
    next_build_number: int
    branch_job: bool


@dataclass(frozen=True)
class Snapshot:
    """All jobs that the user may see, and what Jenkins' clock said (UTC ms; None without a Date header).

    ``problems``: folders that could not be read, in words; their jobs are missing.
    """

    jobs: list[Job]
    server_time: int | None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """Some builds of a job, newest first; ``pull_request_url`` of a branch job that is one (ObjectMetadataAction)."""

    builds: list[RawBuild]
    pull_request_url: str | None = None


@dataclass(frozen=True)
class About:
    """Who answers and how the agent is known there."""

    version: str | None
    user: str
    anonymous: bool


class _Item(msgspec.Struct):
    """A job or a folder in the nested tree; folders have ``jobs`` and no ``nextBuildNumber``."""

    full_name: str = msgspec.field(default="", name="fullName")
    cls: str = msgspec.field(default="", name="_class")
    next_build_number: BuildNumber | None = msgspec.field(default=None, name="nextBuildNumber")
    jobs: list[_Item] | None = None


class _Items(msgspec.Struct):
    jobs: list[_Item] = []


class _JobAction(msgspec.Struct):
    object_url: str | None = msgspec.field(default=None, name="objectUrl")


class _Builds(msgspec.Struct):
    builds: list[RawBuild] | None = None
    all_builds: list[RawBuild] | None = msgspec.field(default=None, name="allBuilds")
    actions: list[_JobAction | None] = []


class _Executable(msgspec.Struct):
    url: str = ""


class _Executor(msgspec.Struct):
    current: _Executable | None = msgspec.field(default=None, name="currentExecutable")


class _Computer(msgspec.Struct):
    executors: list[_Executor] = []
    one_off: list[_Executor] = msgspec.field(default_factory=list, name="oneOffExecutors")


class _Computers(msgspec.Struct):
    computer: list[_Computer] = []


class _WhoAmI(msgspec.Struct):
    name: str = ""
    anonymous: bool = True


class JenkinsClient:
    """A controller through python-jenkins, with connections that are kept alive. Methods may run in several threads.

    Every method raises :class:`JenkinsError`.
    """

    def __init__(self, settings: JenkinsSettings) -> None:
        self.url = settings.url
        self._token = settings.token
        self._username = settings.username
        self._jenkins = jenkins.Jenkins(settings.url, timeout=settings.timeout_ms / 1000)
        self._authenticate()
        self._limit = RateLimit(settings.requests_per_minute, Clock())
        self._at_once = threading.BoundedSemaphore(settings.concurrency)
        session: requests.Session = self._jenkins._session
        for scheme in ("http://", "https://"):  # as many connections as questions at once, and all of them kept alive
            session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=settings.concurrency))
        session.max_redirects = 0  # credentials go to the configured address and nowhere else
        session.verify = _authorities(settings)
        if settings.tls.client_certificate is not None:
            session.cert = (
                str(settings.tls.client_certificate),
                str(settings.tls.client_key or settings.tls.client_certificate),
            )
        session.headers["User-Agent"] = f"hivel-jenkins-agent/{__version__}"
        # Before python-jenkins turns an outage into "job does not exist", and reads bodies of any size.
        session.hooks["response"].append(self._refuse)
        self.requests = 0
        self._last: tuple[bytes, list[Job]] | None = None
        self._branch_jobs: frozenset[str] = frozenset()

    def close(self) -> None:
        """Close the connection."""
        self._jenkins._session.close()

    def reload_token(self) -> bool:
        """Look whether the token's file holds another token now; True when it does."""
        if self._token is None or not self._token.reload():
            return False
        self._authenticate()
        return True

    def _authenticate(self) -> None:
        if self._username is not None and self._token is not None:
            credentials = self._username.encode(), self._token.reveal().encode()
            self._jenkins._session.auth = requests.auth.HTTPBasicAuth(*credentials)

    # ---- questions

    def about(self) -> About:
        """``/whoAmI/api/json``: the user as Jenkins knows it, and Jenkins' version."""
        body, headers = self._get("whoAmI/api/json", None)
        who = self._decode(body, _WhoAmI)
        return About(headers.get("X-Jenkins"), who.name, who.anonymous)

    def snapshot(self) -> Snapshot:
        """Every visible job with its ``nextBuildNumber``: one request, which loads no build on the controller.

        As long as the answer is the same, so is the list of jobs: the very same object.
        """
        before = self.requests
        body, headers = self._get("api/json", _nested_tree(NESTING))
        problems: list[str] = []
        if self._last is None or self._last[0] != body:
            jobs = list(self._jobs(self._decode(body, _Items).jobs, problems, depth=1, in_multibranch=False))
            told_everything = self.requests == before + 1  # deeper folders have answers of their own
            self._last = (body, jobs) if told_everything else None
            self._branch_jobs = frozenset(job.full_name for job in jobs if job.branch_job)
        else:
            jobs = self._last[1]
        return Snapshot(jobs, _server_time(headers.get("Date")), tuple(problems))

    def is_branch_job(self, full_name: str) -> bool:
        """Whether the job is a branch of a multibranch project, by the last snapshot: no request is made."""
        return full_name in self._branch_jobs

    def builds(self, job: Job, first: int, last: int) -> Listing:
        """The builds at places ``first`` to ``last`` (not included) of the job, newest first.

        Within the newest 100 Jenkins loads what is asked for; beyond, it walks all builds of the job.
        """
        field = "builds" if last <= 100 else "allBuilds"
        tree = f"{field}[{BUILD_TREE}]{{{first},{last}}}"
        if job.branch_job:
            tree += ",actions[objectUrl]"
        body, _ = self._get(f"{job_path(job.full_name)}/api/json", tree)
        answer = self._decode(body, _Builds)
        listed = answer.builds if field == "builds" else answer.all_builds
        if listed is None:
            raise BadAnswerError(f"the answer for job {job.full_name} has no {field}")
        return Listing(listed, next((a.object_url for a in answer.actions if a and a.object_url), None))

    def build(self, job: str, number: int) -> RawBuild:
        """One build. Raises :class:`NotFoundError` when it is not there (any more, or yet)."""
        body, _ = self._get(f"{job_path(job)}/{number}/api/json", BUILD_TREE)
        return self._decode(body, RawBuild)

    def page(self, job: str, number: int, page: str) -> dict[str, Any]:
        """A page that a plugin adds to a build, such as ``wfapi/describe``; :class:`NotFoundError` without it."""
        body, _ = self._get(f"{job_path(job)}/{number}/{page}", None)
        return self._decode(body, dict[str, Any])

    def running(self) -> set[tuple[str, int]]:
        """Job and number of everything that occupies an executor, in one request."""
        body, _ = self._get("computer/api/json", _RUNNING_TREE)
        found = set()
        for computer in self._decode(body, _Computers).computer:
            for executor in (*computer.executors, *computer.one_off):
                if executor.current and (build := build_of_url(executor.current.url)):
                    found.add(build)
        return found

    def _jobs(self, items: list[_Item], problems: list[str], *, depth: int, in_multibranch: bool) -> Iterator[Job]:
        for item in items:
            if item.next_build_number is not None:
                yield Job(item.full_name, item.next_build_number, in_multibranch)
            children = item.jobs
            if children is None and item.next_build_number is None and depth == NESTING:
                children, depth_below = self._deeper(item, problems), 1
            else:
                depth_below = depth + 1
            if children:
                multibranch = "MultiBranch" in item.cls
                yield from self._jobs(children, problems, depth=depth_below, in_multibranch=multibranch)

    def _deeper(self, folder: _Item, problems: list[str]) -> list[_Item]:
        """What is in a folder below the nested question; nothing, and a problem, if just this one cannot be read."""
        try:
            body, _ = self._get(f"{job_path(folder.full_name)}/api/json", _nested_tree(NESTING))
            return self._decode(body, _Items).jobs
        except (NotFoundError, ForbiddenError, PageError) as error:
            problems.append(f"folder {folder.full_name}: {error}")
            return []

    # ---- one request

    def _get(self, path: str, tree: str | None) -> tuple[bytes, requests.structures.CaseInsensitiveDict[str]]:
        if (wait_s := self._limit.reserve()) > 0:
            time.sleep(wait_s)
        self.requests += 1
        request = requests.Request("GET", self.url + path, params={"tree": tree} if tree else None)
        try:
            with self._at_once:
                response = self._jenkins.jenkins_request(request, add_crumb=False, resolve_auth=False, stream=True)
                return self._body(response), response.headers
        except requests.TooManyRedirects as error:
            target = error.response.headers.get("Location") if error.response is not None else None
            raise BadAnswerError(
                f"{self.url} redirects to {target}; set [[jenkins]] url to where Jenkins really is"
            ) from error
        except jenkins.TimeoutException as error:
            raise UnreachableError(f"no answer from {self.url} in time: {error}") from error
        except requests.exceptions.SSLError as error:
            raise UnreachableError(
                f"no answer from {self.url}: {_root_cause(error)}; if its certificate comes from an authority of your "
                "own, name that in [[jenkins]] ca_file"
            ) from error
        except requests.RequestException as error:
            raise UnreachableError(f"no answer from {self.url}: {_root_cause(error)}") from error
        except jenkins.JenkinsException as error:
            raise BadAnswerError(str(error)) from error

    def _body(self, response: requests.Response) -> bytes:
        body = bytearray()
        for chunk in response.iter_content(64 * 1024):
            body += chunk
            if len(body) > BODY_LIMIT:
                response.close()
                raise BadAnswerError(f"{response.url} answers with more than {BODY_LIMIT} bytes")
        if "json" not in response.headers.get("Content-Type", ""):
            raise BadAnswerError(
                f"{self.url} answers 200 with {response.headers.get('Content-Type', 'no type')}, "
                "not Jenkins' JSON: a login page or a proxy in front of it? Check [[jenkins]] url"
            )
        return bytes(body)

    def _refuse(self, response: requests.Response, *_: Any, **__: Any) -> None:
        """Turn what is no answer into an error of ours; as a hook it runs before python-jenkins looks."""
        status = response.status_code
        if status < 400:
            return
        response.close()
        where = f"HTTP {status} from {response.request.path_url.partition('?')[0]}"
        user = response.headers.get("X-You-Are-Authenticated-As")
        missing = response.headers.get("X-Required-Permission")
        match status:
            case 401:
                raise UnauthorizedError(
                    f"{where}: user or API token are wrong; check [[jenkins]] username and token_file"
                )
            case 403 if missing:
                raise ForbiddenError(f"{where}: user {user} lacks the permission {missing}; grant it in Jenkins")
            case 403:
                raise ForbiddenError(f"{where}: credentials are needed; set [[jenkins]] username and token_file")
            case 404:
                raise NotFoundError(f"{where}: not there, or not visible to this user")
            case 408 | 425 | 429 | 502 | 503 | 504:
                raise UnreachableError(f"{where}: Jenkins is starting, stopping or overloaded")
            case _:
                raise PageError(f"{where}: not an answer of Jenkins' API; see Jenkins' own log")

    def _decode(self, body: bytes, type_: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=type_)
        except msgspec.ValidationError as error:
            raise PageError(f"an answer of another shape than Jenkins' API has: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._decode_leniently(body, type_)

    def _decode_leniently(self, body: bytes, type_: type[T]) -> T:
        """Half a surrogate pair or a wrong byte in some name must not hide all the other builds."""
        try:
            content = json.loads(body.decode("utf-8", "replace"))
            clean = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
            return msgspec.json.decode(clean, type=type_)
        except RecursionError as error:
            raise PageError(f"the JSON of {self.url} is nested beyond all depths ({len(body)} bytes)") from error
        except ValueError as error:
            raise BadAnswerError(
                f"the JSON of {self.url} is cut off or damaged ({len(body)} bytes): {error}"
            ) from error


def _authorities(settings: JenkinsSettings) -> str | bool:
    """Whom to trust: the system's authorities as for Hivel, where requests would take a list of its own."""
    if settings.tls.ca_file is not None:
        return str(settings.tls.ca_file)
    if "REQUESTS_CA_BUNDLE" in os.environ or "CURL_CA_BUNDLE" in os.environ:
        return True  # requests looks there itself
    system = ssl.get_default_verify_paths()
    return system.cafile or system.capath or True


def _nested_tree(levels: int) -> str:
    tree = f"jobs[{_ITEM_FIELDS}]"
    for _ in range(levels - 1):
        tree = f"jobs[{_ITEM_FIELDS},{tree}]"
    return tree


def _server_time(date: str | None) -> int | None:
    if date is None:
        return None
    try:
        return int(email.utils.parsedate_to_datetime(date).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None  # a proxy's odd date: the agent's own clock serves


def _root_cause(error: BaseException) -> str:
    """The innermost reason: requests wraps urllib3, which wraps what happened."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(error) or type(error).__name__
