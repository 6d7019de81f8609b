"""The button below a notice that a request waits for its budget: whoever may press it lets that request go on, once."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from config.settings import Settings
from nubabel_workers.adapters.slack.messenger import SlackMessenger
from nubabel_workers.adapters.storage.organizations import PostgresOrganizations
from nubabel_workers.domain.budgets import Cap, Shortage
from nubabel_workers.domain.errors import RateLimitedError
from nubabel_workers.domain.executions import Status
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.tenants import PolicyChange
from nubabel_workers.simulators.slack.model import Json, Message
from nubabel_workers.simulators.slack.server import SlackSimulator
from tests.conftest import RedisServer
from tests.integration.pipeline.conftest import CHANNEL, ORGANIZATION, TEAM, Pipeline, pipeline_settings
from tests.integration.pipeline.dying import Killed, dies, others_find_its_rows
from tests.integration.pipeline.test_budgets import look, set_caps, start, until_paused

pytestmark = pytest.mark.integration

ANNA, BEN, STRANGER = "U0ANNA", "U0BEN", "U0STRANGER"
_STEP = '[[tool=bash {"command":"sleep 0.3","description":"x"}]]'
_DEAR = f"[[goes_on]] {_STEP * 6} [[usage=50000,0]] [[text=All seven.]]"


@pytest.fixture
def settings(slack: SlackSimulator, database_url: str, clean_redis: RedisServer) -> Settings:
    return pipeline_settings(
        slack,
        database_url,
        clean_redis,
        budget_first_hold_usd=0.1,
        budget_first_hold_tokens=1000,
        budget_button_usd=0.12,
    )


async def name_approvers(pipeline: Pipeline, user_ids: Sequence[str] = (ANNA, BEN)) -> None:
    organizations = PostgresOrganizations(pipeline.services.database, pipeline.services.cipher)
    change = PolicyChange(budget_approvers=user_ids)
    assert await organizations.set_policy(ORGANIZATION, change, actor="cli:anna") is not None
    pipeline.services.tenants._organizations.clear()


async def paused(pipeline: Pipeline, text: str = _DEAR) -> tuple[Message, Message]:
    """The question, and the notice below which the button is."""
    await set_caps(pipeline, cost_per_execution=0.12)
    question = await start(pipeline, text)
    await until_paused(pipeline)
    return question, notices(pipeline, question)[-1]


def notices(pipeline: Pipeline, question: Message) -> list[Message]:
    thread = pipeline.slack.workspace(TEAM).channels[CHANNEL].thread(question.ts)
    return [message for message in thread if message.buttons]


async def press(pipeline: Pipeline, notice: Message, user: str = ANNA, **changes: Any) -> str:
    payload = pipeline.slack.press(notice, team=TEAM, channel=CHANNEL, user=user)
    return await take(pipeline, payload | changes)


async def take(pipeline: Pipeline, payload: Json) -> str:
    await pipeline.receive(payload)
    word = await pipeline.take_events()
    await pipeline.deliver()
    return word


async def audited(pipeline: Pipeline) -> list[dict[str, Any]]:
    return await pipeline.services.database.system().all(
        "SELECT actor, subject, detail FROM audit_log WHERE action = 'execution.resumed' ORDER BY id"
    )


async def test_whoever_may_lets_it_go_on_and_the_thread_and_the_audit_log_are_told(pipeline: Pipeline) -> None:
    await name_approvers(pipeline)
    question, notice = await paused(pipeline)
    (button,) = notice.buttons
    assert button["text"]["text"] == "Allow $0.12 more"
    workspace = await pipeline.one("SELECT id FROM workspaces")
    row = await pipeline.one("SELECT id FROM executions")

    await press(pipeline, notice)

    assert await pipeline.statuses() == [Status.QUEUED]
    assert pipeline.replies(question)[1:] == ["$0.12 more was allowed: it goes on."]
    (entry,) = await audited(pipeline)
    assert entry == {"actor": f"slack:{workspace['id']}:{ANNA}", "subject": row["id"], "detail": {"cost_usd": 0.12}}


async def test_pressed_until_it_is_done_it_is_answered_once(pipeline: Pipeline) -> None:
    await name_approvers(pipeline)
    question, _ = await paused(pipeline)

    for _ in range(10):
        if await pipeline.statuses() == [Status.WAITING_BUDGET]:
            await press(pipeline, notices(pipeline, question)[-1])
        await pipeline.dispatch()
        while await pipeline.statuses() == [Status.RUNNING]:
            await look(pipeline)

    assert await pipeline.statuses() == [Status.COMPLETED]
    allowed = [reply for reply in pipeline.replies(question) if "was allowed" in reply]
    assert len(allowed) == len(await audited(pipeline)) > 1
    assert notices(pipeline, question) == []
    assert [reply for reply in pipeline.replies(question) if "All seven." in reply] == pipeline.replies(question)[-1:]


async def test_a_button_allows_no_less_than_a_step_of_its_run_so_that_a_press_helps(pipeline: Pipeline) -> None:
    await name_approvers(pipeline)
    budgets = pipeline.services.keep_budgets
    budgets._limits = replace(budgets._limits, button_cost=0.01)
    question, notice = await paused(pipeline)  # five cents a step
    (button,) = notice.buttons

    await press(pipeline, notice)
    await pipeline.dispatch()

    assert button["text"]["text"] == "Allow $0.05 more"
    assert pipeline.replies(question)[1:] == ["$0.05 more was allowed: it goes on."]
    assert await pipeline.statuses() == [Status.RUNNING]


async def test_the_button_goes_when_it_was_pressed(pipeline: Pipeline) -> None:
    await name_approvers(pipeline)
    question, notice = await paused(pipeline)
    words = notice.text

    await press(pipeline, notice)

    assert notices(pipeline, question) == []
    assert pipeline.replies(question)[0] == words


@pytest.mark.parametrize("end", ["operator", "raised", "stop"])
async def test_the_button_goes_when_its_wait_ends_without_it(pipeline: Pipeline, end: str) -> None:
    await name_approvers(pipeline)
    question, _ = await paused(pipeline)

    if end == "operator":
        row = await pipeline.one("SELECT id FROM executions")
        await pipeline.services.keep_budgets.allow(ORGANIZATION, str(row["id"]), cost=5, actor="cli:anna")
    elif end == "raised":
        await set_caps(pipeline, cost_per_execution=100)
        assert await pipeline.services.keep_budgets.resume_those_with_room() == 1
    else:
        await pipeline.say("stop", thread_ts=question.ts)
        await pipeline.take_events()
    await pipeline.deliver()

    assert notices(pipeline, question) == []


async def test_a_notice_that_somebody_deleted_is_left_alone(pipeline: Pipeline) -> None:
    await name_approvers(pipeline)
    question, notice = await paused(pipeline)
    pressed = pipeline.slack.press(notice, team=TEAM, channel=CHANNEL, user=ANNA)
    workspace = pipeline.slack.workspace(TEAM)
    pipeline.slack.world.remove(workspace, workspace.channels[CHANNEL], notice)

    await take(pipeline, pressed)

    assert await pipeline.statuses() == [Status.QUEUED]
    assert pipeline.replies(question) == ["$0.12 more was allowed: it goes on."]
    assert await pipeline.one("SELECT count(*) AS n FROM dead_letters") == {"n": 0}
    assert await pipeline.one("SELECT count(*) AS n FROM notifications WHERE status = 'dropped'") == {"n": 1}


async def test_a_replayed_request_that_waits_again_says_so_with_a_button_of_its_own(pipeline: Pipeline) -> None:
    await name_approvers(pipeline)
    question, old = await paused(pipeline)
    pressed_too_late = pipeline.slack.press(old, team=TEAM, channel=CHANNEL, user=ANNA)
    await pipeline.services.database.system().execute("UPDATE executions SET answer_by = now() - interval '1 s'")
    await pipeline.services.maintain.keep_deadlines()
    letter = await pipeline.one("SELECT id FROM dead_letters")
    await pipeline.replay(str(letter["id"]))
    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")
    await pipeline.dispatch()
    await until_paused(pipeline)
    (anew,) = notices(pipeline, question)

    await take(pipeline, pressed_too_late)
    waits_still = await pipeline.statuses()
    await press(pipeline, anew)

    assert waits_still == [Status.WAITING_BUDGET]
    assert await pipeline.statuses() == [Status.QUEUED]
    assert len(await audited(pipeline)) == 1


async def waiting_in_the_queue(pipeline: Pipeline, text: str = "[[delay=30]] hello") -> Message:
    """A question for which its day has no room."""
    await name_approvers(pipeline)
    await set_caps(pipeline, cost_per_day=0.12)
    await pipeline.mention("[[usage=90000,0]] dear")
    await pipeline.answer_everything()
    question = await start(pipeline, text)
    await pipeline.deliver()
    return question


async def its_attempt_fails(pipeline: Pipeline, *, cost: float) -> None:
    """The server loses it, after it has used that much, and it waits for its budget again."""
    system = pipeline.services.database.system()
    await system.execute(
        """INSERT INTO usage (organization_id, execution_id, day, model, cost, input_tokens, output_tokens,
             reasoning_tokens, cache_read_tokens, cache_write_tokens)
           SELECT organization_id, id, (now() AT TIME ZONE 'UTC')::date, 'lost/model', %(cost)s, 1, 0, 0, 0, 0
           FROM executions WHERE status = 'running'""",
        {"cost": cost},
    )
    pipeline.opencode.simulator.store.sessions.clear()
    await pipeline.services.cache.flushdb()
    await look(pipeline)
    await system.execute("UPDATE executions SET not_before = now() WHERE status = 'queued'")
    await pipeline.dispatch()
    await pipeline.deliver()


async def test_the_button_of_one_that_waits_in_the_queue_goes_when_there_is_room(pipeline: Pipeline) -> None:
    question = await waiting_in_the_queue(pipeline)
    assert len(notices(pipeline, question)) == 1

    await set_caps(pipeline, cost_per_day=100)
    await pipeline.dispatch()
    await pipeline.deliver()

    assert (await pipeline.statuses())[-1] == Status.RUNNING
    assert notices(pipeline, question) == []


async def test_the_button_of_one_that_waits_in_the_queue_goes_when_nothing_is_capped_any_more(
    pipeline: Pipeline,
) -> None:
    question = await waiting_in_the_queue(pipeline)

    await set_caps(pipeline, cost_per_day=None)
    await pipeline.dispatch()
    await pipeline.deliver()

    assert (await pipeline.statuses())[-1] == Status.RUNNING
    assert notices(pipeline, question) == []


async def test_a_notice_that_was_not_told_yet_is_not_told_of_what_goes_on(pipeline: Pipeline) -> None:
    await name_approvers(pipeline)
    await set_caps(pipeline, cost_per_execution=0.12)
    question = await start(pipeline, _DEAR)
    async with asyncio.timeout(20):
        while await pipeline.statuses() == [Status.RUNNING]:
            await pipeline.services.database.system().execute("UPDATE executions SET check_at = now()")
            await pipeline.complete()  # and nobody delivers
    row = await pipeline.one("SELECT id FROM executions")

    await pipeline.services.keep_budgets.allow(ORGANIZATION, str(row["id"]), cost=5, actor="cli:anna")
    await pipeline.deliver()

    assert pipeline.replies(question) == []


async def test_a_button_goes_although_nobody_knew_that_its_notice_was_told(pipeline: Pipeline) -> None:
    await name_approvers(pipeline)
    question, _ = await paused(pipeline)
    system = pipeline.services.database.system()
    await system.execute(
        "UPDATE notifications SET status = 'ready', uncertain = true, uncertain_since = now() - interval '2 min', "
        "sent_parts = '[]', sent_at = NULL WHERE kind = 'notice'"
    )

    await pipeline.say("stop", thread_ts=question.ts)
    await pipeline.take_events()
    await pipeline.deliver()

    assert await pipeline.statuses() == [Status.CANCELLED]
    assert notices(pipeline, question) == []


async def test_a_press_while_a_worker_is_about_to_let_it_wait_is_not_waited_for(pipeline: Pipeline) -> None:
    question = await waiting_in_the_queue(pipeline)
    system = pipeline.services.database.system()
    lease = Lease("lse_x", time.monotonic() + 60)
    await system.execute(
        "UPDATE executions SET status = 'dispatching', lease_owner = 'lse_x', lease_until = now() + interval '9 s' "
        "WHERE status = 'queued'"
    )
    row = await pipeline.one("SELECT id FROM executions WHERE status = 'dispatching'")
    execution = await pipeline.services.executions.find(ORGANIZATION, str(row["id"]))
    assert execution is not None
    shortage = Shortage(Cap.COST_PER_DAY, spent_out=True, frees_at=None)

    await press(pipeline, notices(pipeline, question)[-1])
    await pipeline.services.keep_budgets.wait(execution, lease, shortage)
    await pipeline.dispatch()

    assert (await pipeline.statuses())[-1] == Status.RUNNING


async def test_what_was_allowed_more_counts_as_paused_no_more(pipeline: Pipeline) -> None:
    await name_approvers(pipeline)
    _, notice = await paused(pipeline)
    _, before = await pipeline.services.keep_budgets.books(ORGANIZATION)

    await press(pipeline, notice)
    _, after = await pipeline.services.keep_budgets.books(ORGANIZATION)

    assert (before.paused, after.paused) == (1, 0)


async def test_each_wait_in_the_queue_has_a_button_of_its_own_that_is_answered(pipeline: Pipeline) -> None:
    question = await waiting_in_the_queue(pipeline)
    first = notices(pipeline, question)[0]
    late = pipeline.slack.press(first, team=TEAM, channel=CHANNEL, user=BEN)
    await press(pipeline, first, ANNA)
    await pipeline.dispatch()
    await its_attempt_fails(pipeline, cost=5)
    (second,) = notices(pipeline, question)

    await take(pipeline, late)
    allowed_by_the_old_one = len(await audited(pipeline)) - 1
    told = len(pipeline.replies(question))
    await press(pipeline, second, ANNA)

    assert allowed_by_the_old_one == 0
    assert len(await audited(pipeline)) == 2
    assert pipeline.replies(question)[told:] == ["$0.12 more was allowed: it goes on."]


async def test_what_another_button_allowed_before_is_not_told_of_this_one(pipeline: Pipeline) -> None:
    question = await waiting_in_the_queue(pipeline)
    await press(pipeline, notices(pipeline, question)[0], ANNA)
    await pipeline.dispatch()
    await its_attempt_fails(pipeline, cost=5)
    late = pipeline.slack.press(notices(pipeline, question)[0], team=TEAM, channel=CHANNEL, user=BEN)
    await pipeline.say("stop", thread_ts=question.ts)
    await pipeline.take_events()
    await pipeline.deliver()

    await take(pipeline, late)

    assert "not waiting" in pipeline.replies(question)[-1]


@pytest.mark.parametrize(("now_usd", "allowed"), [(50.0, 0.12), (0.05, 0.05)], ids=["raised", "lowered"])
async def test_a_press_allows_no_more_than_its_button_says_nor_than_operators_allow_by_then(
    pipeline: Pipeline, now_usd: float, allowed: float
) -> None:
    await name_approvers(pipeline)
    question, notice = await paused(pipeline)
    budgets = pipeline.services.keep_budgets
    budgets._limits = replace(budgets._limits, button_cost=now_usd)

    await press(pipeline, notice)

    assert pipeline.replies(question)[1:] == [f"${allowed} more was allowed: it goes on."]
    assert [entry["detail"]["cost_usd"] for entry in await audited(pipeline)] == [allowed]


async def test_a_limit_on_edits_holds_up_no_answer(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    async def limited(*_: object, **__: object) -> None:
        raise RateLimitedError("chat.update", retry_after_s=60)

    await name_approvers(pipeline)
    _, notice = await paused(pipeline)
    monkeypatch.setattr(SlackMessenger, "update", limited)
    await press(pipeline, notice)

    other = await pipeline.mention("hello")
    await pipeline.answer_everything()

    assert any("hello" in reply for reply in pipeline.replies(other))


async def test_whoever_dies_while_the_button_goes_it_goes_and_nothing_is_marked(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    await name_approvers(pipeline)
    question, notice = await paused(pipeline)
    words = notice.text
    row = await pipeline.one("SELECT id FROM notifications WHERE kind = 'notice'")
    deaths = dies(
        monkeypatch,
        pipeline.services.notifications,
        "sent",
        after=False,
        at=lambda claimed, *_: claimed.notification.id == row["id"],
    )

    with suppress(Killed):
        await press(pipeline, notice)
    await others_find_its_rows(pipeline)
    await pipeline.services.database.system().execute(
        "UPDATE notifications SET uncertain_since = now() - interval '11 min' WHERE uncertain"
    )
    await pipeline.deliver()

    assert deaths() == 1
    assert notices(pipeline, question) == []
    assert pipeline.replies(question)[0] == words
    marked = await pipeline.services.database.system().all("SELECT id FROM notifications WHERE repeated")
    assert row not in marked  # another post may have been under way when the process died


async def test_what_waits_in_the_queue_has_the_button_as_well(pipeline: Pipeline) -> None:
    question = await waiting_in_the_queue(pipeline, "hello")

    await press(pipeline, notices(pipeline, question)[-1], BEN)
    await pipeline.answer_everything()

    assert await pipeline.statuses() == [Status.COMPLETED, Status.COMPLETED]


async def test_a_press_while_a_worker_looks_for_room_counts_whatever_the_worker_finds(pipeline: Pipeline) -> None:
    question = await waiting_in_the_queue(pipeline, "hello")
    notice = notices(pipeline, question)[-1]
    second = pipeline.slack.press(notice, team=TEAM, channel=CHANNEL, user=ANNA)
    await pipeline.services.database.system().execute(
        "UPDATE executions SET status = 'dispatching', lease_owner = 'lse_x', lease_until = now() + interval '9 s' "
        "WHERE status = 'queued'"
    )

    await press(pipeline, notice, BEN)
    await pipeline.services.database.system().execute(
        "UPDATE executions SET status = 'queued', lease_owner = NULL, lease_until = NULL WHERE lease_owner = 'lse_x'"
    )
    await take(pipeline, second)
    await pipeline.answer_everything()

    assert await pipeline.statuses() == [Status.COMPLETED, Status.COMPLETED]
    assert len(await audited(pipeline)) == 1
    assert "Nothing to allow" not in " ".join(pipeline.replies(question))


async def test_a_double_press_counts_once_and_is_told_once(pipeline: Pipeline) -> None:
    await name_approvers(pipeline)
    question, notice = await paused(pipeline)
    payloads = [pipeline.slack.press(notice, team=TEAM, channel=CHANNEL, user=user) for user in (ANNA, ANNA, BEN)]

    await asyncio.gather(*(pipeline.receive(payload) for payload in (*payloads, payloads[0])))
    await asyncio.gather(*(pipeline.take_events() for _ in range(3)))
    await pipeline.take_events()
    await pipeline.deliver()

    assert len(await audited(pipeline)) == 1
    assert len(pipeline.replies(question)) == 2
    assert await pipeline.one("SELECT count(*) AS n FROM inbound_events WHERE kind = 'button'") == {"n": 3}


@pytest.mark.parametrize("text", [_DEAR, f"{_DEAR} 안녕하세요"], ids=["en", "ko"])
async def test_whoever_may_not_is_told_so_once_and_nothing_changes(pipeline: Pipeline, text: str) -> None:
    await name_approvers(pipeline)
    question, notice = await paused(pipeline, text)

    for _ in range(3):
        await press(pipeline, notice, STRANGER)

    assert await pipeline.statuses() == [Status.WAITING_BUDGET]
    assert await audited(pipeline) == []
    (_, refused) = pipeline.replies(question)
    assert ("예산 담당자만" if "안녕" in text else "only those who look after") in refused


async def test_whoever_is_no_approver_any_more_may_not(pipeline: Pipeline) -> None:
    await name_approvers(pipeline)
    _, notice = await paused(pipeline)
    await name_approvers(pipeline, [BEN])

    await press(pipeline, notice, ANNA)

    assert await pipeline.statuses() == [Status.WAITING_BUDGET]


async def test_without_approvers_there_is_no_button(pipeline: Pipeline) -> None:
    await set_caps(pipeline, cost_per_execution=0.12)
    question = await start(pipeline, _DEAR)
    await until_paused(pipeline)

    assert len(pipeline.replies(question)) == 1
    assert notices(pipeline, question) == []


async def test_a_button_is_good_for_the_one_wait_that_it_was_shown_for(pipeline: Pipeline) -> None:
    await name_approvers(pipeline)
    question, old = await paused(pipeline)
    pressed_too_late = pipeline.slack.press(old, team=TEAM, channel=CHANNEL, user=BEN)
    await press(pipeline, old)
    await pipeline.dispatch()
    await until_paused(pipeline)
    assert len(notices(pipeline, question)) == 1

    await take(pipeline, pressed_too_late)

    assert await pipeline.statuses() == [Status.WAITING_BUDGET]
    assert len(await audited(pipeline)) == 1
    assert "not waiting" in pipeline.replies(question)[-1]


async def test_of_what_was_stopped_a_press_says_that_it_waits_no_more(pipeline: Pipeline) -> None:
    await name_approvers(pipeline)
    question, notice = await paused(pipeline)
    await pipeline.say("stop", thread_ts=question.ts)
    await pipeline.take_events()

    await press(pipeline, notice)

    assert await pipeline.statuses() == [Status.CANCELLED]
    assert "not waiting" in pipeline.replies(question)[-1]


@pytest.mark.parametrize(
    "forged",
    [
        {"channel": {"id": "C0OTHER"}},
        {"message": {"ts": "1795216375.000100", "thread_ts": "1795216300.000200"}},
        {
            "actions": [
                {"action_id": "nubabel_allow_more", "value": "exe_none:0.1.1:1", "action_ts": "1795216375.000100"}
            ]
        },
        {"actions": [{"action_id": "nubabel_allow_more", "value": "' OR 1=1", "action_ts": "1795216375.000100"}]},
    ],
    ids=["another channel", "another thread", "no such request", "no value of ours"],
)
async def test_what_a_press_names_counts_only_where_it_was_asked(pipeline: Pipeline, forged: dict[str, Any]) -> None:
    await name_approvers(pipeline)
    question, notice = await paused(pipeline)

    await press(pipeline, notice, **forged)

    assert await pipeline.statuses() == [Status.WAITING_BUDGET]
    assert len(pipeline.replies(question)) == 1


async def test_another_organizations_request_is_nothing_to_ones_own_approver(pipeline: Pipeline) -> None:
    """Its workspace says whose press it is, whatever it names."""
    await name_approvers(pipeline)
    _, notice = await paused(pipeline)
    system = pipeline.services.database.system()
    await system.execute(
        f"INSERT INTO organizations (id, name, budget_approvers) VALUES ('org_x', 'X', ARRAY['{ANNA}'])"
    )
    await system.execute(
        """INSERT INTO workspaces (id, organization_id, installation_key, team_id, bot_user_id, bot_token)
           SELECT 'wsp_x', 'org_x', '-:T0X', 'T0X', bot_user_id, bot_token FROM workspaces"""
    )
    payload = pipeline.slack.press(notice, team=TEAM, channel=CHANNEL, user=ANNA)

    with suppress(Exception):  # the token is sealed for the other one
        await pipeline.receive(payload | {"team": {"id": "T0X"}})
    await pipeline.take_events()

    assert await pipeline.statuses() == [Status.WAITING_BUDGET]
    assert await audited(pipeline) == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", ["allow", "done"])
async def test_whoever_dies_while_it_is_allowed_it_is_allowed_once_and_told_once(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, call: str, after: bool
) -> None:
    await name_approvers(pipeline)
    question, notice = await paused(pipeline)
    services = pipeline.services
    port = services.keep_budgets._budgets if call == "allow" else services.process_slack_events._inbound
    deaths = dies(monkeypatch, port, call, after=after)

    with suppress(Killed):
        await press(pipeline, notice)
    await others_find_its_rows(pipeline)
    await pipeline.take_events()
    await pipeline.deliver()

    assert deaths() == 1
    assert await pipeline.statuses() == [Status.QUEUED]
    assert len(await audited(pipeline)) == 1
    assert pipeline.replies(question)[1:] == ["$0.12 more was allowed: it goes on."]


async def test_a_press_that_nobody_can_process_is_a_dead_letter_and_whoever_pressed_is_asked_to_press_again(
    pipeline: Pipeline,
) -> None:
    await name_approvers(pipeline)
    question, notice = await paused(pipeline)
    await pipeline.receive(pipeline.slack.press(notice, team=TEAM, channel=CHANNEL, user=ANNA))
    await pipeline.services.database.system().execute(
        "UPDATE inbound_events SET suspect = true, lone_deliveries = 99 WHERE kind = 'button'"
    )

    await pipeline.take_events()
    await pipeline.deliver()

    assert await pipeline.statuses() == [Status.WAITING_BUDGET]
    assert await pipeline.one("SELECT reason FROM dead_letters") == {"reason": "too-many-deliveries"}
    assert "press the button again" in pipeline.replies(question)[-1]
