"""From facts to deployments, example by example."""

from __future__ import annotations

from msgspec.structs import replace

from agent.model import fact as facts
from agent.model.build import Stage
from agent.model.deployment import Scope, State
from agent.model.fact import Kind, Report
from agent.model.keys import Project, Run, run_of_id
from agent.model.status import Status
from tests.unit.facts import GIVEN, HOUR, MINUTE, NOBODY, NOON, REPO, RUN, World, build, rules, said

END = NOON + 5 * MINUTE


def final(start: int = NOON, end: int = END, result: str = "FAILURE", *, run: Run = RUN) -> facts.Fact:
    return facts.final(run, build(start, end, result), at=end + 1_000)


def report(at: int = NOON + MINUTE, *, who: str = "", run: Run = RUN, **fields: object) -> facts.Fact:
    return facts.report(run, said("v1", **fields), source="emit", at=at, principal=who)


def ids(world: World) -> list[str]:
    return sorted(row.deployment_id or "held" for row in world.rows)


def test_a_polled_build_is_one_deployment_with_the_id_of_the_build() -> None:
    world = World(rules())
    world.accept(final())
    [row] = world.rows
    assert (row.deployment_id, row.state, row.known) == ("main:deploy/shop#12", State.PENDING, True)
    assert (row.content.status, row.content.environment) == (Status.FAILED, "production")
    assert (row.content.started_at, row.content.ended_at) == (NOON, END)


def test_a_build_of_a_job_without_a_rule_is_no_deployment() -> None:
    world = World(rules(None))
    world.accept(final())
    assert world.rows == []


def test_a_report_is_held_and_gets_the_pollers_result_and_times() -> None:
    world = World(rules())
    world.accept(report(environment="staging", image="shop:1.2"))
    [held] = world.rows
    assert (held.state, held.deployment_id, held.content.status) == (State.HELD, None, Status.SUCCESS)
    world.accept(final())
    [row] = world.rows
    assert (row.deployment_id, row.state, row.number) == ("main:deploy/shop#12", State.PENDING, held.number)
    assert (row.content.status, row.content.ended_at) == (Status.FAILED, END)
    assert (row.content.environment, row.content.image) == ("staging", "shop:1.2")


def test_a_report_after_the_poll_fills_in_what_only_the_build_knew() -> None:
    world = World(rules())
    world.accept(final())
    world.accept(report(END + 2_000, environment="staging", image="shop:1.2"))
    [row] = world.rows
    assert (row.content.environment, row.content.image, row.revision) == ("staging", "shop:1.2", 2)
    assert row.content.status is Status.FAILED


def test_a_report_after_the_delivery_changes_nothing_that_hivel_has() -> None:
    world = World(rules())
    world.accept(final())
    world.deliver()
    world.accept(report(END + 2_000, image="shop:1.2"))
    [row] = world.rows
    assert (row.state, row.content.image, row.revision) == (State.DELIVERED, None, 1)
    [part] = world.derived().parts
    assert part.content.image == "shop:1.2"  # what is known since is there to be shown


def test_two_environments_that_a_build_reports_are_two_deployments() -> None:
    world = World(rules())
    world.accept(report(environment="eu"), report(NOON + 2 * MINUTE, environment="us"), final())
    assert ids(world) == ["main:deploy/shop#12:eu", "main:deploy/shop#12:us"]


def test_an_environment_that_is_reported_after_the_first_went_out_is_a_deployment_of_its_own() -> None:
    world = World(rules())
    world.accept(report(environment="eu"), final())
    world.deliver()
    world.accept(report(END, environment="us"))
    assert ids(world) == ["main:deploy/shop#12", "main:deploy/shop#12:us"]


def test_two_words_for_one_environment_are_one() -> None:
    world = World(rules())
    world.rules = replace_options(world, environment_map={"prod": "production"})
    world.accept(report(environment="prod"), report(NOON + 2 * MINUTE, environment="production"), final())
    [row] = world.rows
    assert row.content.environment == "production"


def replace_options(world: World, **options: object):
    from dataclasses import replace as with_

    return with_(world.rules, options=with_(world.rules.options, **options))


def test_the_last_word_counts_not_the_last_to_arrive() -> None:
    world = World(rules(controllers=()))
    first, second, third = (
        report(NOON + n * MINUTE, status=s) for n, s in enumerate(["FAILURE", "SUCCESS", "FAILURE"])
    )
    for fact in (third, first, second):
        world.accept(fact)
    [row] = world.rows
    assert row.content.status is Status.FAILED


def test_a_report_without_environment_leaves_the_rules_stages_as_they_are() -> None:
    world = World(rules(stages=True))
    world.accept(report(image="shop:1.2"), final())
    assert ids(world) == ["main:deploy/shop#12:eu", "main:deploy/shop#12:us"]
    assert {row.content.image for row in world.rows} == {"shop:1.2"}
    assert {row.scope for row in world.rows} == {Scope.RULE}


