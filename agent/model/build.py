"""A finished build, reduced to what deployments are made of."""

from __future__ import annotations

import msgspec


class Checkout(msgspec.Struct, frozen=True):
    """What one ``BuildData`` action says: where sources came from. Credentials are already removed."""

    remote_urls: tuple[str, ...]
    branches: tuple[str, ...]
    commit: str | None


class UpstreamBuild(msgspec.Struct, frozen=True):
    """The build that started this one: the job's full name and the number."""

    job: str
    number: int


class Stage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One stage of a pipeline's build, as one of the stage plugins tells it (see ``agent.deployments.stages``).

    ``status`` is the plugin's own word. Times are UTC milliseconds; ``ended_at`` is 0 for a stage that did not end,
    both are 0 for one that did not start. ``url`` may be a path on the controller; empty when there is no page.
    """

    name: str
    status: str
    started_at: int = 0
    ended_at: int = 0
    url: str = ""


class Reported(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a build said of itself through the hook: from inside it knows more than its JSON tells.

    ``stage``: it is of that stage alone.
    """

    stage: str | None = None
    environment: str | None = None
    repo_url: str | None = None
    branch: str | None = None
    commit_hash: str | None = None
    image: str | None = None
    logs_url: str | None = None
    pr_number: str | None = None
    pr_numbers: tuple[int, ...] = ()


class Build(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A finished build with everything from which its deployments are derived, now or again later.

    ``controller``, ``job`` and ``number`` are left out where it is stored: the fact's key says them. What a single
    answer of Jenkins does not tell is filled in (``msgspec.structs.replace``): ``inherited``, the upstream build that
    had the checkout; ``stages`` (None: not read) or, in words, why they could not be read; ``pull_request_url``, the
    page that a branch job's metadata names. Times are UTC milliseconds.
    """

    controller: str = ""
    job: str = ""
    number: int = 0
    url: str = ""
    result: str | None = None
    started_at: int
    ended_at: int
    branch_job: bool = False
    parameters: dict[str, str] = {}
    masked_parameters: tuple[str, ...] = ()
    checkouts: tuple[Checkout, ...] = ()
    upstream: tuple[UpstreamBuild, ...] = ()
    inherited: Build | None = None
    stages: tuple[Stage, ...] | None = None
    stages_missing: str | None = None
    change_messages: tuple[str, ...] = ()  # newest first
    pull_request_url: str | None = None
    reported: Reported | None = None
    early: bool = False
