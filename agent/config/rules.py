"""Rules: which jobs deploy, and the templates for environment, repository and other fields."""

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
# For rules whose stage pattern has the group ``environment``; the rest is for builds whose stages cannot be read.
STAGE_ENVIRONMENT = f"{{environment}}|{DEFAULT_ENVIRONMENT}"


class RuleError(ValueError):
    """A pattern or template is not valid; the message says what to write instead."""


class MaskedParameterError(ValueError):
    """A template needs a parameter whose value Jenkins does not show, such as a password."""


@dataclass(frozen=True)
class Pattern:
    """A glob (``*`` within a folder, ``**`` across folders), or ``re:`` and a regular expression.

    It is matched against the full name of a job, the name of a stage, or a repository such as ``github.com/acme/shop``.
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
            raise RuleError(f"{text!r} is not a regular expression: {error}") from None

    def match(self, name: str) -> dict[str, str] | None:
        """The named groups if the name matches, else None. ``re:`` can match anywhere in the name."""
        found = self.expression.search(name)
        return None if found is None else {k: v for k, v in found.groupdict().items() if v is not None}


def _glob(text: str) -> str:
    """``**/`` matches any number of folders, ``**`` anything, ``*`` and ``?`` anything except a slash."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", text)
    return r"\A(?s:" + "".join(words.get(part) or re.escape(part) for part in parts) + r")\Z"


@dataclass(frozen=True)
class Template:
    """A template such as ``{params.ENVIRONMENT}|production``: the first alternative whose fields all have a value.

    Fields: ``{params.NAME}`` (a build parameter), ``{job}`` (full name), ``{job.environment}`` (the environment in the
    job's name), ``{number}``, ``{repo_url}``, ``{branch}`` and ``{commit}`` (of the checkout), the named groups of the
    rule's ``re:`` patterns and, in a rule with ``stage``, ``{stage}`` (the name of the stage).
    """

    text: str
    alternatives: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, groups: Iterable[str] = ()) -> Template:
        """Parse a template. Raises :class:`RuleError` for an unknown field or an unpaired brace."""
        known = (*_PLAIN_FIELDS, *groups)
        for name in _FIELD.findall(text):
            if "|" in name:
                raise RuleError(f"{text!r}: write the | between braces: {{{name.replace('|', '}|{')}}}")
            if name not in known and not (name.startswith("params.") and len(name) > len("params.")):
                fields = ", ".join(f"{{{each}}}" for each in ("params.NAME", *known))
                raise RuleError(f"{text!r}: there is no field {{{name}}}; use {fields}")
        if "{" in (rest := _FIELD.sub("", text)) or "}" in rest:
            raise RuleError(f"{text!r}: a brace is not paired")
        alternatives = tuple(part.strip() for part in text.split("|"))
        if not all(alternatives):
            raise RuleError(f"{text!r}: one side of a | is empty")
        return cls(text, alternatives)

    def render(
        self, fields: Mapping[str, str], masked: Iterable[str] = (), kinds: Mapping[str, str] | None = None
    ) -> str | None:
        """The text, or None if every alternative lacks a value. Raises :class:`MaskedParameterError`."""
        alternative = self.choose(fields, masked, kinds)
        if alternative is None:
            return None
        return _FIELD.sub(lambda found: fields[found[1]].strip(), alternative)

    def choose(
        self, fields: Mapping[str, str], masked: Iterable[str] = (), kinds: Mapping[str, str] | None = None
    ) -> str | None:
        """The source text of the alternative that :meth:`render` uses.

        ``masked``: parameters without a value; ``kinds``: their types. Raises :class:`MaskedParameterError` if no
        alternative has a value only because of such a parameter.
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
    """The fields of a template that are parameters without a value."""
    without = {f"params.{name}" for name in masked}
    return [name for name in names if name in without]


def without_value(field: str, kinds: Mapping[str, str]) -> str:
    """Why ``params.NAME`` has no value, for people."""
    kind = kinds.get(field.removeprefix("params."), "password")
    if kind == TOO_LONG:
        return f"{{{field}}} was not stored: the parameters of the build are longer than {PARAMETERS_TEXT} characters"
    told = "only the build that it selects" if kind == "run" else "no value"
    return f"{{{field}}} is a {kind} parameter, for which Jenkins shows {told}"


def fields_of(alternative: str) -> list[str]:
    """The names in braces: ``params.APP`` and ``branch`` for ``{params.APP}-{branch}``."""
    return _FIELD.findall(alternative)


@dataclass(frozen=True)
class Rule:
    """One ``[[deployment]]`` table. None: the field is taken from the build.

    ``repository`` selects among the repositories that a build checked out; ``checkouts``: one event for one of them, or
    one for each. With ``stage``, each matching stage is an event; ``attempts``: whether stages with the same name in
    one build are one event or several; ``without_stages``: what to do if the stages cannot be read.
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
    """The rules without any ``[[deployment]]`` table: builds of jobs with "deploy" in the name are deployments."""
    return (Rule(Pattern.parse(DEFAULT_JOBS), Template.parse(DEFAULT_ENVIRONMENT)),)


def first_match(rules: Iterable[Rule], full_name: str) -> Match | None:
    """The first rule that matches the full name of the job, or None: builds of this job are not deployments."""
    for rule in rules:
        groups = rule.job.match(full_name)
        if groups is not None:
            return Match(rule, groups)
    return None


def described(rules: Sequence[Rule], match: Match) -> str:
    """The rule in a text for people."""
    index = next((number for number, rule in enumerate(rules, 1) if rule is match.rule), 1)
    return f'[[deployment]] number {index}, job = "{match.rule.job.text}"'


def match_of_reporting(rules: Iterable[Rule], full_name: str) -> Match:
    """The match for a build that reports itself. Its job does not need a rule."""
    implied = Rule(Pattern(full_name, re.compile(re.escape(full_name))), Template.parse(DEFAULT_ENVIRONMENT))
    return first_match(rules, full_name) or Match(implied, {})


# The form of repository URLs: as found, or as https://host/path.
UrlForm = Literal["as-is", "https"]


@dataclass(frozen=True)
class Options:
    """Options for the events of all rules.

    ``status_map``: status by result of Jenkins, in place of Hivel's table. ``environment_map``: the name that is sent,
    by the name that a rule gives, in lower case. ``libraries``: repositories that are never the application.
    """

    status_map: Mapping[str, Status] = field(default_factory=dict)
    environment_map: Mapping[str, str] = field(default_factory=dict)
    libraries: tuple[Pattern, ...] = ()
    url_form: UrlForm = "as-is"
