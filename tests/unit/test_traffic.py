"""What a controller was asked is counted by kind: in all, and in the last hour."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from agent.sources.jenkins.traffic import BUCKETS_S, Kind, Tally, Traffic
from tests.integration.support import FakeClock


def test_questions_are_counted_by_kind_with_bytes_and_times() -> None:
    traffic = Traffic(FakeClock())
    for size, seconds in ((100, 0.2), (300, 1.0)):
        traffic.note(Kind.JOBS, size, seconds)
    traffic.note(Kind.BUILD, 50, 0.004)
    jobs, build = traffic.total()[Kind.JOBS], traffic.total()[Kind.BUILD]
    assert (jobs.requests, jobs.bytes, jobs.seconds, jobs.slowest_s) == (2, 400, 1.2, 1.0)
    assert (build.requests, build.bytes) == (1, 50)
    assert traffic.last_hour() == traffic.total()


def test_an_answer_is_in_the_first_bucket_that_it_is_not_above() -> None:
    """Prometheus' le: less or equal."""
    tally = Tally()
    for seconds in (0.0, 0.01, 0.011, 60, 61):
        tally.add(0, seconds)
    assert dict(zip((*BUCKETS_S, None), tally.buckets, strict=True)) == {
        **dict.fromkeys((*BUCKETS_S, None), 0), 0.01: 2, 0.05: 1, 60.0: 1, None: 1,
    }  # fmt: skip


def test_what_is_told_is_no_part_of_what_goes_on() -> None:
    traffic = Traffic(FakeClock())
    traffic.note(Kind.JOBS, 1, 1)
    told = traffic.total()
    traffic.note(Kind.JOBS, 1, 1)
    assert told[Kind.JOBS].requests == 1


@given(st.lists(st.tuples(st.integers(0, 1_500), st.sampled_from(Kind), st.integers(0, 1_000), st.floats(0, 100))))
def test_the_last_hour_holds_what_was_asked_in_it_to_the_minute(
    questions: list[tuple[int, Kind, int, float]],
) -> None:
    clock = FakeClock()
    traffic = Traffic(clock)
    asked: list[tuple[float, Kind, int]] = []
    for pause_s, kind, size, seconds in questions:
        clock.advance(s=pause_s)
        traffic.note(kind, size, seconds)
        asked.append((clock.monotonic(), kind, size))
        told = traffic.last_hour()
        for each in Kind:
            within = [s for at, k, s in asked if k is each and at > clock.monotonic() - 59 * 60]
            at_most = [s for at, k, s in asked if k is each and at >= clock.monotonic() - 60 * 60]
            found = told.get(each, Tally())
            assert len(within) <= found.requests <= len(at_most)
            assert sum(within) <= found.bytes <= sum(at_most)
            assert sum(found.buckets) == found.requests
    clock.advance(s=3_601)
    assert traffic.last_hour() == {}
    assert sum(tally.requests for tally in traffic.total().values()) == len(questions)


def test_several_threads_may_note_what_they_asked() -> None:
    traffic = Traffic(FakeClock())
    threads = [
        threading.Thread(target=lambda: [traffic.note(Kind.BUILDS, 1, 0.1) for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert traffic.total()[Kind.BUILDS].requests == traffic.last_hour()[Kind.BUILDS].bytes == 2_000
