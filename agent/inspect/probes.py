"""Probes: can the agent work with this Jenkins, or with Hivel? Nothing is changed, and no event is sent.

``check`` probes all of them; ``init`` probes after each answer. Problems are values, not exceptions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agent.delivery.answers import Verdict, classify
from agent.delivery.hivel import HivelClient
from agent.inspect.addresses import base_of_hivel, base_of_jenkins
from agent.inspect.findings import Level
from agent.sources.jenkins.client import JenkinsClient, JenkinsError, UnauthorizedError

if TYPE_CHECKING:
    from agent.config.settings import DeliverySettings, HivelSettings, JenkinsSettings
    from agent.model.times import Clock
    from agent.sources.jenkins.client import About, Snapshot

# Usual context paths of Jenkins behind a web server.
_CONTEXT_PATHS = ("jenkins",)


@dataclass(frozen=True)
class Problem:
    """What is wrong, and what to do (empty if ``problem`` says it)."""

    level: Level
    problem: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.problem}; {self.advice}" if self.advice else self.problem


@dataclass(frozen=True)
class JenkinsProbe:
    """The result for a controller.

    ``reachable``: there was an HTTP answer. ``is_jenkins``: it came from Jenkins. ``about``: the agent's user; None if
    Jenkins did not accept the credentials. ``snapshot``: the jobs; None if they were not read. ``better_url``: the
    address where Jenkins was found instead.
    """

    reachable: bool
    is_jenkins: bool
    about: About | None = None
    snapshot: Snapshot | None = None
    problems: tuple[Problem, ...] = ()
    better_url: str | None = None

    @property
    def usable(self) -> bool:
        """Whether the agent can work with it. There can be warnings."""
        return self.about is not None and all(each.level is not Level.ERROR for each in self.problems)


@dataclass(frozen=True)
class HivelProbe:
    """The result for Hivel. ``accepted``: the token is accepted. ``status``: the HTTP status; None without an answer.

    ``better_url``: the base address, if the configured address is an endpoint.
    """

    accepted: bool
    status: int | None = None
    problem: Problem | None = None
    better_url: str | None = None


def probe_jenkins(controller: JenkinsSettings, *, jobs: bool = True) -> JenkinsProbe:
    """Request the agent's user and, with ``jobs``, the jobs that it can see.

    Without ``username`` in the settings, this finds out whether the address is a Jenkins: one that requires
    credentials is ``is_jenkins``, but not ``usable``. Raises :class:`agent.config.file.ConfigError` if the environment
    names an unusable proxy.
    """
    client = JenkinsClient(controller)
    try:
        about = client.about()
    except JenkinsError as error:
        better = _elsewhere(controller, error)
        problem = _why_not(controller, error, better)
        return JenkinsProbe(
            reachable=error.status is not None or better is not None,
            is_jenkins=error.from_jenkins,
            problems=(problem,),
            better_url=better,
        )
    else:
        problems = tuple(_about(controller, about))
        if not jobs:
            return JenkinsProbe(reachable=True, is_jenkins=True, about=about, problems=problems)
        return _with_jobs(client, about, problems)
    finally:
        client.close()


def _with_jobs(client: JenkinsClient, about: About, problems: tuple[Problem, ...]) -> JenkinsProbe:
    try:
        snapshot = client.snapshot()
    except JenkinsError as error:
        problems = (*problems, Problem(Level.ERROR, str(error)))
        return JenkinsProbe(reachable=True, is_jenkins=True, about=about, problems=problems)
    found = [Problem(Level.WARNING, problem) for problem in snapshot.problems]
    if not snapshot.jobs:
        found.append(Problem(Level.WARNING, "no job is visible", "give the user Job/Read in Jenkins, also on folders"))
    return JenkinsProbe(reachable=True, is_jenkins=True, about=about, snapshot=snapshot, problems=(*problems, *found))


def _about(controller: JenkinsSettings, about: About) -> list[Problem]:
    found = []
    if about.version is None:
        found.append(
            Problem(
                Level.WARNING,
                f"the answer of {controller.url} has no X-Jenkins header",
                "if this is not Jenkins, correct [[jenkins]] url; if a proxy removes the header, change the proxy",
            )
        )
    if about.anonymous and controller.username is not None:
        found.append(
            Problem(
                Level.WARNING,
                f"Jenkins treats the agent as anonymous, although [[jenkins]] username is {controller.username}: it "
                "did not receive or did not accept the API token",
                "check username and token_file, and that a proxy in front of Jenkins passes the Authorization header",
            )
        )
    return found


def _why_not(controller: JenkinsSettings, error: JenkinsError, better: str | None) -> Problem:
    if better is not None:
        return Problem(
            Level.ERROR,
            f"{controller.url} is not the address of Jenkins ({error.status or 'no answer'}), but {better} is",
            f'write url = "{better}"',
        )
    if error.status == 404 and not error.from_jenkins:
        return Problem(
            Level.ERROR,
            f"{controller.url} answers 404 without an X-Jenkins header: there is no Jenkins at this address",
            "write the address of Jenkins' start page into [[jenkins]] url, with its context path if it has one, such "
            "as http://host:8080/jenkins",
        )
    return Problem(Level.ERROR, str(error))


def _elsewhere(controller: JenkinsSettings, error: JenkinsError) -> str | None:
    """An address where Jenkins answers, close to one where it does not."""
    if error.status is None or error.status == 407 or (error.from_jenkins and error.status != 404):
        return None
    base = base_of_jenkins(controller.url)
    here = (base or controller.url).rstrip("/")
    at_root = not urlsplit(here).path
    candidates = [*([f"{here}/"] if base else []), *(f"{here}/{path}/" for path in _CONTEXT_PATHS if at_root)]
    return next((url for url in candidates if _is_jenkins(replace(controller, url=url))), None)


def _is_jenkins(controller: JenkinsSettings) -> bool:
    client = JenkinsClient(controller)
    try:
        return client.about().version is not None
    except JenkinsError as error:
        return error.from_jenkins and isinstance(error, UnauthorizedError)
    finally:
        client.close()


async def probe_hivel(hivel: HivelSettings, delivery: DeliverySettings, clock: Clock) -> HivelProbe:
    """Post an empty object. Hivel accepts the token, and then refuses the object with 400 because it is not an event.

    Raises :class:`agent.config.file.ConfigError` if the environment names an unusable proxy.
    """
    async with HivelClient(hivel, delivery, clock) as client:
        answer = await client.post(b"{}")
    if answer.status in (400, 422):
        return HivelProbe(accepted=True, status=answer.status)
    better, url = base_of_hivel(hivel.url), hivel.deployment_url
    outcome = classify(answer, "", clock.now_ms())
    if outcome.verdict is Verdict.DELIVERED:
        return HivelProbe(
            accepted=True,
            status=answer.status,
            problem=Problem(Level.WARNING, f"{url} accepted an empty event: is this Hivel?"),
            better_url=better,
        )
    advice = "" if better is None else f'write the base address: url = "{better}"'
    return HivelProbe(
        accepted=False,
        status=answer.status,
        problem=Problem(Level.ERROR, f"{url}: {outcome.reason}", advice),
        better_url=better,
    )
