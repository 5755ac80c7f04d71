"""The questions of `init` in their order, and the check of each answer with Jenkins and Hivel."""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agent.cli.output import console, escape
from agent.cli.preview import show_problems, show_rows
from agent.cli.questions import InitError, Question, Verdict
from agent.config.credentials import Token, TokenError
from agent.config.file import ConfigError, load
from agent.config.rules import DEFAULT_ENVIRONMENT, DEFAULT_JOBS, RuleError, first_match
from agent.config.settings import DeliverySettings
from agent.config.writing import Controller, Draft, configuration, token_file_of
from agent.inspect.addresses import base_of_hivel, base_of_jenkins
from agent.inspect.findings import Level
from agent.inspect.preview import Sample
from agent.inspect.preview import preview as look
from agent.inspect.probes import probe_hivel, probe_jenkins
from agent.inspect.proposals import matching, propose
from agent.model.times import Clock
from agent.sources.jenkins.client import JenkinsClient
from agent.sources.jenkins.history import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from agent.cli.questions import Asker
    from agent.config.settings import Settings
    from agent.inspect.probes import JenkinsProbe
    from agent.inspect.proposals import Proposal
    from agent.sources.jenkins.client import Job

# Short, because a person is waiting for the answer.
TIMEOUT_MS = 10_000
ANONYMOUS = NO_JENKINS = "-"
SKIP, OWN = "s", "o"
# One request for each job. This is enough for a preview.
SAMPLE = Sample(jobs=10, builds=2)
_EVER = Span(0, 1 << 53)
# A placeholder for a token that is not known yet. It is too short to be redacted as a secret.
_NO_TOKEN = Token("-")
_SHOWN = 5
_ABOUT_ENVIRONMENTS = (
    "The environment is a name, such as production, or a template. The default takes the build parameter ENVIRONMENT, "
    "or else a word in the name of the job."
)


@dataclass(frozen=True)
class Given:
    """The answers of the command line; None: no answer."""

    hivel_url: str | None = None
    hivel_token_file: Path | None = None
    jenkins_url: str | None = None
    jenkins_name: str | None = None
    username: str | None = None
    jenkins_token_file: Path | None = None
    contact: str | None = None
    since: str | None = None
    jobs: tuple[str, ...] = ()
    environment: str | None = None


def settings_of(draft: Draft) -> Settings:
    """The settings that the agent would load from this draft. Raises :class:`ConfigError`."""
    with tempfile.TemporaryDirectory(prefix="hivel-agent-init-") as name:
        file = Path(name) / "config.toml"
        file.write_text(configuration(draft, token_files=True), encoding="utf-8")  # it contains no token
        settings = load(file, tokens=False)
    controllers = tuple(
        replace(each, token=draft.controller.token, timeout_ms=TIMEOUT_MS) for each in settings.controllers
    )
    hivel = replace(settings.hivel, token=draft.hivel_token or _NO_TOKEN)
    return replace(settings, hivel=hivel, controllers=controllers)


