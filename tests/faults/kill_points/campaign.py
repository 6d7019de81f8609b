"""Play every case completely, plan from what was traced, then play again with a kill at each point."""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from multiprocessing.context import ForkServerContext
from pathlib import Path

from tests.faults.kill_points import conversations, operators, plugin, troubles, upstream
from tests.faults.kill_points.conversations import Check, Scenario
from tests.faults.kill_points.lane import Lane, Stores, lane
from tests.faults.kill_points.points import UNSTEADY, KillPoint, Moment
from tests.faults.kill_points.processes import CLI
from tests.faults.kill_points.seam import NOTHING

_CASE_LIMIT_S = 90.0
_TRIES = 4
_ROUNDS_MORE = 3
_OFTEN = 8  # what a scenario passes so often it passes surely
_LEFT_OVER = 20  # what another scenario passes so much more often an earlier case may have left behind here
_SHORT_S = 1.0  # no case is cheaper than the restart after its kill
_IDLE_ROUND_S = 1.5  # what a process does by itself it does within this time

SCENARIOS: tuple[Scenario, ...] = (
    conversations.mention,
    conversations.long_answer,
    conversations.follow_up,
    conversations.direct_message_with_a_file,
    conversations.mention_in_a_thread_of_others,
    conversations.stop,
    conversations.stop_what_waits,
    conversations.nothing_to_stop,
    conversations.deleted_question,
    conversations.interrupt,
    conversations.reject,
    conversations.told_late,
    conversations.not_started_in_time,
    conversations.post_whose_answer_is_lost,
    conversations.post_that_is_limited,
    conversations.marked_repeat,
    troubles.failure_and_replay,
    troubles.archived_channel,
    troubles.event_that_cannot_be_processed,
    troubles.prompt_whose_answer_is_lost,
    troubles.slow_server,
    troubles.server_that_is_away,
    troubles.server_that_was_away_at_night,
    troubles.server_that_refuses_prompts,
    troubles.more_than_a_server_takes,
    troubles.run_that_ends_in_silence,
    troubles.stream_that_breaks,
    troubles.stream_that_breaks_late,
    troubles.run_of_somebody_else,
    troubles.slack_that_takes_its_time,
    troubles.look_that_comes_early,
    troubles.session_that_is_lost,
    troubles.permission_ask,
    troubles.ask_that_nobody_heard_of,
    troubles.question_of_the_model,
    troubles.question_that_nobody_heard_of,
    troubles.app_that_is_removed,
    troubles.token_that_is_revoked,
    upstream.submit_with_webhook,
    upstream.submit_again_in_the_session,
    upstream.asked_what_it_waits_for,
    upstream.followed_run,
    upstream.delegated_by_an_old_caller,
    upstream.delegated_for_somebody_else,
    plugin.reports_of_a_run,
    upstream.cancel_over_http,
    upstream.run_past_its_deadline,
    upstream.submit_through_the_broker,
    upstream.submission_that_is_refused,
    upstream.retention,
    upstream.probes,
    operators.new_organization,
    operators.organization_is_changed,
    operators.organization_is_disabled,
    operators.token_comes_and_goes,
    operators.submit_key_comes_and_goes,
    operators.keys_are_rotated,
    operators.workspace_comes_and_goes,
    operators.connection_comes_and_goes,
    operators.connection_is_limited,
    operators.connection_rests,
    operators.connection_is_checked,
    operators.server_comes_and_goes,
    operators.server_is_changed,
    operators.looking_at_one,
    operators.dead_letter_is_discarded,
    operators.dead_letters_are_discarded_together,
    operators.dead_letters_are_replayed_together,
    *map(operators.looking, operators.QUIET_COMMANDS),
)


@dataclass(frozen=True)
class Case:
    """Where a process is killed, and the scenarios in which it passes there. point None: nobody is killed.

    The first scenario is played; the next one only if the point was not reached, as background work varies.
    only_if_found: the call must come back with something to do; the later half is content with any call. others: all
    that ever passed there, the surest first, for where those tries were too few.
    """

    scenarios: Sequence[Scenario]
    point: KillPoint | None = None
    only_if_found: bool = False
    others: Sequence[Scenario] = ()

    def __str__(self) -> str:
        where = f", killed: {self.point}" if self.point else ""
        return f"{self.scenarios[0].__name__}{where}"


@dataclass(frozen=True)
class Played:
    """What became of a case. scenario: the one of its scenarios that counts. wrong: empty when all was as promised."""

    case: Case
    scenario: str
    reached: bool
    wrong: str
    seconds: float
    traced: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)


@dataclass
class Campaign:
    """complete: without a kill. killed: one case per kill point. undone: what was right first and wrong later."""

    complete: list[Played] = field(default_factory=list)
    killed: list[Played] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)

    @property
    def reached(self) -> Counter[tuple[str, str, str, str]]:
        """How often each call was made in the complete runs."""
        return sum((played.traced for played in self.complete), Counter())

    @property
    def points(self) -> set[KillPoint]:
        return {
            KillPoint(process, call, Moment(moment))
            for process, call, moment, _ in self.reached
            if UNSTEADY.keys().isdisjoint(call.split("."))
        }


