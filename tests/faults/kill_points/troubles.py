"""Conversations in which OpenCode, the database or Slack has a bad day on top of the killed process."""

import time
from collections.abc import Sequence

from pydantic import SecretStr

from nubabel_workers.adapters.storage.workspaces import PostgresWorkspaces
from nubabel_workers.domain.administration import Installation
from nubabel_workers.domain.opencode_ids import prompt_ids
from nubabel_workers.domain.ports import PromptPart
from nubabel_workers.simulators.opencode.state import SimulatedSession
from nubabel_workers.simulators.slack.faults import Fault, FaultKind
from tests.faults.kill_points.conversations import Check, Thread, answers, ask
from tests.faults.kill_points.lane import Lane

_SORRY = "Sorry, I could not finish this."
_BASH = '[[tool=bash {"command":"true","description":"x"}]]'


async def failure_and_replay(lane: Lane) -> Check:
    """The model refuses for good; once it does not any more, an operator lets it be tried again."""
    thread = ask(lane, f"[[status=400]] [[times=1]] {answers('Done.')}")
    await thread.until_told(_SORRY)
    await lane.until_quiet()
    await lane.replay_newest_dead_letter()
    await thread.until_told_again(_SORRY)
    return lambda: thread.check_again(_SORRY)


async def archived_channel(lane: Lane) -> Check:
    thread = ask(lane, f"[[delay=0.3]] {answers('Done.')}")
    await thread.until_running()
    channel = lane.slack.workspace(lane.tenant.team).channels[thread.channel]
    channel.archived = True
    await lane.until_quiet()
    channel.archived = False
    await lane.replay_newest_dead_letter()

    async def told_when_a_minute_is_over() -> bool:
        """A post in doubt may still arrive; so long it is not repeated."""
        await lane.database(
            "UPDATE notifications SET uncertain_since = now() - interval '2 minutes', not_before = now()"
            " WHERE status = 'ready' AND uncertain AND uncertain_since > now() - interval '1 minute'"
        )
        return thread.says("Done.")

    await lane.until_true(told_when_a_minute_is_over, "the answer")

    def check() -> None:
        assert thread.says("Done.")
        assert lane.model_runs(thread.words) == [1]

    return check


async def event_that_cannot_be_processed(lane: Lane) -> Check:
    """The database takes no executions for a while, and the event runs out of tries."""

    async def failed_once() -> bool:
        return await lane.count("inbound_events WHERE status = 'ready' AND failures > 0") > 0

    async with lane.no_new_sessions():
        thread = ask(lane, answers("Done."))
        await lane.until_true(failed_once, "the event's first failure")
        await lane.database("UPDATE inbound_events SET failures = 100 WHERE status = 'ready'")
        await thread.until_told(_SORRY)
    await lane.replay_newest_dead_letter()
    await thread.until_told_again(_SORRY)
    return lambda: thread.check_again(_SORRY)


async def prompt_whose_answer_is_lost(lane: Lane) -> Check:
    lane.opencode.simulator.set_faults(lose_answers=1)
    thread = ask(lane, answers("Done."))
    await thread.until_told("Done.")
    return lambda: thread.check("Done.")


async def server_that_is_away(lane: Lane) -> Check:
    """Its breaker opens, what comes then waits, and goes on when it is back."""
    lane.opencode.simulator.crash(down_s=1.5)
    threads = [ask(lane, answers("Done."))]

    async def breaker_is_open() -> bool:
        return bool(await lane.services.breakers.gates()) or threads[0].says("Done.")

    await lane.until_true(breaker_is_open, "the breaker")
    threads += [ask(lane, answers("Done.")) for _ in range(2)]
    return await _all_done(threads)


async def server_that_was_away_at_night(lane: Lane) -> Check:
    """Nobody but the listener noticed: it opens the breaker, and closes it."""
    lane.opencode.simulator.crash(down_s=1.0)
    await lane.until(lambda: not lane.opencode.simulator.streams.readers, "the break")
    await lane.until(lambda: lane.opencode.simulator.streams.readers, "the listener's return")
    thread = ask(lane, answers("Done."))
    await thread.until_told("Done.")
    return lambda: thread.check("Done.")


async def server_that_refuses_prompts(lane: Lane) -> Check:
    """Whoever wants to submit has to open the breaker, and to try whether it may be closed."""
    lane.opencode.simulator.set_faults(refuse=3, refuse_status=503, refuse_path="prompt_async")
    thread = ask(lane, answers("Done."))
    await thread.until_told("Done.")
    return lambda: thread.check("Done.")