class Interview:
    """Asks for everything that the command line does not answer. Every method raises :class:`InitError`.

    ``offline``: send no request. ``known``: the settings of the existing file, for defaults.
    """

    def __init__(self, asker: Asker, given: Given, *, offline: bool, known: Settings | None = None) -> None:
        self._asker = asker
        self._given = given
        self._offline = offline
        self._known = known
        self._draft = Draft()
        self._jobs: list[Job] | None = None

    def everything(self) -> Draft:
        """Ask for a whole configuration."""
        self._hivel()
        self._controller(taken=None)
        self._contact()
        if self._draft.polls:
            self._rules()
        return self._draft

    def controller(self, existing: Settings) -> Controller:
        """Ask for one more controller. Its jobs are matched against the existing rules."""
        self._controller(taken=[each.name for each in existing.controllers])
        if not self._offline:
            settings = settings_of(self._draft)
            agent = existing.hivel.user_agent
            controllers = tuple(replace(each, user_agent=agent) for each in settings.controllers)
            self._preview(replace(existing, controllers=controllers))
        return self._draft.controller

    # ---- Hivel

    def _hivel(self) -> None:
        default = self._draft.hivel_url if self._known is None else self._known.hivel.url
        self._ask(Question("Hivel address", "--hivel-url", default), self._given.hivel_url, self._hivel_url)
        question = Question("Hivel API key (not shown)", "--hivel-token-file", hidden=True)
        given = self._token(self._given.hivel_token_file, "HIVEL_API_TOKEN", question)
        self._ask(question, given, self._hivel_token)

    def _hivel_url(self, text: str) -> Verdict:
        if (base := base_of_hivel(text)) is not None:
            return _page(text, base, "Hivel")
        return self._try(replace(self._draft, hivel_url=text), self._probe_hivel)

    def _hivel_token(self, text: str) -> Verdict:
        try:
            token = Token.checked(text, "the answer")
        except TokenError as error:
            return Verdict.bad(str(error), malformed=True)
        return self._try(replace(self._draft, hivel_token=token), self._probe_hivel)

    def _probe_hivel(self, settings: Settings) -> Verdict:
        delivery = DeliverySettings(timeout_ms=TIMEOUT_MS)
        probe = asyncio.run(probe_hivel(settings.hivel, delivery, Clock()))
        knows_token = settings.hivel.token is not _NO_TOKEN
        if probe.accepted and knows_token:
            words = f"{settings.hivel.deployment_url} accepts the token (no event was sent)"
            return Verdict.good(words) if probe.problem is None else _warned(str(probe.problem))
        if not knows_token and (probe.accepted or probe.status in (401, 403)):
            return Verdict.good(f"{settings.hivel.deployment_url} answers")
        return Verdict.bad(str(probe.problem), better=probe.better_url)

    # ---- Jenkins

    def _controller(self, taken: Collection[str] | None) -> None:
        """``taken``: the names of the controllers that exist; None: this is a new configuration."""
        known = None if self._known is None or taken is not None else next(iter(self._known.controllers), None)
        default = None if known is None else known.url
        if taken is None:
            if self._asker.interactive and self._given.jenkins_url is None:
                console().print(f"Without a Jenkins, answer {NO_JENKINS}: deployments are then reported to the intake.")
            check = self._jenkins_url_or_none
        else:
            check = self._jenkins_url
        self._ask(Question("Jenkins address", "--jenkins-url", default), self._given.jenkins_url, check)
        if not self._draft.polls:
            return
        url = self._draft.controller.url
        same = known is not None and known.url.rstrip("/") == url.rstrip("/")
        name = known.name if known is not None and same else _name_of(url)
        self._ask(
            Question("Controller name, part of every deployment_id; do not change it later", "--jenkins-name", name),
            self._given.jenkins_name,
            lambda text: self._name(text, taken),
        )
        self._user(known.username if known is not None and same else None)
        since = "Report builds that ended since (now, 7d, 2026-01-31)"
        self._ask(Question(since, "--since", "now"), self._given.since, self._since)

    def _jenkins_url_or_none(self, text: str) -> Verdict:
        if text == NO_JENKINS:
            self._draft = replace(self._draft, polls=False)
            return Verdict.good("no Jenkins is polled")
        self._draft = replace(self._draft, polls=True)
        return self._jenkins_url(text)

    def _jenkins_url(self, text: str) -> Verdict:
        if (base := base_of_jenkins(text)) is not None:
            return _page(text, base, "Jenkins")
        return self._try(self._with(url=text), self._probe_address)

    def _probe_address(self, settings: Settings) -> Verdict:
        probe = probe_jenkins(settings.controllers[0], jobs=False)
        if probe.is_jenkins and probe.better_url is None:
            version = f" {probe.about.version}" if probe.about is not None and probe.about.version else ""
            return Verdict.good(f"Jenkins{version} answers at {settings.controllers[0].url}")
        words = "; ".join(map(str, probe.problems)) or f"{settings.controllers[0].url} is not Jenkins"
        return Verdict.bad(words, better=probe.better_url)

    def _name(self, text: str, taken: Collection[str] | None) -> Verdict:
        if taken is not None and text in taken:
            return Verdict.bad(f"another controller already has the name {text!r}; choose another one", malformed=True)
        if taken is not None and token_file_of(text) is None:
            words = f"{text!r} cannot be part of a file name; use letters, digits, hyphens, dots and underscores"
            return Verdict.bad(words, malformed=True)
        return self._try(self._with(name=text), None)

    def _user(self, default: str | None) -> None:
        """Ask for user and token together: if Jenkins refuses them, either one can be wrong."""
        given = self._given.username
        user = Question(f"Jenkins user ({ANONYMOUS} for anonymous access)", "--username", default or "hivel-agent")
        question = Question(
            "API token of this user (not shown)", "--jenkins-token-file", hidden=True, before="the user"
        )
        while True:
            self._ask(user, given, self._username)
            if self._draft.controller.username is None:
                return
            token = self._token(self._given.jenkins_token_file, "JENKINS_API_TOKEN", question)
            if self._ask(question, token, self._jenkins_token):
                return
            given = None

    def _username(self, text: str) -> Verdict:
        if text in ("", ANONYMOUS):
            return self._try(self._with(username=None, token=None), self._probe_user)
        return self._try(self._with(username=text, token=None), None)

    def _jenkins_token(self, text: str) -> Verdict:
        try:
            token = Token.checked(text, "the answer")
        except TokenError as error:
            return Verdict.bad(str(error), malformed=True)
        return self._try(self._with(token=token), self._probe_user)

    def _probe_user(self, settings: Settings) -> Verdict:
        controller = settings.controllers[0]
        probe = probe_jenkins(controller)
        self._jobs = None if probe.snapshot is None else probe.snapshot.jobs
        lines = tuple((each.level, str(each)) for each in probe.problems)
        if probe.usable and probe.about is not None and self._jobs:
            who = "anonymous access" if probe.about.anonymous else f"user {probe.about.user}"
            lines = ((Level.OK, f"{who}: {len(self._jobs)} job(s) visible"), *lines)
        return Verdict(lines, wrong=_needs_another_user(probe, controller.username))

    def _since(self, text: str) -> Verdict:
        return self._try(self._with(since=text), None)

    def _with(self, **changes: object) -> Draft:
        return replace(self._draft, controller=replace(self._draft.controller, **changes))  # type: ignore[arg-type]

    # ---- Contact

    def _contact(self) -> None:
        text = "Contact for administrators of Jenkins and Hivel, in the User-Agent header (Enter: none)"
        self._ask(Question(text, "--contact", ""), self._given.contact, self._contact_text)

    def _contact_text(self, text: str) -> Verdict:
        return self._try(replace(self._draft, contact=text or None), None)

    # ---- Rules

    def _rules(self) -> None:
        """Propose rules from the visible jobs, and preview their events, until the user accepts them."""
        patterns, environment = self._given.jobs, self._given.environment
        for pattern in patterns:
            self._ask(Question("", "--job"), pattern, self._pattern)
        if not self._asker.interactive and not patterns:
            patterns = (DEFAULT_JOBS,)
        while True:
            jobs = patterns or self._chosen()
            self._draft = replace(self._draft, jobs=jobs, environment=DEFAULT_ENVIRONMENT)
            if jobs:
                if self._asker.interactive and environment is None:
                    console().print(_ABOUT_ENVIRONMENTS)
                question = Question("Environment of these deployments", "--environment", DEFAULT_ENVIRONMENT)
                self._ask(question, environment, self._environment)
            if not self._offline and self._jobs:
                self._preview(settings_of(self._draft))
            if patterns or not jobs or self._asker.confirm("Use these rules?", default=True):
                return

    def _chosen(self) -> tuple[str, ...]:
        proposals = propose(self._jobs or ())
        if not proposals:
            return self._own()
        _show_proposals(proposals)
        likely = [str(number) for number, each in enumerate(proposals, 1) if each.likely]
        text = f"Rules to use: numbers, {OWN} for patterns of your own, {SKIP} to skip"
        question = Question(text, "--job", " ".join(likely) or OWN)
        answer = self._asker.ask(question, None, lambda text: _choice(text, len(proposals)))
        if answer == SKIP:
            console().print(f'without rules, builds of jobs that match "{escape(DEFAULT_JOBS)}" are deployments')
            return ()
        if answer is None or answer == OWN:
            return self._own()
        return tuple(dict.fromkeys(proposals[int(number) - 1].pattern for number in answer.split()))

    def _own(self) -> tuple[str, ...]:
        """Ask for patterns, one at a time."""
        found: list[str] = []
        while True:
            text, default = ("Another pattern (Enter: no more)", "") if found else ("Jobs that deploy", DEFAULT_JOBS)
            if not (answer := self._asker.ask(Question(text, "--job", default), None, self._pattern)):
                return tuple(found)
            found.append(answer)

    def _pattern(self, text: str) -> Verdict:
        if not text:
            return Verdict()
        verdict = self._try(replace(self._draft, jobs=(text,)), None, keep=False)
        if verdict.wrong or not self._jobs:
            return verdict
        try:
            jobs = matching(text, (job.full_name for job in self._jobs))
        except RuleError as error:
            return Verdict.bad(str(error), malformed=True)
        if not jobs:
            few = ", ".join(job.full_name for job in self._jobs[:_SHOWN])
            return _warned(f"no visible job matches {text}; there are {few}", wrong=self._asker.interactive)
        return Verdict.good(f"{len(jobs)} job(s), such as {jobs[0]}")

    def _environment(self, text: str) -> Verdict:
        return self._try(replace(self._draft, environment=text), None)

    def _preview(self, settings: Settings) -> None:
        value = look(settings, JenkinsClient, _EVER, SAMPLE)
        out = console()
        if value.rows:
            out.print("\nThe newest builds under these rules:")
            show_rows(value)
        if self._jobs is not None:
            others = [job.full_name for job in self._jobs if first_match(settings.rules, job.full_name) is None]
            out.print(f"{len(self._jobs) - len(others)} of {len(self._jobs)} visible job(s) match a rule")
            if others:
                more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
                out.print(f"without a rule: {escape(', '.join(others[:_SHOWN]))}{more}")
        show_problems(value)

    # ---- Answers

    def _ask(self, question: Question, given: str | None, check: Callable[[str], Verdict]) -> bool:
        """Ask until there is an answer. False: the user wants to answer the previous question again."""
        return self._asker.ask(question, given, check) is not None

    def _try(self, draft: Draft, probe: Callable[[Settings], Verdict] | None, *, keep: bool = True) -> Verdict:
        """Check the draft with one more answer. The draft is kept unless the answer is malformed."""
        try:
            settings = settings_of(draft)
        except ConfigError as error:
            return Verdict.bad(_about(error), malformed=True)
        if keep:
            self._draft = draft
        if probe is None or self._offline:
            return Verdict()
        try:
            return probe(settings)
        except ConfigError as error:  # a proxy in the environment
            return Verdict.bad(str(error))

    def _token(self, file: Path | None, variable: str, question: Question) -> str | None:
        """A token from a file or the environment, never from the command line, which other users can see."""
        try:
            if file is not None:
                return Token.from_file(file).reveal()
        except TokenError as error:
            raise InitError(str(error)) from None
        if value := os.environ.get(variable, "").strip():
            return value
        if not self._asker.interactive:
            raise InitError(f"{question.option} is missing; give it, or set {variable} in the environment")
        return None


