"""A Jenkins on this machine whose builds are started, finished and deleted from Python."""

from __future__ import annotations

import hashlib
import time
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, Self

from agent.sandbox.jenkins import templates
from agent.sandbox.jenkins.answers import Availability, Controller
from agent.sandbox.jenkins.app import Application, Request
from agent.sandbox.jenkins.phases import PIPELINE_RUN, Interrupted, Phase, fields
from agent.sandbox.jenkins.recording import RECORDED_ROOT, STAGES_OVERVIEW, STAGES_WFAPI, load
from agent.sandbox.jenkins.templates import FolderKind, JobKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.resources.abc import Traversable
    from pathlib import Path

    from starlette.responses import Response
    from starlette.types import ASGIApp

    from agent.sandbox.jenkins.model import Build, Item, JsonObject

DEMO_JOB: Final = "deploy/shop"
_DEMO_REPO: Final = "https://github.example.test/acme/shop.git"
_DEMO_ENVIRONMENTS: Final = ("staging", "production")
_DEMO_RESULTS: Final = ("SUCCESS", "SUCCESS", "SUCCESS", "FAILURE", "SUCCESS", "UNSTABLE", "ABORTED")


def wall_clock_ms() -> int:
    """UTC milliseconds."""
    return time.time_ns() // 1_000_000