def test_of_two_stages_of_the_rule_with_one_environment_the_first_that_ran_has_the_short_id() -> None:
    world = World(rules(stages=True))
    ran = (Stage("Deploy z eu", "SUCCESS", NOON, NOON + 1), Stage("Deploy eu", "FAILED", NOON + 2, NOON + 3))
    world.rules = rules(stages=True, pattern="re:Deploy.* (?P<environment>eu)$")
    world.accept(facts.final(RUN, replace(build(NOON, END), stages=ran), at=END))
    names = {row.deployment_id: row.names[0].stage for row in world.rows}
    assert names == {"main:deploy/shop#12:eu": "Deploy z eu", "main:deploy/shop#12:eu:Deploy eu": "Deploy eu"}


def test_stages_that_report_themselves_take_the_place_of_the_rules_parts() -> None:
    world = World(rules(stages=True))
    world.accept(report(stage="Deploy eu", environment="eu"), final())
    assert ids(world) == ["main:deploy/shop#12:eu"]


def test_two_stages_of_one_environment_have_two_ids() -> None:
    world = World(rules())
    world.accept(
        report(stage="api", environment="eu", given=GIVEN),
        report(NOON + 2 * MINUTE, stage="web", environment="eu", given=GIVEN),
    )
    assert ids(world) == ["main:deploy/shop#12:eu", "main:deploy/shop#12:eu:web"]


def test_a_stage_that_reports_two_starts_of_its_own_deployed_twice() -> None:
    """A retry, or two things that are deployed in one stage; the first may be at Hivel already."""
    world = World(rules())
    world.accept(report(stage="api", environment="eu", started_at=NOON + 1_000, status="FAILURE", given=GIVEN))
    world.deliver()
    world.accept(report(NOON + 2 * MINUTE, stage="api", environment="eu", started_at=NOON + 60_000, given=GIVEN))
    assert ids(world) == ["main:deploy/shop#12:eu", "main:deploy/shop#12:eu~2"]


def test_attempts_that_were_held_together_are_counted_on_from_the_first_id() -> None:
    """The second attempt is heard of first, so that its row is older than that of the first one."""
    world = World(rules())
    for number, minute in enumerate((2, 1)):
        world.accept(report(NOON + minute * MINUTE, stage="api", environment="eu", started_at=NOON + minute * 1_000))
        assert [row.state for row in world.rows] == [State.HELD] * (number + 1)
    world.accept(final())
    world.rows.sort(key=lambda row: row.number)
    world.accept(report(NOON + 3 * MINUTE, stage="api", environment="eu", started_at=NOON + 3_000))
    assert ids(world) == ["main:deploy/shop#12:eu", "main:deploy/shop#12:eu~2", "main:deploy/shop#12:eu~3"]


def test_a_stage_that_says_its_start_only_later_is_one_deployment() -> None:
    world = World(rules())
    world.accept(report(stage="api", environment="eu"))
    world.accept(report(NOON + 2 * MINUTE, stage="api", environment="eu", started_at=NOON + 1_000))
    [row] = world.rows
    assert row.content.started_at == NOON + 1_000


def test_who_may_not_speak_for_a_job_removes_no_deployment_and_makes_none() -> None:
    world = World(rules())
    world.accept(report(who=NOBODY, environment="staging", stage="api"), report(who=NOBODY, image="bad"), final())
    [row] = world.rows
    assert (row.content.environment, row.content.image) == ("production", None)
    assert len(world.facts) == 3  # kept, and shown


def test_what_was_held_long_enough_goes_out_with_what_is_known() -> None:
    world = World(rules())
    world.accept(report())
    world.now = NOON + HOUR - 1
    world.plan()
    assert world.rows[0].state is State.HELD
    world.now = NOON + HOUR
    world.plan()
    [row] = world.rows
    assert (row.state, row.deployment_id) == (State.PENDING, "main:deploy/shop#12")


def test_a_clock_that_is_set_back_releases_nothing_and_holds_nothing_for_ever() -> None:
    world = World(rules())
    world.accept(report())
    world.now = NOON - 10 * HOUR
    world.plan()
    assert world.rows[0].state is State.HELD
    world.now += HOUR
    world.plan()
    assert world.rows[0].state is State.PENDING


def test_repeating_a_report_does_not_hold_it_for_longer() -> None:
    world = World(rules())
    world.accept(report())
    for minutes in range(10, 60, 10):
        world.now = NOON + minutes * MINUTE
        world.accept(facts.seen(RUN, started_at=NOON, at=NOON), report(world.now))
    world.now = NOON + HOUR
    world.plan()
    assert [row.state for row in world.rows] == [State.PENDING]


def test_a_controller_that_nobody_polls_is_not_waited_for() -> None:
    world = World(rules(controllers=()))
    world.accept(report())
    assert [row.state for row in world.rows] == [State.PENDING]


def test_a_long_build_on_a_controller_that_nobody_polls_is_one_deployment() -> None:
    """It says when it started with each report."""
    world = World(rules(controllers=()))
    world.accept(report(NOON + MINUTE, started_at=NOON))
    world.accept(report(NOON + 50 * MINUTE, started_at=NOON))
    [row] = world.rows
    assert row.deployment_id == "main:deploy/shop#12"


