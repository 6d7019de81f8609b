"""What runs used, to the token: their sub-agents included, and what broke off marked as a lower bound."""

import json

import pytest

from tests.integration.pipeline.conftest import ORGANIZATION, Pipeline
from tests.waiting import eventually

pytestmark = pytest.mark.integration


async def test_what_sub_agents_used_is_on_the_bill(pipeline: Pipeline) -> None:
    inner = json.dumps({"description": "inner", "prompt": "[[usage=300,30]] [[text=done]]"})
    outer = json.dumps({"description": "outer", "prompt": f"[[tool=task {inner}]] [[usage=20,2]] [[text=done]]"})
    await pipeline.mention(f"[[tool=task {outer}]] [[usage=1,1]] [[text=all done]]")

    await pipeline.answer_everything()

    assert await pipeline.statuses() == ["completed"]
    told = await pipeline.one(
        "SELECT (usage->>'input_tokens')::int AS tokens, usage->'lower_bound' AS more FROM executions"
    )
    model = await pipeline.one("SELECT input_tokens AS tokens, lower_bound AS more FROM usage")
    spent = sum(
        message.info["tokens"]["input"]
        for session in pipeline.opencode.simulator.store.sessions.values()
        for message in session.messages.values()
        if not message.is_user
    )
    assert told == model == {"tokens": spent, "more": False}
    assert len(pipeline.opencode.simulator.store.sessions) == 3


async def test_what_a_stopped_sub_agent_used_is_on_the_bill_as_a_lower_bound(pipeline: Pipeline) -> None:
    step = '[[tool=bash {"command":"sleep 0.1","description":"x"}]] [[text=never]]'
    task = json.dumps({"description": "part", "prompt": step})
    question = await pipeline.mention(f"[[tool=task {task}]] [[text=never]]")
    await pipeline.take_events()
    await pipeline.dispatch()
    engine = pipeline.opencode.simulator.engine
    await eventually(lambda: engine.model_calls == 2, what="the sub-agent's first step")
    pipeline.opencode.simulator.set_faults(stall=1)
    await eventually(lambda: engine.model_calls == 3, what="the sub-agent's second step")

    row = await pipeline.one("SELECT id FROM executions")
    await pipeline.services.cancel_execution.cancel(ORGANIZATION, str(row["id"]), reason="enough")
    await pipeline.complete()
    await pipeline.deliver()

    assert await pipeline.statuses() == ["cancelled"]
    of_its_first_step = {"tokens": 11, "more": True}
    assert await pipeline.one("SELECT input_tokens AS tokens, lower_bound AS more FROM usage") == of_its_first_step
    assert len(pipeline.replies(question)) == 1
