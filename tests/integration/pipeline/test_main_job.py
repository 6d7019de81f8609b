"""From a Slack message to a threaded reply, step by step, with what may go wrong between the steps."""

import itertools
import json
from contextlib import suppress
from typing import Any

import pytest

from config.settings import Settings
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.executions import EventKind
from nubabel_workers.simulators.opencode.running import RunningSimulator
from nubabel_workers.simulators.slack.faults import Fault, FaultKind
from nubabel_workers.simulators.slack.limits import RateLimits
from nubabel_workers.simulators.slack.model import Message
from nubabel_workers.simulators.slack.server import SlackSimulator, SlackSimulatorOptions
from tests.integration.pipeline.conftest import CHANNEL, ORGANIZATION, TEAM, Pipeline, wired_pipeline
from tests.integration.pipeline.dying import Killed, dies, others_find_its_rows, work_until_quiet
from tests.waiting import eventually_true

pytestmark = pytest.mark.integration


async def test_a_mention_becomes_one_threaded_reply(pipeline: Pipeline) -> None:
    question = await pipeline.mention("how are you?")

    await pipeline.answer_everything()

    (reply,) = pipeline.replies(question)
    assert "how are you?" in reply
    assert await pipeline.statuses() == ["completed"]


async def test_a_working_sign_is_shown_and_taken_away(pipeline: Pipeline) -> None:
    question = await pipeline.mention("hello")
    await pipeline.take_events()
    await pipeline.deliver()
    assert "eyes" in question.reactions

    await pipeline.answer_everything()

    assert not question.reactions.get("eyes")


async def test_the_sign_goes_with_the_answer_in_one_delivery(pipeline: Pipeline) -> None:
    question = await pipeline.mention("hello")
    await pipeline.take_events()
    await pipeline.deliver()
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()

    line = await pipeline.deliver()

    assert line.startswith("1 outcome sent")
    assert ";" not in line
    assert not question.reactions.get("eyes")


async def test_a_sign_that_stays_with_the_answer_is_taken_away_on_its_own(pipeline: Pipeline) -> None:
    question = await pipeline.mention("hello")
    await pipeline.take_events()
    await pipeline.deliver()
    pipeline.slack.faults.plan(Fault("reactions.remove", FaultKind.HTTP_STATUS, status=503))

    await pipeline.answer_everything()
    assert len(pipeline.replies(question)) == 1
    assert question.reactions.get("eyes")
    await pipeline.deliver()

    assert not question.reactions.get("eyes")
    assert len(pipeline.replies(question)) == 1


async def test_the_twin_of_a_mention_and_a_redelivery_answer_once(pipeline: Pipeline) -> None:
    question = await pipeline.mention("once?")
    for kind in ("message", "app_mention"):
        await pipeline.receive(pipeline.envelope({**question.wire(TEAM), "type": kind, "channel": CHANNEL}))

    await pipeline.answer_everything()

    assert len(pipeline.replies(question)) == 1


async def test_a_follow_up_in_the_thread_continues_the_session_without_a_mention(pipeline: Pipeline) -> None:
    question = await pipeline.mention("first")
    await pipeline.answer_everything()
    follow_up = await pipeline.say("second", thread_ts=question.ts)

    await pipeline.answer_everything()

    first, second = pipeline.replies(question)
    assert "ECHO[2]" in first or "ECHO[1]" in first
    assert "second" in second
    assert follow_up.thread_ts == question.ts
    sessions = await pipeline.one("SELECT count(*) AS sessions FROM sessions")
    assert sessions == {"sessions": 1}


async def test_a_message_in_somebody_elses_thread_is_none_of_our_business(pipeline: Pipeline) -> None:
    root = pipeline.slack.say("lunch?", team=TEAM, channel=CHANNEL)
    await pipeline.say("yes", thread_ts=root.ts)

    assert await pipeline.take_events() == "nothing to do"


async def test_a_mention_inside_a_thread_brings_the_earlier_messages_as_context(pipeline: Pipeline) -> None:
    root = pipeline.slack.say("the build is red", team=TEAM, channel=CHANNEL)
    pipeline.slack.say("since the last deploy", team=TEAM, channel=CHANNEL, thread_ts=root.ts)
    await pipeline.mention("why?", thread_ts=root.ts)

    await pipeline.take_events()
    await pipeline.dispatch()

    context = await pipeline.one("SELECT context->>'thread' AS thread FROM executions")
    assert "the build is red" in str(context["thread"])
    assert "since the last deploy" in str(context["thread"])


