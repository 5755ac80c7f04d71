"""Rules: which jobs deploy, and the templates that say where to and what."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from agent.model.build import PARAMETERS_TEXT, TOO_LONG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agent.model.status import Status

_FIELD = re.compile(r"\{([^{}]*)\}")
_PLAIN_FIELDS = ("job", "job.environment", "number", "repo_url", "branch", "commit")
DEFAULT_JOBS = "re:(?i)deploy"
DEFAULT_ENVIRONMENT = "{params.ENVIRONMENT}|{job.environment}"
# Of a rule whose pattern for stages names the environment; the rest is for builds whose stages cannot be read.
STAGE_ENVIRONMENT = f"{{environment}}|{DEFAULT_ENVIRONMENT}"


class RuleError(ValueError):
    """A pattern or template makes no sense; the message says what to write instead."""


class MaskedParameterError(ValueError):
    """A template reads a parameter without a value that Jenkins tells, such as a password, and nothing else helps."""


@dataclass(frozen=True)
class Pattern:
    """A glob (``*`` within a folder, ``**`` across folders), or ``re:`` and an expression.

    It is held against a job's full name, a stage's name, or a repository as ``github.com/acme/shop``.
    """

    text: str
    expression: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Raises :class:`RuleError`."""
        if not text.startswith("re:"):
            return cls(text, re.compile(_glob(text)))
        try:
            return cls(text, re.compile(text.removeprefix("re:")))
        except (re.error, OverflowError, RecursionError) as error:
            raise RuleError(f"{text!r} is no regular expression: {error}") from None

    def match(self, name: str) -> dict[str, str] | None:
        """The named groups when the name matches, else None. ``re:`` may match anywhere in the name."""
        found = self.expression.search(name)
        return None if found is None else {k: v for k, v in found.groupdict().items() if v is not None}


def _glob(text: str) -> str:
    """``**/`` stands for any folders or none, ``**`` for anything, ``*`` and ``?`` for anything but a slash."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", text)
    return r"\A(?s:" + "".join(words.get(part) or re.escape(part) for part in parts) + r")\Z"


@dataclass(frozen=True)
class Template:
    """``{params.ENVIRONMENT}|production``: the first alternative whose fields all have a value.

    Fields: ``{params.NAME}`` (a build parameter), ``{job}`` (full name), ``{job.environment}`` (what the job's name
    says), ``{number}``, what the build checked out as ``{repo_url}``, ``{branch}`` and ``{commit}``, and the named
    groups of the rule's ``re:`` patterns; a rule for stages has ``{stage}``, the stage's name, too.
    """

    text: str
    alternatives: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, groups: Iterable[str] = ()) -> Template:
        """Raises :class:`RuleError` for a field that does not exist or braces that do not pair."""
        known = (*_PLAIN_FIELDS, *groups)
        for name in _FIELD.findall(text):
            if "|" in name:
                raise RuleError(f"{text!r}: the | stands between braces: {{{name.replace('|', '}|{')}}}")
            if name not in known and not (name.startswith("params.") and len(name) > len("params.")):
                fields = ", ".join(f"{{{each}}}" for each in ("params.NAME", *known))
                raise RuleError(f"{text!r}: there is no field {{{name}}}; there are {fields}")
        if "{" in (rest := _FIELD.sub("", text)) or "}" in rest:
            raise RuleError(f"{text!r}: a brace has no partner")
        alternatives = tuple(part.strip() for part in text.split("|"))
        if not all(alternatives):
            raise RuleError(f"{text!r}: there is nothing on one side of a |")
        return cls(text, alternatives)

    def render(
        self, fields: Mapping[str, str], masked: Iterable[str] = (), kinds: Mapping[str, str] | None = None
    ) -> str | None:
        """The text, or None when every alternative lacks a value. Raises :class:`MaskedParameterError`."""
        alternative = self.choose(fields, masked, kinds)
        if alternative is None:
            return None
        return _FIELD.sub(lambda found: fields[found[1]].strip(), alternative)

    def choose(
        self, fields: Mapping[str, str], masked: Iterable[str] = (), kinds: Mapping[str, str] | None = None
    ) -> str | None:
        """The alternative that :meth:`render` takes, as it is written.

        ``masked``: parameters without a value; ``kinds`` says what they are. Raises :class:`MaskedParameterError` when
        no alternative has a value, and one would have had it but for such a parameter.
        """
        passed_over = ""
        for alternative in self.alternatives:
            names = fields_of(alternative)
            valueless = valueless_of(names, masked)
            if valueless:
                passed_over = passed_over or valueless[0]
            elif all(fields.get(name, "").strip() for name in names):
                return alternative
        if passed_over:
            raise MaskedParameterError(without_value(passed_over, kinds or {}))
        return None


def valueless_of(names: Iterable[str], masked: Iterable[str]) -> list[str]:
    """Those fields of a template that are parameters without a value."""
    without = {f"params.{name}" for name in masked}
    return [name for name in names if name in without]


def without_value(field: str, kinds: Mapping[str, str]) -> str:
    """Why ``params.NAME`` has no value, in words."""
    kind = kinds.get(field.removeprefix("params."), "password")
    if kind == TOO_LONG:
        return (
            f"{{{field}}} is not kept: the parameters of the build have more than {PARAMETERS_TEXT} characters together"
        )
    told = "which build it names, and no text" if kind == "run" else "no value"
    return f"{{{field}}} is a {kind} parameter, of which Jenkins tells {told}"


def fields_of(alternative: str) -> list[str]:
    """The names between the braces: ``{params.APP}-{branch}`` has ``params.APP`` and ``branch``."""
    return _FIELD.findall(alternative)


@dataclass(frozen=True)
class Rule:
    """One ``[[deployment]]`` table. None: the field is taken from the build alone.

    ``repository`` chooses among the repositories that a build checked out; ``checkouts`` says whether one of them or
    each gives an event. With ``stage`` the events are those of the stages that match; ``attempts`` says whether stages
    of one name in one build are one event or one each, ``without_stages`` what to do when they cannot be read.
    """

    job: Pattern
    environment: Template
    repo_url: Template | None = None
    branch: Template | None = None
    image: Template | None = None
    repository: Pattern | None = None
    checkouts: Literal["one", "each"] = "one"
    stage: Pattern | None = None
    attempts: Literal["last", "each"] = "last"
    without_stages: Literal["build", "none"] = "build"


@dataclass(frozen=True)
class Match:
    """The rule that a job's name matched, with the named groups of its pattern."""

    rule: Rule
    groups: dict[str, str]


