"""Rows of older outboxes: what they become, and that their builds are recognised when they are told of again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given
from msgspec.structs import replace

from agent.model import event as events
from agent.model import fact as facts
from agent.model.build import Stage
from agent.model.deployment import Name, Scope, State, event_of
from agent.model.fact import Kind
from agent.model.ids import LONGEST, limited_id, part_deployment_id, reused_number_id
from agent.model.keys import GIVEN_IDS, Project, Run, jenkins_run, run_of_id
from agent.model.status import Status
from agent.outbox.sqlite.older import Converted, Older, OldRow, UnsoundError
from agent.outbox.sqlite.older_ids import OldIds, OldKey
from tests.unit.facts import HOUR, MINUTE, NOON, REPO, RUN, World, build, rules, said

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.model.build import Build


END = NOON + 5 * MINUTE
NAME = "main:deploy/shop#12"
PAGE = "https://jenkins.example.test/job/deploy/job/shop/12/"
JOBS = [("main", "deploy/shop"), ("main", "deploy/other")]


def payload(name: str = NAME, start: int = NOON, end: int = END, **fields: Any) -> str:
    """The JSON of an event as older versions stored it."""
    told: dict[str, Any] = {
        "status": Status.SUCCESS, "repo_url": REPO, "environment": "production", "branch": "main",
        "build_number": "12", "logs_url": PAGE,
    }  # fmt: skip
    event = events.completed(deployment_id=name, started_at=start, ended_at=end, **(told | fields))
    return events.encode(event).decode()


def source(built: Build | None = None, *, early: bool = False, **reported: Any) -> str:
    """The JSON from which older versions derived an event; ``reported``: what the build said of itself."""
    kept = replace(built or build(NOON, END), controller="main", job="deploy/shop", number=12)
    told = msgspec.to_builtins(kept)
    if reported:
        told["reported"] = reported
    if early:
        told = {key: told[key] for key in ("controller", "job", "number", "started_at", "ended_at", "reported")}
        told |= {"early": True, "result": "SUCCESS", "url": PAGE}
    return msgspec.json.encode(told).decode()


def row(name: str = NAME, state: str = "delivered", **changes: Any) -> OldRow:
    """A row that a poll made and that was delivered, with changes."""
    made = OldRow(
        id=1,
        deployment_id=name,
        state=state,
        payload=payload(name),
        source=None if state == "delivered" else source(),
        started_at=NOON,
        created_at=END + 15_000,
        next_attempt_at=END + 15_000,
        attempts=1,
        settled_at=None if state in ("pending", "held") else END + 20_000,
        reason=None,
        reported=None,
    )
    return made._replace(**changes)


def convert(old: OldRow, *, controllers: Sequence[str] = ("main",), ahead: int = 0) -> Converted:
    return Older(OldIds(controllers, JOBS), {"main": ahead}).convert(old)


class Upgraded(World):
    """What the outbox holds of one run number after an upgrade."""

    def __init__(self, *old: OldRow, stages: bool = False, environment: str = "production") -> None:
        super().__init__(rules(environment, stages=stages))
        for number, each in enumerate(old, 1):
            converted = convert(each._replace(id=number))
            self.rows.append(converted.deployment)
            self.facts += [fact for fact in converted.facts if fact.word not in {known.word for known in self.facts}]
        self.before = list(self.rows)
        next(self.numbers)
        self.now = END + HOUR // 2

    def hears_again(self, *new: facts.Fact) -> None:
        """Nothing comes of it, in whatever order it comes."""
        for order in (new, new[::-1]):
            world = Upgraded.__new__(Upgraded)
            world.__dict__ |= self.__dict__ | {"facts": list(self.facts), "rows": list(self.rows)}
            for fact in order:
                world.accept(fact)
            assert [row.number for row in world.rows] == [row.number for row in self.before]
            for now, before in zip(world.rows, self.before, strict=True):
                assert (now.deployment_id, now.state) == (before.deployment_id, before.state)
                assert now.state is not State.DELIVERED or now.content == before.content


def final(built: Build | None = None, *, run: Run = RUN, late: int = 15_000) -> facts.Fact:
    return facts.final(run, built or build(NOON, END, "SUCCESS"), at=END + late)


def report(at: int = END - MINUTE, *, run: Run = RUN, **fields: object) -> facts.Fact:
    return facts.report(run, said("v1", **fields), source="emit", at=at)


# ---- what rows become


@pytest.mark.parametrize("state", ["delivered", "pending", "failed"])
def test_a_row_keeps_its_number_its_id_its_state_and_its_event(state: str) -> None:
    old = row(state=state, attempts=7, reason="HTTP 503")
    converted = convert(old)
    now = converted.deployment
    assert (now.number, now.deployment_id, now.state.value, now.attempts) == (1, NAME, state, 7)
    assert (now.created_at, now.next_attempt_at, now.reason) == (old.created_at, old.next_attempt_at, "HTTP 503")
    assert now.settled_at == old.settled_at
    assert now.sent_revision == (1 if state == "delivered" else None)
    assert events.encode(event_of(NAME, now.content)).decode() == old.payload
    assert (now.run, now.known, now.names) == (RUN, True, (Name(Scope.WHOLE),))
    assert [fact.kind for fact in converted.facts] == ([] if state == "delivered" else [Kind.FINAL])


def test_all_that_an_event_can_say_is_kept() -> None:
    said_of_it: dict[str, Any] = {"commit_hash": "ab" * 20, "pr_number": "7", "pr_numbers": (7, 9), "image": "shop:1"}
    text = payload(status=Status.CANCELED, start=NOON + 1, **said_of_it)
    now = convert(row(payload=text)).deployment
    assert events.encode(event_of(NAME, now.content)).decode() == text
    assert (now.build_started_at, now.content.started_at) == (NOON, NOON + 1)


def test_what_could_not_be_derived_says_why_and_can_be_derived_again() -> None:
    converted = convert(row(state="failed", payload=None, reason="no branch in the build"))
    now = converted.deployment
    assert (now.state, now.reason, now.content.problem) == (State.FAILED, "no branch in the build", now.reason)
    assert (now.content.started_at, now.content.ended_at) == (NOON, END)
    [fact] = converted.facts
    assert fact.body == replace(build(NOON, END), controller="main", job="deploy/shop", number=12)


def test_a_held_row_is_a_report_without_an_id() -> None:
    text = source(early=True, environment="staging", image="shop:1")
    converted = convert(row(state="held", payload=None, source=text, reported="", reason="no branch", settled_at=None))
    now = converted.deployment
    assert (now.deployment_id, now.state, now.held_since) == (None, State.HELD, now.created_at)
    [fact] = converted.facts
    assert (fact.kind, fact.source, now.anchor) == (Kind.REPORT, "emit", fact.word)
    assert isinstance(fact.body, facts.Report)
    assert (fact.body.status, fact.body.environment, fact.body.image) == ("SUCCESS", "staging", "shop:1")
    assert converted.wanted


def test_what_version_3_held_is_a_report_although_it_does_not_say_so() -> None:
    told = msgspec.json.decode(source(early=True, environment="staging"))
    del told["early"]
    for state in ("held", "pending", "failed"):
        converted = convert(row(state=state, payload=None, source=msgspec.json.encode(told).decode(), reported=""))
        assert ([fact.kind for fact in converted.facts], converted.deployment.known) == ([Kind.REPORT], False)


def test_a_report_is_stamped_by_the_clock_of_its_controller() -> None:
    early = source(build(NOON, END + HOUR), early=True, environment="staging")
    old = row(state="held", payload=None, source=early, reported="", created_at=END)
    [fact] = convert(old).facts
    assert fact.received_at == END
    [fact] = convert(old, ahead=30 * MINUTE).facts
    assert fact.received_at == END + 30 * MINUTE
    [fact] = convert(old, ahead=-5_000).facts
    assert fact.received_at == END, "Jenkins tells whole seconds"


def test_a_report_that_a_poll_confirmed_late_is_of_that_build() -> None:
    old = row(state="pending", source=source(environment="staging"), reported="", created_at=END + 10 * HOUR)
    kinds = {fact.kind: fact for fact in convert(old).facts}
    assert kinds[Kind.REPORT].received_at == END
    assert kinds[Kind.FINAL].received_at == END + 10 * HOUR
    assert convert(old).deployment.known


@pytest.mark.parametrize(
    ("name", "state"),
    [("unreadable-report:1795477366000:1", "failed"), ("nightly-7", "pending"), ("nightly-7:eu", "delivered")],
)
def test_what_is_no_build_keeps_its_id_alone(name: str, state: str) -> None:
    text = None if name.startswith("unreadable") else payload(name, build_number=None, logs_url=None)
    now = convert(row(name, state, payload=text, source=None, reported="")).deployment
    assert (now.run, now.deployment_id, now.state.value) == (run_of_id(name), name, state)


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": "{"}, {"payload": payload("main:deploy/shop#13")}, {"state": "sent"}, {"source": '{"controller"'},
        {"payload": payload().replace("12:00", "noon").replace("T14", "noon")},
    ],
    ids=["no JSON", "of another one", "no state", "half a source", "no time"],
)  # fmt: skip
def test_a_row_that_no_agent_wrote_is_damage(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsoundError):
        convert(row(state="pending")._replace(**changes))


def test_values_of_another_kind_are_damage() -> None:
    with pytest.raises(UnsoundError):
        OldRow.of((1, "main:deploy/shop#1", "pending", None, None, "noon", 1, 1, 0, None, None, None))


def test_nothing_without_content_is_sent() -> None:
    assert convert(row(state="pending", payload=None)).deployment.state is State.FAILED


# ---- builds that are told of again


def test_a_build_that_a_poll_found() -> None:
    for state in ("delivered", "pending"):
        Upgraded(row(state=state)).hears_again(final())


def test_a_build_of_which_nothing_was_reported_reports_itself_after_all() -> None:
    Upgraded(row()).hears_again(report(), report(END - 30_000, environment="production"))


@pytest.mark.parametrize("state", ["delivered", "pending"])
def test_stages_that_a_rule_found(state: str) -> None:
    rows = [
        row(f"{NAME}:{place}", state, payload=payload(f"{NAME}:{place}", environment=place))
        for place in ("eu", "us")
    ]  # fmt: skip
    world = Upgraded(*rows, stages=True)
    assert {name.stage for each in world.rows for name in each.names} == (
        {""} if state == "delivered" else {"Deploy eu", "Deploy us"}
    )
    world.hears_again(final())
    Upgraded(*rows).hears_again(final())  # by a rule for whole builds, too


def test_stages_of_one_name_are_told_apart_by_their_times() -> None:
    stages = [Stage("Deploy eu", "SUCCESS", NOON + n * MINUTE, NOON + n * MINUTE + 1) for n in range(3)]
    built = replace(build(NOON, END), stages=tuple(stages))
    names = [f"{NAME}:eu", f"{NAME}:eu:Deploy eu", f"{NAME}:eu:Deploy eu:2"]
    rows = [
        row(name, "pending", source=source(built),
            payload=payload(name, stage.started_at, stage.ended_at, environment="eu"))
        for name, stage in zip(names, stages, strict=True)
    ]  # fmt: skip
    world = Upgraded(*rows, stages=True)
    assert [each.names for each in world.rows] == [(Name(Scope.RULE, "Deploy eu", again=n),) for n in range(3)]
    world.hears_again(final(built))


def test_repositories() -> None:
    name = f"{NAME}:acme/shop"
    world = Upgraded(row(name, "pending"))
    assert [each.names for each in world.rows] == [(Name(Scope.RULE, repository="acme/shop"),)]
    name = f"{NAME}:eu:acme/shop"
    now = convert(row(name, "pending", payload=payload(name, environment="eu"))).deployment
    assert now.names == (Name(Scope.RULE, "Deploy eu", repository="acme/shop"),)
    world.hears_again(final())


@pytest.mark.parametrize("stages", [True, False], ids=["a rule for stages", "a rule for builds"])
def test_a_build_that_reported_itself(stages: bool) -> None:
    """Delivered, of which no more is known than the event: whether a poll confirmed it or not."""
    for start in (NOON, NOON + 20_000):
        world = Upgraded(row(reported="", started_at=start, payload=payload(start=start)), stages=stages)
        world.hears_again(final(), report(environment="production"), report(END - 1))


def test_a_build_that_reported_itself_and_was_not_confirmed() -> None:
    early = source(early=True, environment="production")
    Upgraded(row(state="pending", source=early, reported="")).hears_again(final(), report(environment="production"))


def test_a_build_that_reported_several_environments() -> None:
    rows = [
        row(f"{NAME}:{place}", reported="", payload=payload(f"{NAME}:{place}", environment=place))
        for place in ("eu", "us")
    ]  # fmt: skip
    world = Upgraded(*rows)
    world.hears_again(final(), report(environment="us"), report(END - 1, environment="eu"))
    world.accept(report(END - 2, environment="asia"))
    assert world.rows[2].names == (Name(Scope.WHOLE, environment="asia"),), "a third one is another deployment"


@pytest.mark.parametrize("start", [NOON + MINUTE, None], ids=["it said its start", "it said none"])
@pytest.mark.parametrize("environment", ["production", None])
def test_a_stage_that_reported_itself(start: int | None, environment: str | None) -> None:
    times = (start, END) if start else (END, END)
    name = f"{NAME}:production"
    again = report(END, stage="Deploy", environment=environment, started_at=start)
    delivered = row(name, reported="Deploy", started_at=times[0], payload=payload(name, *times))
    for world in (Upgraded(delivered), Upgraded(delivered, stages=True)):
        world.hears_again(again, final())
    said_so: dict[str, Any] = {"stage": "Deploy", "environment": environment}
    pending = delivered._replace(state="pending", source=source(replace(build(*times), stages=None), **said_so))
    Upgraded(pending).hears_again(again, final())


def test_a_stage_is_no_second_deployment_because_its_build_ends_after_the_upgrade() -> None:
    """It was delivered while the build was running; a rule would make a deployment of the whole of it."""
    name = f"{NAME}:eu"
    world = Upgraded(row(name, reported="Deploy", started_at=NOON + MINUTE, payload=payload(name, NOON + MINUTE)))
    world.accept(final(build(NOON, END + HOUR)))
    [now] = world.rows
    assert (now.known, now.build_started_at, now.deployment_id) == (True, NOON, name)


def test_builds_of_a_number_that_was_used_again() -> None:
    later = NOON + 10 * HOUR
    names = [NAME, f"{NAME}@{later}"]
    rows = [
        row(),
        row(names[1], started_at=later, created_at=later + HOUR, payload=payload(names[1], later, later + 1)),
    ]
    world = Upgraded(*rows)
    assert {each.run for each in world.rows} == {RUN}
    world.now = later + HOUR
    world.hears_again(final(), final(build(later, later + 1)))
    for build_id in (f"{NAME}:eu@{later}", f"{NAME}@{later}:eu"):
        text = payload(build_id, later, later + 1, environment="eu")
        now = convert(row(build_id, started_at=later, payload=text, reported="")).deployment
        assert (now.run, now.names) == (RUN, (Name(Scope.WHOLE, environment="eu"),))


def test_what_is_held_is_confirmed_and_gets_the_id_that_it_had() -> None:
    early = source(early=True, environment="staging")
    world = Upgraded(row(state="held", payload=None, source=early, reported="", settled_at=None))
    world.accept(final(build(NOON, END, "FAILURE")))
    [now] = world.rows
    assert (now.number, now.deployment_id, now.state) == (1, NAME, State.PENDING)
    assert (now.content.status, now.content.environment) == (Status.FAILED, "staging")


def test_several_environments_that_are_held_are_confirmed() -> None:
    rows = [
        row(f"{NAME}:{place}", "held", payload=None, source=source(early=True, environment=place), reported="")
        for place in ("eu", "us")
    ]
    world = Upgraded(*rows)
    world.accept(final())
    assert [(now.number, now.deployment_id) for now in world.rows] == [(1, f"{NAME}:eu"), (2, f"{NAME}:us")]


def test_what_is_held_goes_out_alone_when_its_time_is_over() -> None:
    early = source(early=True, environment="staging", repo_url=REPO, branch="main")
    world = Upgraded(row(state="held", source=early, reported="", payload=payload(environment="staging")))
    world.plan()
    assert world.rows[0].state is State.HELD
    world.now = END + 15_000 + HOUR
    world.plan()
    [now] = world.rows
    assert (now.state, now.deployment_id, now.content.environment) == (State.PENDING, NAME, "staging")


@pytest.mark.parametrize("place", ["", ":eu", ":Deploy eu"])
def test_what_failed_is_derived_again_once_the_rule_is_mended(place: str) -> None:
    failed = row(f"{NAME}{place}", "failed", payload=None, reason="no branch in the build")
    world = Upgraded(failed, stages=bool(place))
    world.plan()
    now = world.rows[0]
    assert (now.deployment_id, now.state, now.revision) == (f"{NAME}{place}", State.PENDING, 2)
    assert now.content.environment == ("eu" if place else "production")


def test_a_report_of_another_system_is_known_by_its_id() -> None:
    name = "nightly-7"
    run = run_of_id(name)
    world = Upgraded(row(name, payload=payload(name, build_number=None), reported=""))
    world.hears_again(report(END + 10 * HOUR, run=run, environment="production", started_at=END + 9 * HOUR))


def test_a_build_of_which_only_the_id_is_known_is_recognised_by_id_and_start() -> None:
    name = "other:deploy/shop#12"
    converted = convert(row(name, payload=payload(name, logs_url=None)))
    assert converted.deployment.run == run_of_id(name), "nobody knows a controller of that name"
    world = World(rules(controllers=("other",)))
    world.forgotten = {name: converted.deployment.build_started_at}
    world.accept(final(run=jenkins_run("other", "deploy/shop", 12)))
    assert world.rows == []


# ---- ids


def ids(*jobs: tuple[str, str], controllers: Sequence[str] = ()) -> OldIds:
    return OldIds(controllers, jobs)


def read(
    of: OldIds, name: str, number: str | None = "12", url: str | None = None, parts: Sequence[str] = ()
) -> OldKey | None:
    return of.read(name, number, url=url, parts=lambda: list(parts), started_at=NOON)


def test_names_that_hold_what_separates_them() -> None:
    of = ids(("eu:2", "deploy/C#-api#12:x"), ("eu", "2:deploy/other"))
    assert read(of, "eu:2:deploy/C#-api#12:x#12:production") == ("eu:2", "deploy/C#-api#12:x", 12, ":production")
    assert read(of, "eu:2:deploy/other#12") == ("eu", "2:deploy/other", 12, "")


def test_a_key_that_is_not_certain_is_none() -> None:
    of = ids(controllers=["eu", "eu:2"])
    assert read(of, "eu:2:shop#12") is None, "shop of eu:2, or 2:shop of eu"
    assert read(of, "eu:2:shop#12", url="https://eu.example.test/job/shop/12/") == ("eu:2", "shop", 12, "")
    assert read(of, "asia:shop#12") is None
    assert read(of, "asia:shop#12", url="https://asia.example.test/job/shop/12/") == ("asia", "shop", 12, "")
    assert read(of, "eu:shop#12", "13") is None
    assert read(of, "eu:shop#012", "012") is None
    assert read(of, "eu:shop#12", None) is None
    assert read(of, "eu:shop#12:nobody knows what") is None
    assert read(of, "eu:shop#12:production", parts=["production"]) == ("eu", "shop", 12, ":production")


@pytest.mark.parametrize("length", [100, 237, 238, 239, 254, 255, 300])
@pytest.mark.parametrize("behind", [(), ("production",), ("production", "Deploy it")])
@pytest.mark.parametrize("start", [None, NOON])
def test_ids_that_were_shortened(length: int, behind: tuple[str, ...], start: int | None) -> None:
    job = "x" * length
    name = limited_id(f"main:{job}#12")
    name = part_deployment_id(name, *behind) if behind else name
    name = name if start is None else reused_number_id(name, start)
    expected = OldKey("main", job, 12, "".join(f":{part}" for part in behind))
    assert read(ids(("main", job), ("main", "x" * 301)), name, parts=["production", "Deploy it"]) == expected
    url = f"https://jenkins.example.test/job/{job}/12/"
    assert read(ids(controllers=["main"]), name, url=url, parts=["production", "Deploy it"]) == expected


NAMES = st.text(alphabet="ab:#@1/~é", min_size=1, max_size=12)


@given(
    jobs=st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=4, unique=True),
    number=st.integers(0, 12),
    behind=st.lists(NAMES, max_size=2),
    known=st.booleans(),
)
def test_a_key_is_right_or_none(jobs: list[tuple[str, str]], number: int, behind: list[str], known: bool) -> None:
    """Whatever names there are: the id that is made of the key again is the same text."""
    controller, job = jobs[0]
    base = limited_id(f"{controller}:{job}#{number}")
    name = part_deployment_id(base, *behind) if behind else base
    of = OldIds([controller], jobs if known else jobs[1:])
    key = read(of, name, str(number), parts=behind)
    if key is not None:
        assert f"{key.controller}:{key.job}#{key.number}{key.behind}" == name
        assert key.number == number


def test_ids_of_jobs_that_are_known_are_read() -> None:
    of = ids(("main", "deploy/shop"))
    assert read(of, "main:deploy/shop#12:whatever:it:is") == ("main", "deploy/shop", 12, ":whatever:it:is")
    assert convert(row()).deployment.run.project == Project("jenkins", "main", "deploy/shop")
    assert convert(row("x#12", payload=payload("x#12"))).deployment.run.project == GIVEN_IDS
    assert len(limited_id("x" * 300)) == LONGEST