async def test_a_mention_in_a_long_thread_brings_its_root_and_its_newest_messages(pipeline: Pipeline) -> None:
    root = pipeline.slack.say("the build is red", team=TEAM, channel=CHANNEL)
    for number in range(120):
        pipeline.slack.say(f"message {number}.", team=TEAM, channel=CHANNEL, thread_ts=root.ts)
    await pipeline.mention("why?", thread_ts=root.ts)

    await pipeline.take_events()
    await pipeline.dispatch()

    context = await pipeline.one("SELECT context->>'thread' AS thread FROM executions")
    assert "the build is red" in str(context["thread"])
    assert "message 119." in str(context["thread"])


async def test_with_the_quota_of_an_app_that_is_sold_a_long_thread_still_brings_its_newest_messages(
    settings: Settings, opencode: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    minutes = (f"{1_795_216_000 + 60 * minute}.000000" for minute in itertools.count())
    limits = RateLimits(reads_per_minute=1, max_messages_per_read=15)
    async with SlackSimulator(SlackSimulatorOptions(limits=limits)) as slack:
        for_sale = settings.model_copy(
            update={
                "slack_read_quota_per_minute": 1,
                "slack_read_page_size": 15,
                "slack_api_base_url": slack.api_url,
            }
        )
        monkeypatch.setattr(slack.world, "next_ts", lambda: next(minutes))
        async with wired_pipeline(for_sale, slack, opencode) as pipeline:
            root = slack.say("the build is red", team=TEAM, channel=CHANNEL)
            for number in range(120):
                slack.say(f"message {number}.", team=TEAM, channel=CHANNEL, thread_ts=root.ts)
            await pipeline.mention("why?", thread_ts=root.ts)
            await pipeline.take_events()
            await pipeline.dispatch()

            row = await pipeline.one(
                "SELECT context->>'thread' AS thread, context->>'about_thread' AS notes FROM executions"
            )

    assert "the build is red" in str(row["thread"])
    assert "message 119." in str(row["thread"])
    assert "Of this long thread I took in its first message and the newest" in str(row["notes"])


async def test_a_thread_that_may_not_be_read_is_said_beside_the_answer(pipeline: Pipeline) -> None:
    root = pipeline.slack.say("the build is red", team=TEAM, channel=CHANNEL)
    pipeline.slack.faults.plan(Fault("conversations.replies", FaultKind.RATE_LIMITED, seconds=30))
    question = await pipeline.mention("why?", thread_ts=root.ts)

    await pipeline.answer_everything()

    (reply,) = pipeline.replies(question)
    assert "could not read the earlier messages" in reply


async def test_attached_files_are_passed_on_and_those_too_large_are_named(pipeline: Pipeline) -> None:
    bot = pipeline.slack.workspace(TEAM).bot_user_id
    files = [
        {"name": "notes.txt", "mimetype": "text/plain", "content": "hello"},
        {"name": "huge.bin", "mimetype": "application/octet-stream", "content": "x" * 6_000_000},
    ]
    question = pipeline.slack.say(f"<@{bot}> read these", team=TEAM, channel=CHANNEL, files=files)
    await pipeline.receive(pipeline.envelope({**question.wire(TEAM), "type": "app_mention", "channel": CHANNEL}))

    await pipeline.answer_everything()

    (reply,) = pipeline.replies(question)
    assert "Not read: huge.bin" in reply
    assert "notes.txt" not in reply.split("Not read:")[1]


async def test_requests_with_files_are_taken_a_few_at_a_time(pipeline: Pipeline) -> None:
    bot = pipeline.slack.workspace(TEAM).bot_user_id
    files = [{"name": "notes.txt", "mimetype": "text/plain", "content": "hello"}]
    questions = [
        pipeline.slack.say(f"<@{bot}> read {number}", team=TEAM, channel=CHANNEL, files=files) for number in range(4)
    ]
    for question in questions:
        await pipeline.receive(pipeline.envelope({**question.wire(TEAM), "type": "app_mention", "channel": CHANNEL}))
    await pipeline.take_events()

    line = await pipeline.dispatch()
    await work_until_quiet(pipeline)

    assert "2 dispatched" in line
    assert "2 waiting" in line
    assert [len(pipeline.replies(question)) for question in questions] == [1, 1, 1, 1]


async def test_the_word_stop_cancels_what_runs_down_to_opencode(pipeline: Pipeline) -> None:
    question = await pipeline.mention("[[hang]] think for ever")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.say("stop", thread_ts=question.ts)

    await pipeline.take_events()
    await pipeline.complete()
    await pipeline.deliver()

    assert await pipeline.statuses() == ["cancelled"]
    assert pipeline.replies(question) == ["Stopped, as you asked."]
    assert (
        await pipeline.services.servers.server((await pipeline.services.instances.loads())[0]).busy_sessions(None) == {}
    )


async def test_a_mention_without_words_is_asked_what_it_wants(pipeline: Pipeline) -> None:
    question = await pipeline.mention("")

    await pipeline.take_events()
    await pipeline.deliver()

    assert pipeline.replies(question) == ["Yes? Tell me in the same message what I can do for you."]


async def test_stopping_where_nothing_runs_is_answered(pipeline: Pipeline) -> None:
    question = await pipeline.mention("stop")

    await pipeline.take_events()
    await pipeline.deliver()

    assert pipeline.replies(question) == ["Nothing is running in this conversation."]


async def edit(pipeline: Pipeline, question: Message, text: str) -> None:
    """As Slack tells of it, with an event of its own each time."""
    previous = question.wire(TEAM)
    pipeline.slack.world.edit_by_person(pipeline.slack.workspace(TEAM), CHANNEL, question.ts, text)
    event: dict[str, object] = {"type": "message", "subtype": "message_changed", "channel": CHANNEL, "hidden": True}
    event |= {"message": question.wire(TEAM), "previous_message": previous}
    await pipeline.receive(pipeline.envelope(event))


@pytest.mark.parametrize(
    ("words", "said"),
    [("and of Busan?", "I answer it as it was"), ("부산은?", "처음 질문에 답변드리며")],
    ids=["English", "Korean"],
)
async def test_a_question_that_is_changed_while_it_runs_is_told_once_that_its_first_words_are_answered(
    pipeline: Pipeline, words: str, said: str
) -> None:
    question = await pipeline.mention("[[delay=0.5]] the weather of Seoul?")
    await pipeline.take_events()
    await pipeline.dispatch()

    for text in (words, f"{words}!", f"{words}!!"):
        await edit(pipeline, question, text)
        await pipeline.take_events()
    await pipeline.deliver()
    await pipeline.run_ends()
    await pipeline.complete()
    await pipeline.deliver()

    note, answer = pipeline.replies(question)
    assert said in note
    assert "Seoul" in answer
    assert await pipeline.statuses() == ["completed"]


async def test_a_question_that_is_changed_after_its_answer_is_left_alone(pipeline: Pipeline) -> None:
    question = await pipeline.mention("the weather of Seoul?")
    await pipeline.answer_everything()

    await edit(pipeline, question, "and of Busan?")
    await pipeline.take_events()
    await pipeline.deliver()

    assert len(pipeline.replies(question)) == 1


async def test_an_edit_of_what_was_not_said_to_the_bot_is_not_stored(pipeline: Pipeline) -> None:
    await edit(pipeline, pipeline.slack.say("to the others", team=TEAM, channel=CHANNEL), "to all others")

    assert await pipeline.one("SELECT count(*) AS n FROM inbound_events") == {"n": 0}


async def test_deleting_the_question_before_it_started_cancels_it(pipeline: Pipeline) -> None:
    question = await pipeline.mention("what is new?")
    await pipeline.take_events()
    event: dict[str, object] = {"type": "message", "subtype": "message_deleted", "channel": CHANNEL}
    event |= {
        "deleted_ts": question.ts,
        "ts": "1900000000.000100",
        "previous_message": question.wire(TEAM),
        "hidden": True,
    }
    await pipeline.receive(pipeline.envelope(event))

    await pipeline.take_events()

    assert await pipeline.statuses() == ["cancelled"]


async def test_uninstalling_the_app_ends_the_workspace_and_its_work(pipeline: Pipeline) -> None:
    await pipeline.mention("too late")
    await pipeline.take_events()
    await pipeline.receive(pipeline.envelope({"type": "app_uninstalled"}))

    await pipeline.take_events()

    assert await pipeline.statuses() == ["cancelled"]
    assert (await pipeline.one("SELECT status FROM workspaces"))["status"] == "revoked"


async def test_a_removal_that_is_read_after_the_app_was_installed_again_ends_nothing(pipeline: Pipeline) -> None:
    await pipeline.receive(pipeline.envelope({"type": "app_uninstalled"}))
    await pipeline.install()
    await pipeline.mention("still here")

    await pipeline.take_events()

    assert await pipeline.statuses() == ["queued"]
    assert (await pipeline.one("SELECT status FROM workspaces"))["status"] == "active"


async def test_a_message_that_was_stored_before_the_app_was_removed_starts_nothing_afterwards(
    pipeline: Pipeline,
) -> None:
    await pipeline.mention("too late")
    await pipeline.services.database.system().execute("UPDATE inbound_events SET not_before = now() + interval '1 h'")
    await pipeline.receive(pipeline.envelope({"type": "app_uninstalled"}))
    await pipeline.take_events()
    await pipeline.services.database.system().execute("UPDATE inbound_events SET not_before = now()")

    line = await pipeline.take_events()

    assert "1 ignored" in line
    assert await pipeline.statuses() == []


@pytest.mark.parametrize("known", [True, False], ids=["known by then", "shown by its token"])
async def test_what_runs_when_the_app_is_removed_is_aborted_and_no_dead_letter_asks_anybody_to_tell_its_end(
    pipeline: Pipeline, known: bool
) -> None:
    """known: whether the workspace is known to be over, or Slack says so of the token."""
    await pipeline.mention("[[hang]] think for ever")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.receive(pipeline.envelope({"type": "app_uninstalled"}))

    await pipeline.take_events()
    await pipeline.complete()
    if not known:
        await pipeline.install()
        pipeline.slack.faults.plan(Fault("*", FaultKind.ERROR, times=99, code="token_revoked"))
    await pipeline.deliver()

    assert await pipeline.statuses() == ["cancelled"]
    assert await pipeline._nothing_runs()
    assert await pipeline.one("SELECT count(*) AS n FROM dead_letters") == {"n": 0}
    told = await pipeline.one("SELECT status, error FROM notifications WHERE kind = 'outcome'")
    assert told["status"] == "dropped"
    assert ("not installed" if known else "token_revoked") in str(told["error"])
    audited = await pipeline.one("SELECT detail->>'reason' AS reason FROM audit_log WHERE action = 'workspace.ended'")
    assert audited["reason"] == "uninstalled"


async def test_more_than_the_server_takes_in_a_second_gets_its_moments_in_one_statement(pipeline: Pipeline) -> None:
    await pipeline.services.database.system().execute("UPDATE instances SET submits_per_second = 3")
    for number in range(40):
        await pipeline.mention(f"number {number}")
    await pipeline.take_events()

    line = await pipeline.dispatch()

    assert "3 dispatched" in line
    assert "8 more wait for their turn, 3 a second" in line  # of 40, 32 were claimed together
    waiting = await pipeline.one("SELECT count(*) AS n FROM executions WHERE status = 'queued' AND not_before > now()")
    assert waiting["n"] == 37


async def test_a_revoked_token_ends_the_workspace_with_a_dead_letter(pipeline: Pipeline) -> None:
    await pipeline.mention("hello")
    await pipeline.mention("and you?")
    await pipeline.take_events()
    await pipeline.dispatch()
    pipeline.slack.faults.plan(Fault("reactions.add", FaultKind.ERROR, times=2, code="token_revoked"))

    await pipeline.deliver()

    assert (await pipeline.one("SELECT status FROM workspaces"))["status"] == "revoked"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "method"), [("tenants", "end_workspace"), ("executions", "open_of_workspace")])
