"""What people do in Slack: each case plays one conversation and says what must be seen of it at the end.

Whether it was kept is read from the Slack simulator's threads and the OpenCode simulator's counters.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from nubabel_workers.domain.outcomes import REPLACED
from nubabel_workers.domain.tenants import BusyPolicy
from nubabel_workers.domain.wording import Language, say
from nubabel_workers.simulators.slack.faults import Fault, FaultKind
from nubabel_workers.simulators.slack.model import Message
from tests.faults.kill_points.lane import Lane

Check = Callable[[], None]
"""Raises AssertionError; asked when all is quiet, and once more when every other case has been played."""

Scenario = Callable[[Lane], Awaitable[Check]]

_AGAIN = say("replayed", Language.ENGLISH)
STOPPED = say("stopped", Language.ENGLISH)
_LATE_NOTICE = say("late", Language.ENGLISH)
_BASH = '[[tool=bash {"command":"sleep 0.3","description":"a nap"}]]'
_TASK = '[[tool=task {"description":"part","prompt":"[[text=half done]]"}]]'


@dataclass(frozen=True)
class Thread:
    """A question of somebody, the channel of its own, and words by which its prompts are found on OpenCode."""

    lane: Lane
    question: Message
    channel: str
    words: str
    team: str

    def told(self) -> list[str]:
        return self.lane.told(self.question, self.channel, self.team)

    async def until_told(self, *beginnings: str) -> None:
        """The thread says exactly this, in this order, and nothing is left of signs of work."""
        await self.lane.until(lambda: self.says(*beginnings), lambda: f"{beginnings}, told: {self.told()}")

    def says(self, *beginnings: str) -> bool:
        told = self.told()
        return len(told) == len(beginnings) and all(map(str.startswith, told, beginnings))

    async def until_told_again(self, apology: str) -> None:
        """A replay's answer; the notice that it is tried again is left out where the answer was faster."""
        await self.lane.until(lambda: self._says_again(apology), lambda: f"the replay's answer, told: {self.told()}")

    def check_again(self, apology: str) -> None:
        assert self._says_again(apology), f"told: {self.told()}"
        assert set(self.lane.model_runs(self.words)) == {1}, "model runs per prompt"

    def _says_again(self, apology: str) -> bool:
        return self.says(apology, _AGAIN, "Done.") or self.says(apology, "Done.")

    async def until_running(self, words: str | None = None) -> None:
        await self.lane.until(lambda: sum(self.lane.model_runs(words or self.words)) > 0, "the model's run")

    def reply(self, text: str) -> None:
        self.lane.say(text, channel=self.channel, thread=self.question, team=self.team)

    def check(self, *beginnings: str, runs: Sequence[int] = (1,), words: str | None = None) -> None:
        assert self.says(*beginnings), f"expected {beginnings}, told: {self.told()}"
        assert self.lane.model_runs(words or self.words) == list(runs), "model runs per prompt"
        assert not self.question.reactions, "a sign of work is left"


def ask(lane: Lane, directives: str, *, team: str = "") -> Thread:
    """A person mentions the bot in a channel where nobody has written yet."""
    number = lane.number()
    channel, words = f"C{number:08d}", f"apples{number:05d}"
    question = lane.mention(f"{directives} {words}", channel=channel, team=team)
    return Thread(lane, question, channel, words, team)


def answers(text: str) -> str:
    return f"[[text={text}]]"


async def mention(lane: Lane) -> Check:
    thread = ask(lane, f"{_BASH} {_TASK} [[delay=0.3]] {answers('Done.')}")
    await thread.until_told("Done.")
    return lambda: thread.check("Done.")


async def long_answer(lane: Lane) -> Check:
    thread = ask(lane, "[[tokens=4000]]")
    await lane.until(lambda: len(thread.told()) > 1, "the parts")
    await lane.until_quiet()
    parts = len(thread.told())
    return lambda: thread.check(*(f"({n}/{parts})" for n in range(1, parts + 1)))


async def follow_up(lane: Lane) -> Check:
    thread = ask(lane, f"[[delay=0.5]] {answers('First.')}")
    await thread.until_running()
    thread.reply(f"{answers('Second.')} pears{thread.words}")
    await thread.until_told("First.", "Second.")
    return lambda: thread.check("First.", "Second.", runs=(1, 1))


async def direct_message_with_a_file(lane: Lane) -> Check:
    number = lane.number()
    channel, words = f"D{number:08d}", f"apples{number:05d}"
    file = {"name": "notes.txt", "mimetype": "text/plain", "content": "what was said"}
    question = lane.say(f"{answers('Read.')} {words}", channel=channel, files=[file])
    thread = Thread(lane, question, channel, words, "")
    await thread.until_told("Read.")
    return lambda: thread.check("Read.")


async def mention_in_a_thread_of_others(lane: Lane) -> Check:
    number = lane.number()
    channel, words = f"C{number:08d}", f"apples{number:05d}"
    root = lane.say("what do you think?", channel=channel)
    question = lane.mention(f"{answers('I think so.')} {words}", channel=channel, thread=root)
    thread = Thread(lane, question, channel, words, "")
    await thread.until_told("I think so.")
    return lambda: thread.check("I think so.")


async def stop(lane: Lane) -> Check:
    thread = ask(lane, "[[hang]]")
    await thread.until_running()
    thread.reply("stop")
    await thread.until_told(STOPPED)
    return lambda: thread.check(STOPPED)


async def stop_what_waits(lane: Lane) -> Check:
    thread = ask(lane, "[[hang]]")
    await thread.until_running()
    thread.reply(f"{answers('Never.')} pears{thread.words}")
    await _until_queued(lane, f"pears{thread.words}")
    thread.reply("stop")
    await thread.until_told(STOPPED, STOPPED)
    return lambda: thread.check(STOPPED, STOPPED)


