"""From facts to deployments, over random builds: what holds for any order, repetition and moment."""

from __future__ import annotations

import os

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from agent.deployments.derive import derive
from agent.model import fact as facts
from agent.model.deployment import State
from agent.model.fact import Kind
from tests.unit.facts import FORMER, HOUR, NOON, PROJECT, RULES, Lived, World, covered, lived

STORIES = int(os.environ.get("HIVEL_STORIES", "300"))
SLOW = settings(max_examples=STORIES, deadline=None, suppress_health_check=list(HealthCheck))
LATER = NOON + 6 * HOUR


@SLOW
@given(st.data(), st.sampled_from(RULES))
def test_the_same_facts_in_any_order_and_any_number_make_the_same_parts(data: st.DataObject, rules: object) -> None:
    told = [fact for build in (data.draw(lived(NOON)), data.draw(lived(LATER))) for _, fact in build.all]
    shuffled = data.draw(st.permutations(told)) + told[:2]
    assert derive(told, rules) == derive(shuffled, rules)


@SLOW
@given(st.data(), st.sampled_from(RULES))
def test_what_comes_before_anything_is_frozen_makes_the_same_deployments_in_any_order(
    data: st.DataObject, rules: object
) -> None:
    """Reports of stages are final at once, so they come last, and with them the poller's final word."""
    build = data.draw(lived(NOON))
    last = [f for _, f in build.all if f.kind is Kind.FINAL or getattr(f.body, "stage", None)]
    early = [f for _, f in build.all if f not in last]
    made = []
    for order in (early, data.draw(st.permutations(early))):
        world = World(rules, now=NOON)
        for fact in order:
            world.accept(fact)
        world.accept(*last)
        made.append(sorted(repr((row.deployment_id, row.state, row.content, row.names)) for row in world.rows))
    assert made[0] == made[1]


def _play(world: World, builds: list[Lived], data: st.DataObject, *, rules_change: bool) -> None:
    acts = [(at, 1, fact) for build in builds for at, fact in build.all]
    acts += [(NOON + data.draw(st.integers(0, 12 * HOUR)), 2, None) for _ in range(data.draw(st.integers(0, 4)))]
    for at, _, fact in sorted(acts, key=lambda act: act[:2]):
        world.now = at
        world.plan()  # what was held for long enough goes
        if fact is not None:
            world.accept(fact)
            continue
        world.deliver()
        if data.draw(st.booleans()):
            world.prune()
        if rules_change:
            world.rules = data.draw(st.sampled_from(RULES))
    world.now = NOON + 100 * HOUR
    for _ in range(2):
        world.plan()
        world.deliver()


def _check(world: World) -> None:
    derived = world.derived()
    assert all(row.state is not State.HELD for row in world.rows)
    for part in derived.parts:
        mine = [row for row in world.rows if derived.builds.get(row.anchor, None) == part.build
                or (row.known and part.build.known and row.build_started_at == part.build.started_at)]  # fmt: skip
        rows = [row for row in mine if covered(row, part.names)]
        assert len(rows) == 1, f"{part} is stood for by {rows} among {world.rows}"
    ids = [row.deployment_id for row in world.rows]
    assert len(set(ids)) == len(ids)
    for row in world.rows:
        if row.state is State.DELIVERED:
            assert world.hivel[row.deployment_id or ""] == row.content, "what is stored is not what Hivel has"


@SLOW
@given(st.data(), st.sampled_from(RULES), st.booleans(), st.booleans())
def test_every_part_has_exactly_one_deployment_whatever_is_released_delivered_and_pruned_in_between(
    data: st.DataObject, rules: object, twice: bool, rules_change: bool
) -> None:
    builds = [data.draw(lived(NOON))]
    if twice:
        builds.append(data.draw(lived(LATER)))
    world = World(rules)
    _play(world, builds, data, rules_change=rules_change)
    _check(world)
    for build in builds:  # nothing of one build is in a deployment of the other
        for content in world.hivel.values():
            if content.image == build.tag:
                assert content.started_at <= build.end + HOUR


@SLOW
@given(st.data(), st.sampled_from(RULES))
def test_a_renamed_job_has_one_deployment_of_each_part(data: st.DataObject, rules: object) -> None:
    """Reports came under the former name, the poller's final word under the new one."""
    build = data.draw(lived(NOON, project=FORMER))
    moved = [(at, facts.Fact(**{f: getattr(fact, f) for f in fact.__struct_fields__} | {"run": _renamed(fact)}))
             if fact.kind is Kind.FINAL else (at, fact) for at, fact in build.all]  # fmt: skip
    world = World(rules)
    _play(world, [Lived(build.tag, build.start, build.end, moved, [])], data, rules_change=False)
    _check(world)


def _renamed(fact: facts.Fact) -> object:
    from agent.model.keys import Run

    return Run(PROJECT, fact.run.number)