def _name_of(url: str) -> str:
    """The first part of the host name. An IP address would be meaningless in a deployment_id."""
    host = urlsplit(url).hostname or ""
    first = host.partition(".")[0]
    return "jenkins" if not first or host == "localhost" or ":" in host or first.isdigit() else first


def _page(url: str, base: str, whose: str) -> Verdict:
    """Ask again with the base address as the default: requests below a page do not reach the API."""
    words = f"{url} is the address of a page of {whose}; the base address is needed"
    return Verdict.bad(words, malformed=True, better=base)


def _needs_another_user(probe: JenkinsProbe, username: str | None) -> bool:
    if not probe.usable or probe.about is None:
        return True
    unknown = probe.about.anonymous and username is not None
    return unknown or not (probe.snapshot is not None and probe.snapshot.jobs)


def _about(error: ConfigError) -> str:
    """The problem without the file name: the file of the draft is temporary."""
    return "; ".join(each.problem for each in error.problems) or str(error)


def _warned(text: str, *, wrong: bool = False) -> Verdict:
    return Verdict(((Level.WARNING, text),), wrong=wrong)


def _show_proposals(proposals: Sequence[Proposal]) -> None:
    out = console()
    out.print("\nRules proposed from the names of the visible jobs:")
    for number, each in enumerate(proposals, 1):
        few = ", ".join(each.jobs[:3])
        more = f", {len(each.jobs) - 3} more" if len(each.jobs) > 3 else ""
        doubt = "" if each.likely else "  (a main branch; use it only if its builds deploy)"
        out.print(f"  {number}  {escape(each.pattern)}   {escape(few)}{more}{doubt}")


def _choice(text: str, count: int) -> Verdict:
    if text in (SKIP, OWN):
        return Verdict()
    numbers = text.split()
    if numbers and all(each.isascii() and each.isdigit() and 1 <= int(each[:4]) <= count for each in numbers):
        return Verdict()
    return Verdict.bad(f"enter numbers from 1 to {count} with spaces between them, {OWN} or {SKIP}", malformed=True)