async def nothing_to_stop(lane: Lane) -> Check:
    number = lane.number()
    channel = f"C{number:08d}"
    question = lane.mention("stop", channel=channel)
    thread = Thread(lane, question, channel, f"apples{number:05d}", "")
    words = say("nothing_to_stop", Language.ENGLISH)
    await thread.until_told(words)
    return lambda: thread.check(words, runs=())


async def deleted_question(lane: Lane) -> Check:
    thread = ask(lane, "[[hang]]")
    await thread.until_running()
    lane.slack.world.delete_by_person(lane.slack.workspace(lane.tenant.team), thread.channel, thread.question.ts)
    await lane.until(lambda: not lane.opencode.simulator.engine.active, "the abort")

    def check() -> None:
        assert thread.told() == []
        assert lane.model_runs(thread.words) == [1]

    return check


async def interrupt(lane: Lane) -> Check:
    """A worker that dies between storing the follow-up and applying the policy leaves it waiting, and both answered."""
    thread, second = await _follow_up_under(lane, BusyPolicy.INTERRUPT)
    replaced = say(REPLACED, Language.ENGLISH)
    return lambda: _either(thread, ((replaced, second), ("First.", second)))


async def reject(lane: Lane) -> Check:
    thread, second = await _follow_up_under(lane, BusyPolicy.REJECT)
    refused = say("rejected_busy", Language.ENGLISH)
    return lambda: _either(thread, ((refused, "First."), ("First.", second)))


async def _follow_up_under(lane: Lane, policy: BusyPolicy) -> tuple[Thread, str]:
    await lane.set_policy(policy)
    thread = ask(lane, f"[[delay=2]] {answers('First.')}")
    await thread.until_running()
    thread.reply(f"{answers('Second.')} pears{thread.words}")
    await lane.until(lambda: len(thread.told()) == 2, f"two outcomes under {policy}")
    await lane.set_policy(BusyPolicy.QUEUE)
    return thread, "Second."


def _either(thread: Thread, wanted: Sequence[tuple[str, ...]]) -> None:
    assert any(thread.says(*beginnings) for beginnings in wanted), f"expected one of {wanted}, told: {thread.told()}"
    assert set(thread.lane.model_runs(thread.words)) == {1}, "model runs per prompt"


async def told_late(lane: Lane) -> Check:
    thread = ask(lane, "[[hang]]")
    await thread.until_running()
    thread.reply(f"{answers('Never.')} pears{thread.words}")
    await _until_queued(lane, f"pears{thread.words}")
    # That one only: after a kill the first may be on its way back to the queue.
    await lane.database(
        "UPDATE executions SET created_at = now() - interval '1 hour' WHERE status = 'queued' AND prompt LIKE %(like)s",
        like=f"%pears{thread.words}%",
    )
    await thread.until_told(_LATE_NOTICE)
    thread.reply("stop")
    await thread.until_told(_LATE_NOTICE, STOPPED, STOPPED)
    return lambda: thread.check(_LATE_NOTICE, STOPPED, STOPPED)


async def not_started_in_time(lane: Lane) -> Check:
    thread = ask(lane, "[[hang]]")
    await thread.until_running()
    thread.reply(f"{answers('Never.')} pears{thread.words}")
    await _until_queued(lane, f"pears{thread.words}")
    await lane.database("UPDATE executions SET answer_by = now() WHERE status = 'queued'")
    sorry = "Sorry, I could not start on this in time."
    await thread.until_told(sorry)
    thread.reply("stop")
    await thread.until_told(sorry, STOPPED)
    return lambda: thread.check(sorry, STOPPED)


async def _until_queued(lane: Lane, words: str) -> None:
    where = "executions WHERE status = 'queued' AND prompt LIKE %(like)s"
    await lane.until_true(lambda: lane.count(where, like=f"%{words}%"), "the follow-up's row")


async def post_whose_answer_is_lost(lane: Lane) -> Check:
    lane.slack.faults.plan(Fault("chat.postMessage", FaultKind.LOST_ANSWER))
    thread = ask(lane, answers("Done."))
    await thread.until_told("Done.")
    return lambda: thread.check("Done.")


async def post_that_is_limited(lane: Lane) -> Check:
    lane.slack.faults.plan(Fault("chat.postMessage", FaultKind.RATE_LIMITED, seconds=1))
    thread = ask(lane, answers("Done."))
    await thread.until_told("Done.")
    return lambda: thread.check("Done.")


async def marked_repeat(lane: Lane) -> Check:
    """A post whose outcome can't be looked up for ten minutes. If the repeat's is unknown as well, it stays at one."""
    lane.slack.faults.plan(Fault("chat.postMessage", FaultKind.LOST_ANSWER))
    lane.slack.faults.plan(Fault("conversations.replies", FaultKind.HTTP_STATUS, times=1000))
    thread = ask(lane, answers("Done."))
    await thread.until_told("Done.")

    async def time_passes() -> bool:
        await lane.database(
            "UPDATE notifications SET uncertain_since = now() - interval '1 hour', not_before = now()"
            " WHERE status = 'ready' AND uncertain AND uncertain_since > now() - interval '30 minutes'"
        )
        return not await lane.open_rows()

    await lane.until_true(time_passes, "the end of the doubt")
    lane.slack.faults.clear()

    def check() -> None:
        told = thread.told()
        assert all(text.startswith("Done.") for text in told)
        assert ["possibly repeated" in text for text in told] in ([False], [False, True]), told
        assert lane.model_runs(thread.words) == [1]

    return check