async def more_than_a_server_takes(lane: Lane) -> Check:
    """One prompt a second: the others wait for their turn."""
    await lane.database("UPDATE instances SET submits_per_second = 1")
    check = await _all_done([ask(lane, answers("Done.")) for _ in range(3)])
    await lane.database("UPDATE instances SET submits_per_second = 1000")
    return check


async def _all_done(threads: Sequence[Thread]) -> Check:
    for thread in threads:
        await thread.until_told("Done.")

    def check() -> None:
        for thread in threads:
            thread.check("Done.")

    return check


async def slow_server(lane: Lane) -> Check:
    """Leases are renewed while it takes its time."""
    lane.opencode.simulator.set_faults(slow_accept_s=1.5)
    thread = ask(lane, answers("Done."))
    await thread.until_told("Done.")
    lane.opencode.simulator.set_faults(slow_accept_s=0)
    return lambda: thread.check("Done.")


async def run_that_ends_in_silence(lane: Lane) -> Check:
    """Nothing runs and nothing was said: another attempt, the first that reaches the model."""
    lane.opencode.simulator.set_faults(idle_without_answer=1)
    thread = ask(lane, answers("Done."))
    await thread.until_told("Done.")
    return lambda: thread.check("Done.")


async def stream_that_breaks(lane: Lane) -> Check:
    thread = ask(lane, f"[[delay=0.5]] {answers('Done.')}")
    await thread.until_running()
    lane.opencode.simulator.streams.disconnect()
    await thread.until_told("Done.")
    return lambda: thread.check("Done.")


async def stream_that_breaks_late(lane: Lane) -> Check:
    """A run that is older than a moment is compared with the server when the listener hears it again."""
    thread = ask(lane, f"[[delay=2.5]] {answers('Done.')}")
    await thread.until_running()
    await lane.until_true(lambda: lane.count("executions WHERE status = 'running'"), "the run's row")
    await lane.database("UPDATE executions SET running_since = now() - interval '1 minute' WHERE status = 'running'")
    lane.opencode.simulator.streams.disconnect()
    await thread.until_told("Done.")
    return lambda: thread.check("Done.")


async def slack_that_takes_its_time(lane: Lane) -> Check:
    """A lease is renewed while the post is on its way."""
    lane.slack.faults.plan(Fault("chat.postMessage", FaultKind.LATE, seconds=2.5))
    thread = ask(lane, answers("Done."))
    await thread.until_told("Done.")
    return lambda: thread.check("Done.")


async def run_of_somebody_else(lane: Lane) -> Check:
    """A busy session without a request of ours is looked up when the listener compares, and left alone."""
    (instance,) = await lane.services.instances.loads()
    server = lane.services.servers.server(instance)
    session = await server.create_session(title="Somebody else's", metadata={}, directory=instance.directory)
    ids = prompt_ids("org_none", session, f"theirs{lane.number()}", created_ms=int(time.time() * 1000), parts=1)
    await server.submit(
        session,
        message_id=ids.message_id,
        parts=[PromptPart(ids.part_ids[0], text=f"[[delay=3]] {answers('Not for you.')}")],
        agent=None,
        model=None,
        system=None,
        timeout_s=5,
    )
    lane.opencode.simulator.streams.disconnect()
    thread = ask(lane, f"[[delay=2.5]] {answers('Done.')}")
    await thread.until_told("Done.")
    return lambda: thread.check("Done.")


async def look_that_comes_early(lane: Lane) -> Check:
    thread = ask(lane, f"[[delay=1]] {answers('Done.')}")
    await thread.until_running()
    await lane.until_true(lambda: lane.count("executions WHERE status = 'running'"), "the run's row")
    await lane.database("UPDATE executions SET check_at = now() - interval '1 minute' WHERE status = 'running'")
    await thread.until_told("Done.")
    return lambda: thread.check("Done.")


async def session_that_is_lost(lane: Lane) -> Check:
    """The next turn goes on in a new session, with the earlier ones as context."""
    thread = ask(lane, answers("First."))
    await thread.until_told("First.")
    await lane.until_quiet()
    _forget_session(lane, thread)
    second = f"pears{lane.number():05d}"
    thread.reply(f"{answers('Second.')} {second}")
    await thread.until_told("First.", "Second.")
    return lambda: thread.check("First.", "Second.", words=second)


