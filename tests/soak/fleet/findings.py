"""What the long run of a fleet came to: lost, doubled, the log of epochs, and how long controllers waited."""

from __future__ import annotations

from collections import Counter
from statistics import median, quantiles
from typing import TYPE_CHECKING

from tests.soak.findings import Findings
from tests.soak.fleet.epochs import prove, read_log

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.postgresql.fleet import Fleet
    from tests.soak.fleet.actors import Expected
    from tests.soak.fleet.epochs import Proof
    from tests.soak.fleet.seats import Loss, Seat, Spans


def look_at(fleet: Fleet, seats: Sequence[Seat], expected: Expected, counts: Counter[str]) -> tuple[Findings, Proof]:
    """Compare what was built and accepted with what Hivel has, and check the log of epochs."""
    deployments = fleet.hivel.deployments()
    arrived = {each.event.deployment_id: each for each in deployments}
    by_build = Counter(each.event.deployment_id.partition("@")[0] for each in deployments)
    log = "".join(file.read_text() for seat in seats for file in logs(fleet, seat))
    proof = prove(read_log(fleet))
    [(pending, failed)] = fleet.execute(
        "SELECT count(*) FILTER (WHERE state IN ('pending', 'held')), count(*) FILTER (WHERE state = 'failed')"
        " FROM deployments"
    )
    known = expected.all
    wrong = {
        "lost": len(known.keys() - arrived.keys()),
        "doubled": sum(times - 1 for times in by_build.values()),
        "at Hivel, but never built": len(by_build.keys() - known.keys()),
        "with another status": sum(known[i][0] != each.event.status for i, each in arrived.items() if i in known),
        **proof.wrong,
        "tracebacks in the logs": log.count("Traceback"),
        "unexpected errors in the logs": log.count('level=error event="unexpected'),
        "pending at the end": pending,
        "failed at the end": failed,
    }
    wrong.update({name: counts.pop(name) for name in list(counts) if name.startswith("failure")})
    waits = sorted(each.received_at_ms - known[i][1] for i, each in arrived.items() if i in known)
    seen = {
        "builds, reports and webhooks": len(known),
        "deployments at Hivel": len(deployments),
        "POSTs at Hivel": len(fleet.hivel.requests()),
        "sent again under the same id": sum(each.times_posted - 1 for each in deployments),
        "starts of agents": sum(seat.starts for seat in seats),
        "largest resident size of an agent, kB": max(seat.largest_kb for seat in seats),
        "polls refused by the fence": log.count("poll ended without a result"),
        "epochs": len(proof.epochs),
        "transactions in a fence": sum(each.transactions for each in proof.epochs),
        "rows written by them": sum(each.rows for each in proof.epochs),
        "most epochs of a controller": max((each.number for each in proof.epochs), default=0),
        "from the end of a build to Hivel, median, ms": waits[len(waits) // 2] if waits else 0,
        "from the end of a build to Hivel, longest, ms": waits[-1] if waits else 0,
    }
    return Findings({**counts, **seen}, wrong), proof


def logs(fleet: Fleet, seat: Seat) -> list[Path]:
    """The logs of all of its processes."""
    return sorted((fleet.folder / seat.name).glob("*.log"))


def failovers(fleet: Fleet, seats: Sequence[Seat], away: Spans) -> str:
    """How long it took until another process polled, as Markdown.

    Counted are only controllers that another agent could take all the time: one was up, and the database, too.
    """
    found: dict[str, list[float]] = {}
    disturbed = 0
    for loss in (loss for seat in seats for loss in seat.losses):
        for controller in loss.controllers:
            at = fleet.front.taken_over(controller, loss.user, loss.at)
            if at is None or _is_disturbed(loss, at, seats, away):
                disturbed += 1
            else:
                found.setdefault(loss.how, []).append(at - loss.at)
    rows = [
        f"| {how} | {len(times)} | {median(times):.2f} | {_p99(times):.2f} | {max(times):.2f} |"
        for how, times in sorted(found.items())
    ]
    heading = ["| seconds until another process polls | controllers | p50 | p99 | max |", "|---|---|---|---|---|"]
    return "\n".join([*heading, *rows, f"Not counted, because nobody could poll meanwhile: {disturbed}"])


def _is_disturbed(loss: Loss, at: float, seats: Sequence[Seat], away: Spans) -> bool:
    others = [seat for seat in seats if seat.name != loss.seat]
    return away.touches(loss.at, at) or not any(seat.up.covers(loss.at, at) for seat in others)


def _p99(times: list[float]) -> float:
    return quantiles(times, n=100, method="inclusive")[98] if len(times) > 1 else times[0]
