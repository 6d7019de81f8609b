"""The results for people: one line per call, how often it was reached, and what became of those who died there."""

from collections import Counter
from collections.abc import Iterator

from tests.faults.kill_points.campaign import Campaign, Played
from tests.faults.kill_points.points import KillPoint, Moment

_NEVER = "-"


def table(campaign: Campaign) -> Iterator[str]:
    reached: Counter[tuple[str, str]] = Counter()
    for (process, call, moment, _), times in campaign.reached.items():
        reached[process, call] += times * (moment == Moment.BEFORE)
    died = {played.case.point: played for played in campaign.killed}
    yield f"{'process':<10}{'port.method':<52}{'reached':>8}  {'killed before':<46} {'killed after'}"
    for process, call in sorted({(point.process, point.call) for point in campaign.points}):
        before, after = (_outcome(died.get(KillPoint(process, call, moment))) for moment in Moment)
        yield f"{process:<10}{call:<52}{reached[process, call]:>8}  {before:<46} {after}"
    right = sum(not played.wrong and played.reached for played in campaign.killed)
    yield f"{len(campaign.complete)} complete runs, {len(campaign.killed)} kills, {right} with every promise kept"


def _outcome(played: Played | None) -> str:
    """A second commit inside of a call has a kill before it only: the one after it is the next's, or the call's."""
    if played is None:
        return _NEVER
    if played.wrong:
        return "BROKEN"
    return f"kept ({played.scenario})" if played.reached else "NOT REACHED"