async def permission_ask(lane: Lane) -> Check:
    thread = ask(lane, answers("First."))
    await thread.until_told("First.")
    await lane.until_quiet()
    _rule(lane, thread, "bash", "ask")
    thread.reply(f"{_BASH} {answers('Second.')} pears")
    await thread.until_told("First.", "Second.")
    return lambda: thread.check("First.", "Second.", runs=(1,))


async def ask_that_nobody_heard_of(lane: Lane) -> Check:
    """Found by comparing with the server; a run is compared when it is older than a moment."""
    thread = ask(lane, answers("First."))
    await thread.until_told("First.")
    await lane.until_quiet()
    _rule(lane, thread, "bash", "ask")
    lane.opencode.simulator.set_faults(mute_events=True)
    thread.reply(f"{_BASH} {answers('Second.')} pears")
    await thread.until_told("First.", "Second.")
    lane.opencode.simulator.set_faults(mute_events=False)
    return lambda: thread.check("First.", "Second.", runs=(1,))


async def question_of_the_model(lane: Lane) -> Check:
    thread = ask(lane, answers("First."))
    await thread.until_told("First.")
    await lane.until_quiet()
    _rule(lane, thread, "question", "allow")
    thread.reply("[[question]] pears")
    silent = "The assistant ended without an answer."
    await thread.until_told("First.", silent)
    return lambda: thread.check("First.", silent, runs=(1,))


async def question_that_nobody_heard_of(lane: Lane) -> Check:
    """As with an ask: found by comparing with the server."""
    thread = ask(lane, answers("First."))
    await thread.until_told("First.")
    await lane.until_quiet()
    _rule(lane, thread, "question", "allow")
    lane.opencode.simulator.set_faults(mute_events=True)
    thread.reply("[[question]] pears")
    silent = "The assistant ended without an answer."
    await thread.until_told("First.", silent)
    lane.opencode.simulator.set_faults(mute_events=False)
    return lambda: thread.check("First.", silent, runs=(1,))


async def app_that_is_removed(lane: Lane) -> Check:
    team = await _second_workspace(lane)
    thread = ask(lane, "[[hang]]", team=team)
    await thread.until_running()
    lane.slack.world.uninstall(team)
    return await _nobody_is_told(lane, thread)


async def token_that_is_revoked(lane: Lane) -> Check:
    """Slack says so when a post is tried; what else runs for that workspace is stopped."""
    team = await _second_workspace(lane)
    thread = ask(lane, "[[hang]]", team=team)
    await thread.until_running()
    lane.slack.faults.plan(Fault("chat.postMessage", FaultKind.ERROR, times=1000, code="token_revoked", team=team))
    lane.mention(answers("Never told."), channel="C9OTHER", team=team)
    check = await _nobody_is_told(lane, thread)
    lane.slack.faults.clear()
    return check


async def _nobody_is_told(lane: Lane, thread: Thread) -> Check:
    await lane.until(lambda: not lane.opencode.simulator.engine.active, "the abort")
    await lane.until_quiet()

    def check() -> None:
        assert thread.told() == []
        assert lane.model_runs(thread.words) == [1]

    return check


async def _second_workspace(lane: Lane) -> str:
    team = f"T{lane.number():05d}"
    workspace = lane.slack.world.add_workspace(team)
    installation = Installation(
        team_id=team,
        enterprise_id=None,
        team_name=team,
        bot_user_id=workspace.bot_user_id,
        bot_token=SecretStr(workspace.bot_token),
        bot_id=workspace.bot_id,
    )
    services = lane.services
    await PostgresWorkspaces(services.database, services.cipher).save(
        lane.tenant.id, services.chance.new_id("wsp"), installation, actor="tests"
    )
    return team


def _rule(lane: Lane, thread: Thread, permission: str, action: str) -> None:
    _session_of(lane, thread).info["permission"] = [{"permission": permission, "pattern": "*", "action": action}]


def _forget_session(lane: Lane, thread: Thread) -> None:
    lane.opencode.simulator.store.remove(_session_of(lane, thread))


def _session_of(lane: Lane, thread: Thread) -> SimulatedSession:
    (session,) = (
        session
        for session in lane.opencode.simulator.store.sessions.values()
        if any(thread.words in message.text for message in session.messages.values())
    )
    return session