class LocalJenkins:
    """Serves jobs and builds through the URLs of a real Jenkins, and lets a test play a story over time.

    ``with LocalServer(LocalJenkins.recorded().app) as server: …``. The application may run in another thread.
    Jobs are named by their full name, as Jenkins has it: ``team-a/api``, ``shop-mb/feature%2Fx``. ``root_url`` is
    the address configured in Jenkins, which its ``url`` fields begin with; it may differ from the one polled.
    An unknown job or build raises :class:`KeyError`.

    Its time is that of ``now_ms`` and ``skew_ms`` more: timestamps, durations and the ``Date`` header follow it.
    """

    def __init__(
        self,
        *,
        username: str = "hivel-agent",
        token: str = "sandbox-token",  # noqa: S107 -- of a Jenkins that guards nothing
        prefix: str = "",
        root_url: str | None = None,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        prefix = f"/{prefix.strip('/')}" if prefix.strip("/") else ""
        url = f"{(root_url or RECORDED_ROOT.rstrip('/') + prefix).rstrip('/')}/"
        self._controller = Controller(templates.root(url), username, token, prefix, now_ms)
        self._application = Application(self._controller)
        self._lock = self._controller.lock

    @classmethod
    def from_folder(cls, folder: Path | Traversable, **options: Any) -> Self:
        """A Jenkins with the recorded jobs and builds of a folder; see :mod:`agent.sandbox.jenkins.recording`."""
        jenkins = cls(**options)
        jenkins._controller.root = load(folder, jenkins._controller.root.url)
        return jenkins

    @classmethod
    def recorded(cls, **options: Any) -> Self:
        """A Jenkins with the small set of recordings that comes with this package."""
        return cls.from_folder(resources.files("agent.sandbox").joinpath("recorded"), **options)

    # -- what it serves ------------------------------------------------------------------------------------

    @property
    def app(self) -> ASGIApp:
        """The application."""
        return self._application

    @property
    def username(self) -> str:
        return self._controller.username

    @property
    def token(self) -> str:
        return self._controller.token

    @property
    def requests(self) -> list[Request]:
        """Every request served so far, in order."""
        return list(self._application.requests)

    def clear_requests(self) -> None:
        """Forget the requests served so far."""
        self._application.requests.clear()

    def break_with(self, hook: Callable[[str, str], Response | None] | None) -> None:
        """Let ``hook(path, query)`` answer in the place of Jenkins; where it returns None, Jenkins does.

        The path is as sent, the query decoded. The response may be any ASGI application, such as one that resets
        the connection. None takes the hook away.
        """
        self._application.hook = hook

    @property
    def skew_ms(self) -> int:
        """How far its clock is ahead of ``now_ms``; negative: behind. May be set at any time."""
        return self._controller.skew_ms

    @skew_ms.setter
    def skew_ms(self, ms: int) -> None:
        self._controller.skew_ms = ms

    @property
    def now_ms(self) -> int:
        """What its clock says, UTC milliseconds."""
        return self._controller.time()

    def stop(self) -> None:
        """Refuse every connection: the process is gone, or stopped on purpose."""
        self._controller.availability = Availability.DOWN

    def boot(self) -> None:
        """Answer everything with 503 and a page, as a Jenkins that is starting does."""
        self._controller.availability = Availability.STARTING

    def restart(self, interrupted: Interrupted | str = Interrupted.GOES_ON) -> None:
        """Be there again, with another ``X-Jenkins-Session``. Running pipelines go on, other builds as told."""
        with self._lock:
            for job in self._controller.root.everything():
                for build in [build for build in job.builds.values() if build.building]:
                    if build.json_class != PIPELINE_RUN:
                        self._interrupt(build, Interrupted(interrupted))
            self._controller.session = hashlib.sha256(self._controller.session.encode()).hexdigest()[:8]
            self._controller.availability = Availability.UP

    def builds(self, full_name: str) -> list[tuple[str, JsonObject]]:
        """The builds of a job as its full name and each one's JSON at depth 0, oldest first."""
        with self._lock:
            return [(full_name, build.whole()) for build in self._job(full_name).builds.values()]

    def numbers(self, full_name: str) -> list[int]:
        """The numbers of a job's builds, ascending, whether or not they can be seen."""
        with self._lock:
            return list(self._job(full_name).builds)

    def all_builds(self) -> list[tuple[str, JsonObject]]:
        """The builds of all jobs (those of matrix configurations too), job by job."""
        with self._lock:
            items = list(self._controller.root.everything())
            return [(item.full_name, build.whole()) for item in items for build in item.builds.values()]

    # -- jobs ----------------------------------------------------------------------------------------------

    def add_folder(self, full_name: str, kind: FolderKind | str = FolderKind.FOLDER) -> None:
        """Add a folder; folders above it are added as needed."""
        with self._lock:
            parent, name = self._place_for(full_name)
            templates.folder(FolderKind(kind), parent, name)

    def add_job(self, full_name: str, kind: JobKind | str = JobKind.PIPELINE) -> None:
        """Add a job without builds; folders above it are added as needed."""
        with self._lock:
            parent, name = self._place_for(full_name)
            templates.job(JobKind(kind), parent, name)

    def delete_job(self, full_name: str) -> None:
        """Delete a job with its builds, or a folder with all in it. A job added again starts at 1 again."""
        with self._lock:
            self._item(full_name).remove()

    def rename_job(self, old: str, new: str) -> None:
        """Rename or move: every URL changes, the builds stay the same, the old address is not found any more."""
        with self._lock:
            item = self._item(old)
            parent, name = self._place_for(new)
            item.remove()
            item.place(parent, name)
            templates.show_as(item, name)

    def hide(self, full_name: str) -> None:
        """Take the right to see a job or a folder with all in it: not listed, 404 on its URLs, no executor shows it."""
        with self._lock:
            self._item(full_name).hidden = True

    def show(self, full_name: str) -> None:
        """Give back what :meth:`hide` took."""
        with self._lock:
            self._item(full_name).hidden = False

    def disable_job(self, full_name: str, *, disabled: bool = True) -> None:
        """Disable a job, as the branch job of a deleted branch is; or enable it again. Its builds stay."""
        with self._lock:
            self._job(full_name).fields |= {"disabled": disabled, "buildable": not disabled}

    def set_page(self, full_name: str, url: str) -> None:
        """Say of what page a branch job is, such as that of a pull request, as branch sources do."""
        with self._lock:
            page = {"_class": "jenkins.scm.api.metadata.ObjectMetadataAction", "objectUrl": url}
            job = self._job(full_name)
            job.fields["actions"] = [*job.fields.get("actions", []), page]

    def keep_builds(self, full_name: str, newest: int | None) -> None:
        """Discard from now on what is older than the newest so many, whenever a build ends; None: keep all.

        As Jenkins does, the last stable, the last successful and running builds stay whatever their age.
        """
        with self._lock:
            self._job(full_name).keep = newest

    def has_job(self, full_name: str) -> bool:
        """Whether there is a job of that name."""
        with self._lock:
            item = self._controller.root.find(full_name)
            return item is not None and "builds" in item.fields

    def next_build_number(self, full_name: str) -> int:
        """The number of the next build that leaves the queue."""
        with self._lock:
            number: int = self._job(full_name).fields["nextBuildNumber"]
            return number

    def set_next_build_number(self, full_name: str, number: int) -> None:
        """Let the numbers jump ahead; Jenkins does not let them go back."""
        with self._lock:
            job = self._job(full_name)
            if number <= max(job.builds, default=0):
                raise ValueError(f"{full_name} has a build {max(job.builds)} already")
            job.fields["nextBuildNumber"] = number

    # -- builds --------------------------------------------------------------------------------------------

    def queue_build(self, full_name: str) -> None:
        """Let a build wait in the queue: it has no number yet. The next one that is started leaves the queue."""
        with self._lock:
            job = self._job(full_name)
            waiting = templates.queue_item(job, job.fields["nextBuildNumber"], self._controller.time())
            job.fields |= {"inQueue": True, "queueItem": waiting}

    def start_build(
        self,
        full_name: str,
        *,
        parameters: Mapping[str, str | bool] | None = None,
        repo: str | None = None,
        branch: str = "refs/remotes/origin/main",
        commit: str | None = None,
        causes: Sequence[Mapping[str, Any]] | None = None,
        timestamp: int | None = None,
    ) -> int:
        """Start a build and return its number. With ``repo`` it has a checkout, of a made-up commit by default."""
        with self._lock:
            job = self._job(full_name)
            number: int = job.fields["nextBuildNumber"]
            actions = [templates.cause_action([templates.USER_CAUSE] if causes is None else causes)]
            if parameters:
                actions.insert(0, templates.parameters_action(parameters))
            if repo is not None:
                sha = commit or hashlib.sha256(f"{full_name}#{number}".encode()).hexdigest()[:40]
                actions.append(templates.build_data(number, repo, branch, sha))
            begun = self._controller.time() if timestamp is None else timestamp
            job.builds[number] = templates.build(job, number, begun, actions)
            job.fields |= {"nextBuildNumber": number + 1, "inQueue": False, "queueItem": None}
            return number

    def finish_build(
        self, full_name: str, number: int, result: str | None = "SUCCESS", *, duration: int | None = None
    ) -> None:
        """End a build; it took from its timestamp to now unless told otherwise. Older ones may be discarded."""
        with self._lock:
            build = self._build(full_name, number)
            took = self._took(build) if duration is None else duration
            build.fields |= fields(build, Phase.FINAL, result, took)
            build.listed = build.found = True
            build.job.discard()

    def set_phase(self, full_name: str, number: int, phase: Phase | str, result: str | None = None) -> None:
        """Show a build at a moment of its life; it stays there until told otherwise.

        ``result`` is what the phase shows if it shows one; its duration, likewise, is from its timestamp to now.
        """
        with self._lock:
            build = self._build(full_name, number)
            if Phase(phase) is Phase.FINAL:
                self.finish_build(full_name, number, result)
            else:
                build.fields |= fields(build, Phase(phase), result, self._took(build))

    def reveal_build(self, full_name: str, number: int, *, listed: bool = True, found: bool = True) -> None:
        """Say where a build can be seen: in its job's lists, and at its own URL (else 404).

        A build that begins may be seen in neither for a moment although its number is given away, or only listed.
        """
        with self._lock:
            build = self._build(full_name, number)
            build.listed, build.found = listed, found

    def corrupt_build(self, full_name: str, number: int, *, corrupt: bool = True) -> None:
        """Let the export of a build fail: lists leave it out, its own URL answers 500; only its number can be read."""
        with self._lock:
            self._build(full_name, number).corrupt = corrupt

    def update_build(self, full_name: str, number: int, **fields: Any) -> None:
        """Set any field as given: states in between, such as ``building=False, duration=0``."""
        with self._lock:
            self._build(full_name, number).fields.update(fields)

    def set_stages(
        self, full_name: str, number: int, *, wfapi: JsonObject | None = None, overview: JsonObject | None = None
    ) -> None:
        """Set what ``wfapi/describe`` and ``pipeline-overview/tree`` answer; None: 404, as without the plugin."""
        with self._lock:
            answers = {"/".join(STAGES_WFAPI): wfapi, "/".join(STAGES_OVERVIEW): overview}
            self._build(full_name, number).stages = {
                page: answer for page, answer in answers.items() if answer is not None
            }

    def add_builds(
        self,
        full_name: str,
        count: int,
        *,
        result: str = "SUCCESS",
        duration: int = 1_000,
        every: int = 60_000,
        **options: Any,
    ) -> list[int]:
        """Add finished builds, one every so many milliseconds and the last one just ended; return the numbers."""
        with self._lock:
            last = self._controller.time() - duration
            numbers = []
            for index in range(count):
                timestamp = last - (count - 1 - index) * every
                number = self.start_build(full_name, **{"timestamp": timestamp, **options})
                self.finish_build(full_name, number, result, duration=duration)
                numbers.append(number)
            return numbers

    def delete_build(self, full_name: str, number: int) -> None:
        """Delete a build; its number is not used again."""
        with self._lock:
            del self._build(full_name, number).job.builds[number]

    def play(self) -> None:
        """Finish the running builds of ``deploy/shop`` and start another: a demo, when called now and then."""
        with self._lock:
            if self._controller.root.find(DEMO_JOB) is None:
                self.add_job(DEMO_JOB)
            job = self._job(DEMO_JOB)
            for number in [build.number for build in job.builds.values() if build.building]:
                self.finish_build(DEMO_JOB, number, _DEMO_RESULTS[number % len(_DEMO_RESULTS)])
            upcoming: int = job.fields["nextBuildNumber"]
            environment = _DEMO_ENVIRONMENTS[upcoming % len(_DEMO_ENVIRONMENTS)]
            self.start_build(DEMO_JOB, parameters={"ENVIRONMENT": environment}, repo=_DEMO_REPO)

    def _took(self, build: Build) -> int:
        began: int = build.fields["timestamp"]
        return max(1, self._controller.time() - began)

    def _interrupt(self, build: Build, interrupted: Interrupted) -> None:
        if interrupted is Interrupted.VANISHED:
            del build.job.builds[build.number]
        elif interrupted is Interrupted.ABORTED:
            self.finish_build(build.job.full_name, build.number, "ABORTED")

    # -- finding -------------------------------------------------------------------------------------------

    def _item(self, full_name: str) -> Item:
        item = self._controller.root.find(full_name)
        if item is None:
            raise KeyError(full_name)
        return item

    def _job(self, full_name: str) -> Item:
        item = self._item(full_name)
        if "builds" not in item.fields:
            raise KeyError(f"{full_name} is a folder")
        return item

    def _build(self, full_name: str, number: int) -> Build:
        return self._job(full_name).builds[number]

    def _place_for(self, full_name: str) -> tuple[Item, str]:
        *above, name = full_name.split("/")
        parent = self._controller.root
        for part in above:
            parent = parent.children.get(part) or templates.folder(FolderKind.FOLDER, parent, part)
            if "jobs" not in parent.fields:
                raise ValueError(f"{parent.full_name} is a job and holds no others")
        if parent.below(name) is not None:
            raise ValueError(f"{full_name} exists already")
        return parent, name