def test_a_number_that_is_used_again_gets_the_start_of_its_build() -> None:
    world = World(rules())
    world.accept(final())
    world.deliver()
    later = NOON + 6 * HOUR
    world.accept(final(later, later + MINUTE, "SUCCESS"))
    assert ids(world) == ["main:deploy/shop#12", f"main:deploy/shop#12@{later}"]


def test_an_id_that_a_deleted_deployment_had_is_known() -> None:
    """The same build again is no second event; another build of that number has an id of its own."""
    world = World(rules(), forgotten={"main:deploy/shop#12": NOON})
    world.accept(final())
    assert world.rows == []
    later = NOON + 6 * HOUR
    world.accept(final(later, later + MINUTE))
    assert ids(world) == [f"main:deploy/shop#12@{later}"]


def test_a_job_of_239_characters_whose_stage_reports_itself_has_one_deployment() -> None:
    run = Run(Project("jenkins", "main", "deploy/" + "x" * 232), "12")
    world = World(rules())
    world.accept(report(run=run, stage="Deploy to production", environment="production"))
    world.deliver()
    world.accept(final(run=run))
    world.accept(report(NOON + 2 * MINUTE, run=run, stage="Deploy to production", environment="production"))
    [row] = world.rows
    assert len(row.deployment_id or "") <= 255


def test_a_changed_rule_alone_changes_nothing() -> None:
    world = World(rules())
    world.accept(final())
    world.deliver()
    before = world.rows
    world.rules = rules("eu")
    world.plan()
    assert world.rows == before


def test_a_mended_rule_makes_a_failed_deployment_pending() -> None:
    world = World(rules("{params.NOT_THERE}"))
    world.accept(final())
    [row] = world.rows
    assert (row.state, row.content.problem) == (State.FAILED, row.reason)
    assert "no environment" in (row.reason or "")
    world.rules = rules("eu")
    world.plan()
    [mended] = world.rows
    assert (mended.state, mended.content.environment, mended.reason, mended.revision) == (State.PENDING, "eu", None, 2)


def test_what_was_discarded_stays_discarded() -> None:
    world = World(rules("{params.NOT_THERE}"))
    world.accept(final())
    world.rows = [replace(row, state=State.DISCARDED) for row in world.rows]
    world.accept(report(END, environment="eu"))
    assert [row.state for row in world.rows] == [State.DISCARDED]


def test_a_backfill_whose_stages_were_purged_makes_nothing_worse() -> None:
    world = World(rules(stages=True))
    world.accept(final())
    purged = replace(build(NOON, END), stages=None, stages_missing="purged")
    world.accept(facts.final(RUN, purged, at=END + HOUR, source="backfill"))
    assert ids(world) == ["main:deploy/shop#12:eu", "main:deploy/shop#12:us"]
    assert {row.revision for row in world.rows} == {1}


def test_a_deployment_of_which_the_facts_are_gone_is_not_derived_again() -> None:
    world = World(rules())
    world.accept(final())
    world.deliver()
    world.prune()
    assert world.facts == []
    world.rows = [replace(row, state=State.PENDING) for row in world.rows]  # replayed
    world.accept(report(END, image="late"))
    [row] = world.rows
    assert (row.content.status, row.content.image, row.revision) == (Status.FAILED, None, 1)


# ---- other systems


GITHUB = Project("github_actions", "", "")


def told(**fields: object) -> Report:
    return Report(
        **{"provider": "github_actions", "status": "success", "repo_url": REPO, "branch": "main", "environment": "eu"}
        | fields  # type: ignore[arg-type]
    )


def test_a_run_of_another_system_is_one_deployment_for_each_environment_and_stage() -> None:
    run = Run(GITHUB, "github_actions:acme/shop#7/deploy")
    world = World(rules())
    for at, fields in enumerate([{}, {}, {"environment": "us"}, {"stage": "web"}]):
        world.accept(facts.report(run, told(**fields), source="emit", at=NOON + at))
    base = "github_actions:acme/shop#7/deploy"
    assert ids(world) == [f"{base}:eu", f"{base}:eu:web", f"{base}:us"]
    assert {row.state for row in world.rows} == {State.PENDING}


def test_everything_with_one_given_id_is_one_deployment() -> None:
    run = run_of_id("release-7")
    world = World(rules())
    world.accept(facts.report(run, told(), source="emit", at=NOON))
    world.accept(facts.report(run, told(environment="us", stage="x"), source="emit", at=NOON + 1))
    [row] = world.rows
    assert (row.deployment_id, row.content.environment) == ("release-7", "us")


def test_a_report_that_says_nothing_that_can_be_understood_fails_with_the_reason() -> None:
    run = run_of_id("unreadable-report:1:2")
    fact = facts.Fact(run=run, source="emit", kind=Kind.UNREADABLE, received_at=NOON, word=1, body="no JSON at all")
    world = World(rules())
    world.accept(fact)
    [row] = world.rows
    assert (row.state, row.reason, row.deployment_id) == (State.FAILED, "no JSON at all", "unreadable-report:1:2")
