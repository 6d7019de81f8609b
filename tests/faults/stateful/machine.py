"""The state machine: what people, callers, networks and clocks do to the services, in any order."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nubabel_workers.domain.hints import HintTask
from nubabel_workers.domain.tenants import BusyPolicy
from nubabel_workers.simulators.slack.model import ApiError
from tests.faults.stateful.callers import Callers
from tests.faults.stateful.invariants import Watch
from tests.faults.stateful.outside_opencode import End, FakeOpenCode, FakeSession
from tests.faults.stateful.outside_slack import Answer
from tests.faults.stateful.settled import come_to_rest, unsettled
from tests.faults.stateful.stepping import Fate
from tests.faults.stateful.world import INSTANCES, ORGANIZATIONS, PROCESSES, UNDISTURBED, Interruption, World

_struck = st.builds(Interruption, st.integers(0, 16), st.sampled_from(Fate))
interruptions = st.one_of(st.just(UNDISTURBED), _struck)
some = st.integers(0, 50)  # picks one of however many there are
processes = st.integers(0, PROCESSES - 1)
organizations = st.sampled_from(ORGANIZATIONS)
ends = st.sampled_from([End.ANSWERED, End.ANSWERED, End.ANSWERED, *End])
# What goes its usual way after each step: (kind, which of them, how a run ends, process, interruption).
flows = st.lists(st.tuples(st.integers(0, 5), some, ends, processes, interruptions), max_size=6)
Flow = Sequence[tuple[int, int, End, int, Interruption]]


class ServicesUnderFaults(RuleBasedStateMachine):
    """Rules that have nothing to act on do nothing. Each is followed by some of what happens all the time."""

    def __init__(self, runner: asyncio.Runner, world: World) -> None:
        super().__init__()
        self._runner = runner
        self.world = world
        self.world.reset()
        self.watch = Watch(world)
        self.callers = Callers(world)
        self.sound = True

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    # --- the usual ---

    @rule(flow=flows)
    def life_goes_on(self, flow: Flow) -> None:
        """Slack delivers, workers take hints, runs end, the listener hears of it. When all is quiet somebody asks, or
        time passes and the scheduler looks.
        """
        for kind, which, how, process, interruption in flow:
            usual = [self._deliver, self._take_hint, self._take_hint, self._take_hint, self._end_run, self._hear]
            for offset in range(len(usual)):
                if usual[(kind + offset) % len(usual)](which, how, process, interruption):
                    break
            else:
                self._while_all_is_quiet(which, process, interruption)

    def _while_all_is_quiet(self, which: int, process: int, interruption: Interruption) -> None:
        if which % 2:
            organization = ORGANIZATIONS[which % 3 % 2]
            self.callers.write(organization, which, "follow up" if which % 5 else "ask", addressed=True)
        else:
            self._run(self.world.pass_time(3, renewing=True))
            self._schedule("publish_overdue", process, interruption)

    def _deliver(self, which: int, how: End, process: int, interruption: Interruption) -> bool:
        told = self.world.events
        if told:
            self._run(self.callers.deliver(told[which % len(told)], process, interruption))
        return bool(told)

    def _take_hint(self, which: int, how: End, process: int, interruption: Interruption) -> bool:
        hints = self.world.memory.hints
        if not hints:
            return False
        hint = hints.pop(which % len(hints))
        self._run(self.world.take_hint(process, hint.task, hint.row_id, interruption))
        return True

    def _end_run(self, which: int, how: End, process: int, interruption: Interruption) -> bool:
        busy = self._busy()
        if busy:
            server, session = busy[which % len(busy)]
            self.world.note(f"the run in {session.id} ends: {how}")
            self._run(_soon(lambda: server.end(session, how)))
        return bool(busy)

    def _hear(self, which: int, how: End, process: int, interruption: Interruption) -> bool:
        news = [(server, session_id) for server in self.world.servers.values() for session_id in server.news]
        if news:
            server, session_id = news[which % len(news)]
            server.news.remove(session_id)
            self._run(self.world.hear(process, server, session_id, interruption))
        return bool(news)

    def _schedule(self, step: str, process: int, interruption: Interruption) -> None:
        self._run(self.world.start(process, step, lambda services: getattr(services.maintain, step)(), interruption))

    def _busy(self) -> list[tuple[FakeOpenCode, FakeSession]]:
        return [(server, session) for server in self.world.servers.values() for session in server.busy()]

    # --- people and callers ---

    @rule(
        organization=organizations,
        place=some,
        words=st.sampled_from(["ask", "ask", "follow up", "follow up", "follow up", "stop", "nothing", "질문"]),
        addressed=st.booleans(),
        flow=flows,
    )
    def somebody_writes(self, organization: str, place: int, words: str, addressed: bool, flow: Flow) -> None:
        self.callers.write(organization, place, words, addressed=addressed)
        self.life_goes_on(flow)

    @rule(which=some, edit=st.booleans(), flow=flows)
    def somebody_edits_or_deletes(self, which: int, edit: bool, flow: Flow) -> None:
        try:
            self.callers.edit_or_delete(which, edit=edit)
        except ApiError:  # it is gone already
            return
        self.life_goes_on(flow)

    @rule(which=some, process=processes, interruption=interruptions, flow=flows)
    def slack_delivers_again(self, which: int, process: int, interruption: Interruption, flow: Flow) -> None:
        """What was acknowledged: the acknowledgement was late."""
        if self.callers.acknowledged:
            body = self.callers.acknowledged[which % len(self.callers.acknowledged)]
            self._run(self.callers.deliver_again(body, process, interruption))
        self.life_goes_on(flow)

    @rule(
        organization=organizations,
        key=st.integers(1, 4),
        session=st.integers(1, 2),
        called_back=st.booleans(),
        process=processes,
        interruption=interruptions,
        flow=flows,
    )
    def upstream_submits(
        self,
        organization: str,
        key: int,
        session: int,
        called_back: bool,
        process: int,
        interruption: Interruption,
        flow: Flow,
    ) -> None:
        """A caller without an answer submits the same again; one that has an answer may as well."""
        self._run(self.callers.submit(organization, key, session, process, interruption, called_back=called_back))
        self.life_goes_on(flow)

    @rule(which=some, process=processes, interruption=interruptions, flow=flows)
    def upstream_cancels(self, which: int, process: int, interruption: Interruption, flow: Flow) -> None:
        self._run(self.callers.cancel(which, process, interruption))
        self.life_goes_on(flow)

    # --- processes ---

    @rule(task=st.sampled_from(HintTask), process=processes, interruption=interruptions, flow=flows)
    def a_worker_works_without_a_hint(
        self, task: HintTask, process: int, interruption: Interruption, flow: Flow
    ) -> None:
        self._run(self.world.take_hint(process, task, None, interruption))
        self.life_goes_on(flow)

    @rule(which=some, process=processes, interruption=interruptions, flow=flows)
    def a_hint_is_doubled(self, which: int, process: int, interruption: Interruption, flow: Flow) -> None:
        hints = self.world.memory.hints
        if hints:
            hint = hints[which % len(hints)]
            self._run(self.world.take_hint(process, hint.task, hint.row_id, interruption))
        self.life_goes_on(flow)

    @rule(
        step=st.sampled_from(["publish_overdue", "keep_deadlines", "reconcile", "expire"]),
        process=processes,
        interruption=interruptions,
        flow=flows,
    )
    def the_scheduler_works(self, step: str, process: int, interruption: Interruption, flow: Flow) -> None:
        self._schedule(step, process, interruption)
        self.life_goes_on(flow)

    @rule(which=some, interruption=interruptions, flow=flows)
    def a_paused_call_goes_on(self, which: int, interruption: Interruption, flow: Flow) -> None:
        paused = self.world.paused()
        if paused:
            self._run(self.world.go_on(paused[which % len(paused)], interruption))
        self.life_goes_on(flow)

    @rule(which=some, hints=st.integers(1, 4), process=processes, interruption=interruptions, flow=flows)
    def a_stopped_process_wakes_up_late(
        self, which: int, hints: int, process: int, interruption: Interruption, flow: Flow
    ) -> None:
        """Others have taken over meanwhile."""
        paused = self.world.paused()
        if not paused:
            return
        self._run(self.world.pass_time(12, renewing=False))
        self._schedule("publish_overdue", process, UNDISTURBED)
        for _ in range(hints):
            self._take_hint(0, End.ANSWERED, process, UNDISTURBED)
        self._run(self.world.go_on(paused[which % len(paused)], interruption))
        self.life_goes_on(flow)

    @rule(process=processes, flow=flows)
    def a_process_is_killed(self, process: int, flow: Flow) -> None:
        self._run(self.world.kill(self.world.processes[process]))
        self.life_goes_on(flow)

    # --- time and what is shared ---

    @rule(
        seconds=st.sampled_from([1, 3, 6, 12, 30, 120, 400]),
        renewing=st.booleans(),
        process=processes,
        flow=flows,
    )
    def time_passes(self, seconds: int, renewing: bool, process: int, flow: Flow) -> None:
        self._run(self.world.pass_time(seconds, renewing=renewing))
        self._schedule("publish_overdue", process, UNDISTURBED)
        self.life_goes_on(flow)

    @rule(flow=flows)
    def redis_is_wiped(self, flow: Flow) -> None:
        self.world.memory.wipe()
        self.life_goes_on(flow)

    @rule(organization=organizations, policy=st.sampled_from(BusyPolicy))
    def an_administrator_chooses_a_policy(self, organization: str, policy: BusyPolicy) -> None:
        self.world.rows.execute("UPDATE organizations SET busy_policy = %s WHERE id = %s", (policy.value, organization))

    @rule(which=some, process=processes, flow=flows)
    def an_operator_replays(self, which: int, process: int, flow: Flow) -> None:
        letters = self.world.all("SELECT id FROM dead_letters WHERE status = 'open' ORDER BY created_at")
        if letters:
            self._run(self.callers.replay(letters[which % len(letters)]["id"], process))
        self.life_goes_on(flow)

    # --- the outside ---

    @rule(which=some, retries=st.booleans(), flow=flows)
    def a_model_has_trouble(self, which: int, retries: bool, flow: Flow) -> None:
        """OpenCode tries its model again, for ever; or the run ends badly."""
        busy = self._busy()
        if busy:
            server, session = busy[which % len(busy)]
            if retries:
                session.retries = 7
            else:
                self._run(_soon(lambda: server.end(session, End.BUSY_MODEL)))
        self.life_goes_on(flow)

    @rule(
        server=st.sampled_from(INSTANCES),
        fault=st.sampled_from(["away", "back", "restart", "empty", "down", "up"]),
        flow=flows,
    )
    def something_happens_to_a_server(self, server: str, fault: str, flow: Flow) -> None:
        target = self.world.servers[server]
        match fault:
            case "away" | "back":
                target.away = fault == "away"
            case "restart":
                target.restart()
            case "empty":
                target.lose_everything()
            case "down" | "up":  # as the listener reports it
                self.world.rows.execute("UPDATE instances SET healthy = %s WHERE id = %s", (fault == "up", server))
        self.world.note(f"{server}: {fault}")
        self.life_goes_on(flow)

    @rule(
        answers=st.lists(st.sampled_from(Answer), min_size=1, max_size=3),
        call=st.sampled_from(["post", "post", "read", "hook"]),
        flow=flows,
    )
    def slack_or_a_receiver_has_trouble(self, answers: list[Answer], call: str, flow: Flow) -> None:
        """With the next calls."""
        world = self.world
        plan = {"post": world.messenger.plan, "read": world.messenger.reads, "hook": world.webhooks.plan}[call]
        plan.extend(answers)
        world.note(f"next {call}s: {[str(answer) for answer in answers]}")
        self.life_goes_on(flow)

    # --- what must hold ---

    @invariant()
    def nothing_is_broken(self) -> None:
        if not self.sound:
            return
        broken = self.watch.broken()
        self.sound = not broken
        assert not broken, self._told(broken)

    def _told(self, complaints: list[str]) -> str:
        return "\n".join(["", *complaints, "What happened (second of the test, what):", *self.world.journal])

    def teardown(self) -> None:
        try:
            if self.sound:
                self._run(come_to_rest(self.world))
                complaints = [*self.watch.broken(), *unsettled(self.world, self.callers.accepted)]
                assert not complaints, self._told(complaints)
        finally:
            for process in self.world.processes:
                self._run(self.world.kill(process))


async def _soon(change: Callable[[], None]) -> None:
    """On the loop, whose timers it may need."""
    change()