def default_rules() -> tuple[Rule, ...]:
    """Without any ``[[deployment]]`` table: jobs with "deploy" in the name are deployments."""
    return (Rule(Pattern.parse(DEFAULT_JOBS), Template.parse(DEFAULT_ENVIRONMENT)),)


def first_match(rules: Iterable[Rule], full_name: str) -> Match | None:
    """The first rule whose pattern matches the job's full name; None: builds of this job are no deployments."""
    for rule in rules:
        groups = rule.job.match(full_name)
        if groups is not None:
            return Match(rule, groups)
    return None


def described(rules: Sequence[Rule], match: Match) -> str:
    """Which rule it is, for people."""
    index = next((number for number, rule in enumerate(rules, 1) if rule is match.rule), 1)
    return f'[[deployment]] number {index}, job = "{match.rule.job.text}"'


def match_of_reporting(rules: Iterable[Rule], full_name: str) -> Match:
    """The match for a build that reports itself: no rule has to match its job."""
    implied = Rule(Pattern(full_name, re.compile(re.escape(full_name))), Template.parse(DEFAULT_ENVIRONMENT))
    return first_match(rules, full_name) or Match(implied, {})


# How repository URLs are written: as they were found, or as https://host/path.
UrlForm = Literal["as-is", "https"]


@dataclass(frozen=True)
class Options:
    """What the configuration says about the events of all rules.

    ``status_map``: Jenkins' result to a status, instead of Hivel's own table. ``environment_map``: the name that a
    rule gives, in lower case, to the name that is sent. ``libraries``: repositories that are never the application's.
    """

    status_map: Mapping[str, Status] = field(default_factory=dict)
    environment_map: Mapping[str, str] = field(default_factory=dict)
    libraries: tuple[Pattern, ...] = ()
    url_form: UrlForm = "as-is"
