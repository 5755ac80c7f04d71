"""A Jenkins on this machine. Python code starts, finishes and deletes its builds."""

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
    """Serves jobs and builds through the URLs of a real Jenkins. Tests change them over time.

    ``with LocalServer(LocalJenkins.recorded().app) as server: …``. The application can run in another thread.
    Jobs have their full name as in Jenkins: ``team-a/api``, ``shop-mb/feature%2Fx``. ``root_url``: the address that is
    configured in Jenkins and that its ``url`` fields begin with. It can differ from the polled address.
    An unknown job or build raises :class:`KeyError`.

    Its clock is ``now_ms`` plus ``skew_ms``: timestamps, durations and the ``Date`` header follow it.
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

    # -- serving -------------------------------------------------------------------------------------------

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
        """Let ``hook(path, query)`` answer in place of Jenkins. If it returns None, Jenkins answers.

        The path is as sent, the query is decoded. The response can be any ASGI application, such as one that resets
        the connection. None removes the hook.
        """
        self._application.hook = hook

    @property
    def skew_ms(self) -> int:
        """How far its clock is ahead of ``now_ms``; negative: behind. It can be set at any time."""
        return self._controller.skew_ms

    @skew_ms.setter
    def skew_ms(self, ms: int) -> None:
        self._controller.skew_ms = ms

    @property
    def now_ms(self) -> int:
        """The time of its clock, UTC milliseconds."""
        return self._controller.time()

    def stop(self) -> None:
        """Refuse every connection, as if the process had ended."""
        self._controller.availability = Availability.DOWN

    def boot(self) -> None:
        """Answer everything with 503 and a page, like a Jenkins that is starting."""
        self._controller.availability = Availability.STARTING

    def restart(self, interrupted: Interrupted | str = Interrupted.GOES_ON) -> None:
        """Answer again, with another ``X-Jenkins-Session``. Running pipelines continue, other builds as given."""
        with self._lock:
            for job in self._controller.root.everything():
                for build in [build for build in job.builds.values() if build.building]:
                    if build.json_class != PIPELINE_RUN:
                        self._interrupt(build, Interrupted(interrupted))
            self._controller.session = hashlib.sha256(self._controller.session.encode()).hexdigest()[:8]
            self._controller.availability = Availability.UP

    def builds(self, full_name: str) -> list[tuple[str, JsonObject]]:
        """The builds of a job, each as the full name and the JSON at depth 0, oldest first."""
        with self._lock:
            return [(full_name, build.whole()) for build in self._job(full_name).builds.values()]

    def numbers(self, full_name: str) -> list[int]:
        """The numbers of a job's builds, ascending, including builds that are not visible."""
        with self._lock:
            return list(self._job(full_name).builds)

    def all_builds(self) -> list[tuple[str, JsonObject]]:
        """The builds of all jobs, including matrix configurations, job by job."""
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
        """Delete a job with its builds, or a folder with its content. A job that is added again starts at 1."""
        with self._lock:
            self._item(full_name).remove()

    def rename_job(self, old: str, new: str) -> None:
        """Rename or move a job: every URL changes, the builds stay the same, and the old address gives 404."""
        with self._lock:
            item = self._item(old)
            parent, name = self._place_for(new)
            item.remove()
            item.place(parent, name)
            templates.show_as(item, name)

    def hide(self, full_name: str) -> None:
        """Hide a job, or a folder with its content: not listed, 404 on its URLs, and not shown by executors."""
        with self._lock:
            self._item(full_name).hidden = True

    def show(self, full_name: str) -> None:
        """Undo :meth:`hide`."""
        with self._lock:
            self._item(full_name).hidden = False

    def disable_job(self, full_name: str, *, disabled: bool = True) -> None:
        """Disable a job, like the branch job of a deleted branch, or enable it again. Its builds stay."""
        with self._lock:
            self._job(full_name).fields |= {"disabled": disabled, "buildable": not disabled}

    def set_page(self, full_name: str, url: str) -> None:
        """Set the page of a branch job, such as that of a pull request, as branch sources do."""
        with self._lock:
            page = {"_class": "jenkins.scm.api.metadata.ObjectMetadataAction", "objectUrl": url}
            job = self._job(full_name)
            job.fields["actions"] = [*job.fields.get("actions", []), page]

    def keep_builds(self, full_name: str, newest: int | None) -> None:
        """Keep only this number of the newest builds whenever a build ends; None: keep all.

        As in Jenkins, the last stable, the last successful and running builds are always kept.
        """
        with self._lock:
            self._job(full_name).keep = newest

    def has_job(self, full_name: str) -> bool:
        """Whether a job with this name exists."""
        with self._lock:
            item = self._controller.root.find(full_name)
            return item is not None and "builds" in item.fields

    def next_build_number(self, full_name: str) -> int:
        """The number of the next build that leaves the queue."""
        with self._lock:
            number: int = self._job(full_name).fields["nextBuildNumber"]
            return number

    def set_next_build_number(self, full_name: str, number: int) -> None:
        """Increase the next build number. Jenkins does not allow to decrease it."""
        with self._lock:
            job = self._job(full_name)
            if number <= max(job.builds, default=0):
                raise ValueError(f"{full_name} already has a build {max(job.builds)}")
            job.fields["nextBuildNumber"] = number

    # -- builds --------------------------------------------------------------------------------------------

    def queue_build(self, full_name: str) -> None:
        """Add a build to the queue, without a number yet. The next started build leaves the queue."""
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
        """Start a build and return its number. With ``repo`` it has a checkout, by default of an invented commit."""
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
        """End a build. By default it took from its timestamp to now. Older builds can be discarded."""
        with self._lock:
            build = self._build(full_name, number)
            took = self._took(build) if duration is None else duration
            build.fields |= fields(build, Phase.FINAL, result, took)
            build.listed = build.found = True
            build.job.discard()

    def set_phase(self, full_name: str, number: int, phase: Phase | str, result: str | None = None) -> None:
        """Set the phase of a build, until it is changed again.

        ``result``: used if the phase shows a result. If the phase shows a duration, it is from the timestamp to now.
        """
        with self._lock:
            build = self._build(full_name, number)
            if Phase(phase) is Phase.FINAL:
                self.finish_build(full_name, number, result)
            else:
                build.fields |= fields(build, Phase(phase), result, self._took(build))

    def reveal_build(self, full_name: str, number: int, *, listed: bool = True, found: bool = True) -> None:
        """Set where a build is visible: in the lists of its job, and at its own URL (else 404).

        When a build begins, it can be in neither for a moment although it has a number, or only in the lists.
        """
        with self._lock:
            build = self._build(full_name, number)
            build.listed, build.found = listed, found

    def corrupt_build(self, full_name: str, number: int, *, corrupt: bool = True) -> None:
        """Make the export of a build fail: lists leave it out, and its own URL answers 500. Only its number is left."""
        with self._lock:
            self._build(full_name, number).corrupt = corrupt

    def update_build(self, full_name: str, number: int, **fields: Any) -> None:
        """Set any fields, for intermediate states such as ``building=False, duration=0``."""
        with self._lock:
            self._build(full_name, number).fields.update(fields)

    def set_stages(
        self, full_name: str, number: int, *, wfapi: JsonObject | None = None, overview: JsonObject | None = None
    ) -> None:
        """Set the answers of ``wfapi/describe`` and ``pipeline-overview/tree``; None: 404, as without the plugin."""
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
        """Add finished builds at a fixed interval, of which the last one just ended; return their numbers."""
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
        """Finish the running builds of ``deploy/shop`` and start another one. The sandbox calls it at intervals."""
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

    # -- search --------------------------------------------------------------------------------------------

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
                raise ValueError(f"{parent.full_name} is a job and cannot contain jobs")
        if parent.below(name) is not None:
            raise ValueError(f"{full_name} already exists")
        return parent, name