async def test_whoever_dies_while_it_ends_a_workspace_the_rest_of_its_executions_is_cancelled(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, owner: str, method: str, *, after: bool
) -> None:
    await pipeline.mention("[[hang]] think for ever")
    await pipeline.take_events()
    await pipeline.dispatch()
    pipeline.slack.faults.plan(Fault("*", FaultKind.ERROR, times=99, code="token_revoked"))
    deaths = dies(monkeypatch, getattr(pipeline.services, owner), method, after=after)

    with suppress(Killed):
        await pipeline.deliver()
    await others_find_its_rows(pipeline)
    await pipeline.deliver()
    await pipeline.complete()

    assert deaths() == 1
    assert await pipeline.statuses() == ["cancelled"]
    assert await pipeline._nothing_runs()


async def test_a_disabled_organizations_executions_go_on(pipeline: Pipeline) -> None:
    await pipeline.mention("[[hang]] think for ever")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.services.database.system().execute("UPDATE organizations SET disabled_at = now()")

    await pipeline.deliver()

    assert await pipeline.statuses() == ["running"]


async def test_the_answer_to_what_ran_when_its_organization_was_disabled_is_told(pipeline: Pipeline) -> None:
    question = await pipeline.mention("[[text=done]] hello")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.services.database.system().execute("UPDATE organizations SET disabled_at = now()")

    await pipeline.answer_everything()

    assert pipeline.replies(question) == ["done"]