async def run_campaign(
    context: ForkServerContext,
    new_stores: Callable[[int], Stores],
    directory: Path,
    *,
    lanes: int,
    scenarios: Sequence[Scenario] = SCENARIOS,
) -> Campaign:
    """new_stores: empty ones for a lane's number. So many lanes play their cases at once."""
    campaign = Campaign()
    places = [_Place(context, new_stores, directory / f"lane{number}", number) for number in range(lanes)]
    try:
        campaign.complete = await _play_all(places, [Case([scenario]) for scenario in scenarios])
        campaign.killed = await _play_all(places, plan(campaign.complete))
        # What a process does by itself it may do elsewhere this time: again, wherever it was ever seen.
        for _ in range(_ROUNDS_MORE):
            missed = [played for played in campaign.killed if not played.reached and not played.wrong]
            campaign.killed = [played for played in campaign.killed if played not in missed]
            campaign.killed += await _play_all(places, [_wherever(played.case) for played in missed])
        campaign.undone = [wrong for place in places for wrong in await place.close()]
    finally:
        await asyncio.gather(*(place.close() for place in places))
    return campaign


def plan(complete: Iterable[Played]) -> list[Case]:
    """A case for each point that was reached: where its call finds something to do, if it does so anywhere."""
    passed: dict[KillPoint, list[_Passage]] = defaultdict(list)
    for played in complete:
        found = {call[:3] for call in played.traced if call[3] != NOTHING}
        for process, call, moment, ended in played.traced:
            if moment == Moment.AFTER and ended == NOTHING and (process, call, moment) in found:
                continue
            does_something = (process, call, Moment.AFTER) in found
            times = played.traced[process, call, moment, ended]
            cost = max(played.seconds, _SHORT_S) / min(times, _OFTEN)
            passage = _Passage(played.case.scenarios[0], does_something, cost, times)
            passed[KillPoint(process, call, Moment(moment))].append(passage)
    return [_case(point, passages) for point, passages in sorted(passed.items())]


@dataclass(frozen=True)
class _Passage:
    """A scenario that reaches a point so often. found: its call has something to do there. cost: of trying it there."""

    scenario: Scenario
    found: bool
    cost: float
    times: int


def _case(point: KillPoint, passages: Sequence[_Passage]) -> Case:
    most = max(passage.times for passage in passages)
    own = [passage for passage in passages if passage.times * _LEFT_OVER > most]
    cheapest = sorted(own, key=lambda passage: passage.cost)
    fruitful = [passage for passage in cheapest if passage.found]
    tries = [*islice(cycle(fruitful), _TRIES // 2), *islice(cycle(cheapest), _TRIES)]
    scenarios = [passage.scenario for passage in tries[:_TRIES]]
    surest = [passage.scenario for passage in sorted(own, key=lambda passage: (-passage.times, passage.cost))]
    return Case(scenarios, point, only_if_found=bool(fruitful) and point.process != CLI, others=surest)


def _wherever(case: Case) -> Case:
    return replace(case, scenarios=case.others, only_if_found=False)


class _Place:
    """Where a lane runs. One on which a case went wrong is given up, with whatever is stuck on it, for a new one."""

    def __init__(
        self, context: ForkServerContext, new_stores: Callable[[int], Stores], directory: Path, number: int
    ) -> None:
        self._context = context
        self._new_stores = new_stores
        self._directory = directory
        self._number = number
        self._parts = AsyncExitStack()
        self._lane: Lane | None = None
        self._checks: list[tuple[Case, Check]] = []
        directory.mkdir(exist_ok=True)

    async def play(self, case: Case) -> Played:
        if self._lane is None:
            stores = await asyncio.to_thread(self._new_stores, self._number)
            self._lane = await self._parts.enter_async_context(lane(self._context, stores, self._directory))
        played, check = await play(self._lane, case)
        if check is not None:
            self._checks.append((case, check))
        if played.wrong:
            await self.close()
        return played

    async def close(self) -> list[str]:
        """End the lane; what was right when its case ended and is not any more."""
        checks, self._checks, self._lane = self._checks, [], None
        undone = [f"{case}, later: {wrong}" for case, check in checks if (wrong := _wrong(check))]
        await self._parts.aclose()
        return undone


async def _play_all(places: Sequence[_Place], cases: Sequence[Case]) -> list[Played]:
    waiting = deque(cases)
    results: list[Played] = []

    async def play_here(place: _Place) -> None:
        while waiting:
            results.append(await place.play(waiting.popleft()))

    async with asyncio.TaskGroup() as at_once:
        for place in places:
            at_once.create_task(play_here(place))
    return results


async def play(running: Lane, case: Case) -> tuple[Played, Check | None]:
    """One case from its first message until all is quiet."""
    started = time.monotonic()
    for number, scenario in enumerate(case.scenarios, start=1):
        mark, kills = running.mark(), running.kills()
        patient = case.only_if_found and number <= _TRIES // 2
        wrong, check = await _play_once(running, scenario, case.point, only_if_found=patient)
        reached = running.kills() - kills == (case.point is not None)
        if wrong or reached:
            break
    traced = Counter(running.traced(mark))
    return Played(case, scenario.__name__, reached, wrong, time.monotonic() - started, traced), None if wrong else check


async def _play_once(
    running: Lane, scenario: Scenario, point: KillPoint | None, *, only_if_found: bool
) -> tuple[str, Check | None]:
    killed = running.kills()
    await running.directories_are_unloaded()
    if point is not None:
        running.processes[point.process].kill_at(point, only_if_found=only_if_found)
    try:
        async with asyncio.timeout(_CASE_LIMIT_S):
            check = await scenario(running)
            await running.until_quiet()
            if point is not None:
                await running.until_killed(killed, timeout_s=_IDLE_ROUND_S)
    except Exception as error:  # noqa: BLE001 - whatever went wrong is what this case shows
        return f"{type(error).__name__}: {error}", None
    finally:
        for process in running.processes.values():
            process.spare()
    return _wrong(check), check


def _wrong(check: Check) -> str:
    try:
        check()
    except AssertionError as error:
        return str(error) or "a check failed"
    return ""