async def test_a_token_that_was_replaced_meanwhile_ends_nothing(pipeline: Pipeline) -> None:
    await pipeline.install("xoxb-of-an-earlier-installation")
    question = await pipeline.mention("[[text=done]] hello")
    workspace = await pipeline.one("SELECT id FROM workspaces")
    await pipeline.services.tenants.workspace(ORGANIZATION, str(workspace["id"]))  # remembered from now on
    await pipeline.install(pipeline.slack.workspace(TEAM).bot_token)

    async def told() -> bool:
        await pipeline.deliver()
        return bool(pipeline.replies(question))

    await pipeline.answer_everything()
    await eventually_true(told, what="the reply")

    assert (await pipeline.one("SELECT status FROM workspaces"))["status"] == "active"
    assert pipeline.replies(question) == ["done"]


async def test_a_late_refusal_of_a_token_that_was_replaced_meanwhile_ends_nothing(pipeline: Pipeline) -> None:
    """By then another refusal has made this process look at the installation afresh."""
    await pipeline.install("xoxb-of-an-earlier-installation")
    await pipeline.mention("hello")
    await pipeline.mention("and you?")
    await pipeline.take_events()
    workspace = await pipeline.one("SELECT id FROM workspaces")
    await pipeline.services.tenants.workspace(ORGANIZATION, str(workspace["id"]))  # remembered from now on
    await pipeline.install(pipeline.slack.workspace(TEAM).bot_token)
    pipeline.slack.faults.plan(Fault("reactions.add", FaultKind.LATE, seconds=0.3))

    await pipeline.deliver()

    assert (await pipeline.one("SELECT status FROM workspaces"))["status"] == "active"


async def test_an_app_that_is_installed_again_just_before_a_refusal_ends_it_goes_on(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pipeline.install("xoxb-of-an-earlier-installation")
    question = await pipeline.mention("[[text=done]] hello")
    await pipeline.take_events()
    tenants = pipeline.services.tenants
    end_workspace = tenants.end_workspace

    async def installed_again_and_ended(*which: str, **how: Any) -> None:
        await pipeline.install(pipeline.slack.workspace(TEAM).bot_token)
        await end_workspace(*which, **how)

    async def told() -> bool:
        await pipeline.deliver()
        return bool(pipeline.replies(question))

    monkeypatch.setattr(tenants, "end_workspace", installed_again_and_ended)
    await pipeline.answer_everything()
    await eventually_true(told, what="the reply")

    assert (await pipeline.one("SELECT status FROM workspaces"))["status"] == "active"
    assert pipeline.replies(question) == ["done"]


async def test_a_failure_of_the_model_is_an_apology_and_a_dead_letter(pipeline: Pipeline) -> None:
    question = await pipeline.mention("[[status=401]] hello")

    await pipeline.answer_everything()

    (reply,) = pipeline.replies(question)
    execution = await pipeline.one("SELECT id, status FROM executions")
    assert execution["status"] == "failed"
    assert str(execution["id"]) in reply
    letter = await pipeline.one("SELECT reason, error FROM dead_letters")
    assert letter["reason"] == "permanent-error"
    assert "401" in str(letter["error"])


async def test_an_answer_that_was_cut_says_so(pipeline: Pipeline) -> None:
    question = await pipeline.mention("[[finish=length]] [[text=half an answ]]")

    await pipeline.answer_everything()

    (reply,) = pipeline.replies(question)
    assert "half an answ" in reply
    assert "length limit" in reply


async def test_a_server_that_crashed_in_the_middle_runs_the_same_prompt_again(pipeline: Pipeline) -> None:
    question = await pipeline.mention("[[hang=mid]] [[times=1]] hello")
    await pipeline.take_events()
    await pipeline.dispatch()
    pipeline.opencode.simulator.crash(down_s=0)

    await pipeline.run_ends()
    await pipeline.complete()
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()
    await pipeline.deliver()

    assert len(pipeline.replies(question)) == 1
    assert await pipeline.statuses() == ["completed"]
    attempts = await pipeline.services.database.system().all("SELECT number, verdict FROM attempts ORDER BY number")
    assert [row["verdict"] for row in attempts] == ["resubmit", "succeeded"]


async def test_a_session_lost_on_its_server_goes_on_in_a_new_one_with_its_earlier_turns(pipeline: Pipeline) -> None:
    question = await pipeline.mention("my name is Ada")
    await pipeline.answer_everything()
    pipeline.opencode.simulator.store.sessions.clear()
    await pipeline.say("what is my name?", thread_ts=question.ts)

    await pipeline.answer_everything()

    assert await pipeline.statuses() == ["completed", "completed"]
    assert "Ada" in pipeline.replies(question)[1]


async def test_the_timeline_tells_what_happened(pipeline: Pipeline) -> None:
    await pipeline.mention("hello")
    await pipeline.answer_everything()
    execution = await pipeline.one("SELECT id FROM executions")

    timeline = await pipeline.services.executions.timeline(ORGANIZATION, str(execution["id"]))

    assert [event.kind for event in timeline] == [
        EventKind.ACCEPTED,
        EventKind.SUBMITTED,
        EventKind.FINISHED,
        EventKind.DELIVERED,
    ]


async def test_the_analysis_decides_category_and_agent(pipeline: Pipeline) -> None:
    await pipeline.mention("README 문서를 작성해 주세요")
    await pipeline.take_events()
    await pipeline.dispatch()

    row = await pipeline.one("SELECT analysis->>'category' AS category, analysis->>'agent' AS agent FROM executions")

    assert row == {"category": "writing", "agent": "Sisyphus - ultraworker"}


async def test_while_its_server_is_away_a_request_waits_without_counting_failures(pipeline: Pipeline) -> None:
    question = await pipeline.mention("hello")
    await pipeline.take_events()
    pipeline.opencode.simulator.crash(down_s=3600)
    for _ in range(3):
        await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")
        await pipeline.dispatch()
    waiting = await pipeline.one("SELECT status, failures, waiting_for FROM executions")
    assert waiting == {"status": "queued", "failures": 0, "waiting_for": "server away"}
    timeline = await pipeline.one("SELECT count(*) AS n FROM execution_events WHERE kind = 'waiting'")
    assert timeline == {"n": 1}
    pipeline.opencode.simulator.crash(down_s=0)
    await eventually_true(lambda: answers(pipeline), what="the server's return")
    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")

    await pipeline.answer_everything()

    assert len(pipeline.replies(question)) == 1


async def answers(pipeline: Pipeline) -> bool:
    (instance,) = await pipeline.services.instances.loads()
    try:
        return bool(await pipeline.services.servers.server(instance).version())
    except UnavailableError:
        return False
    finally:
        await pipeline.services.report_servers.run()  # as the listener does


async def test_the_timeline_tells_what_was_delegated(pipeline: Pipeline) -> None:
    task = {"category": "quick", "load_skills": ["git-master"], "description": "part", "prompt": "[[text=done]]"}
    await pipeline.mention(f"[[tool=task {json.dumps(task)}]] [[text=all done]]")
    await pipeline.answer_everything()

    row = await pipeline.one("SELECT id FROM executions")
    timeline = await pipeline.services.executions.timeline(ORGANIZATION, str(row["id"]))
    (delegated,) = [event for event in timeline if event.kind is EventKind.DELEGATED]
    (finished,) = [event for event in timeline if event.kind is EventKind.FINISHED]

    child = next(s for s in pipeline.opencode.simulator.store.sessions.values() if s.info.get("parentID"))
    assert delegated.detail == {
        "session_id": child.id,
        "category": "quick",
        "agent": "Sisyphus-Junior",
        "skills": ["git-master"],
        "model": "stub/echo",
    }
    assert finished.detail["delegated"] is True
    assert timeline.index(delegated) < timeline.index(finished)
