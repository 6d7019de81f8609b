"""The plugin tells what the listener hears too: one result, in whatever order, and progress that is shown once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from nubabel_workers.domain.credentials import callback_key_text
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import RunningSimulator, simulator
from nubabel_workers.simulators.slack.model import Message
from tests.integration.pipeline.conftest import ORGANIZATION, Pipeline
from tests.integration.pipeline.plugin import Plugin, calling
from tests.integration.pipeline.test_listener import listening, until_due
from tests.waiting import eventually_true

pytestmark = pytest.mark.integration

OTHER_KEY = callback_key_text(b"o" * 32)


@pytest.fixture
async def plugin(pipeline: Pipeline) -> AsyncIterator[Plugin]:
    async with calling(pipeline) as one:
        yield one


async def run_begins(pipeline: Pipeline, text: str = "hello") -> Message:
    question = await pipeline.mention(text)
    await pipeline.take_events()
    await pipeline.dispatch()
    return question


async def nothing_runs(pipeline: Pipeline) -> None:
    async def idle() -> bool:
        (instance,) = await pipeline.services.instances.loads()
        return not await pipeline.services.servers.server(instance).busy_sessions(None)

    await eventually_true(idle)


async def has_one_result(pipeline: Pipeline, question: Message) -> None:
    """Whatever comes after it."""
    await pipeline.complete()
    await pipeline.deliver()
    assert await pipeline.statuses() == ["completed"]
    assert len(pipeline.replies(question)) == 1
    attempts = await pipeline.one("SELECT count(*) AS n FROM attempts")
    outcomes = await pipeline.one("SELECT count(*) AS n FROM notifications WHERE kind = 'outcome'")
    assert (attempts["n"], outcomes["n"]) == (1, 1)


async def test_without_a_listener_the_plugin_is_enough(pipeline: Pipeline, plugin: Plugin) -> None:
    question = await run_begins(pipeline)
    await nothing_runs(pipeline)
    await pipeline.complete()
    before = await pipeline.statuses()

    assert await plugin.ended() == 1

    assert before == ["running"]
    await has_one_result(pipeline, question)


@pytest.mark.parametrize("kinds", [["session.idle"] * 2, ["session.error", "session.idle"]], ids=["idle", "error"])
async def test_told_twice_it_has_one_result(pipeline: Pipeline, plugin: Plugin, kinds: list[str]) -> None:
    question = await run_begins(pipeline)
    await nothing_runs(pipeline)

    for kind in kinds:
        await plugin.ended(kind)

    await has_one_result(pipeline, question)


async def test_told_by_both_it_has_one_result(pipeline: Pipeline, plugin: Plugin) -> None:
    async with listening(pipeline):
        question = await run_begins(pipeline, "[[delay=0.2]] hello")
        await until_due(pipeline)

        await plugin.ended()

        await has_one_result(pipeline, question)


async def test_told_by_the_plugin_first_and_then_by_the_listener_it_has_one_result(
    pipeline: Pipeline, plugin: Plugin
) -> None:
    question = await run_begins(pipeline)
    await nothing_runs(pipeline)
    await plugin.ended()
    await pipeline.complete()

    async with listening(pipeline):  # it compares what runs when it has connected
        await has_one_result(pipeline, question)


async def test_told_too_early_the_run_goes_on(pipeline: Pipeline, plugin: Plugin) -> None:
    question = await run_begins(pipeline, "[[delay=3]] hello")
    assert await plugin.ended() == 1
    await pipeline.complete()
    early = await pipeline.statuses()
    await nothing_runs(pipeline)

    await plugin.ended()

    assert early == ["running"]
    await has_one_result(pipeline, question)


async def test_told_after_its_end_nothing_happens(pipeline: Pipeline, plugin: Plugin) -> None:
    question = await run_begins(pipeline)
    await nothing_runs(pipeline)
    await plugin.ended()
    await has_one_result(pipeline, question)

    assert await plugin.ended() == 0
    await has_one_result(pipeline, question)


async def test_told_late_while_a_follow_up_runs_both_have_their_one_result(pipeline: Pipeline, plugin: Plugin) -> None:
    first = await run_begins(pipeline)
    await nothing_runs(pipeline)
    await plugin.ended()
    await has_one_result(pipeline, first)
    await pipeline.mention("[[delay=3]] and then?", thread_ts=first.root_ts)
    await pipeline.take_events()
    await pipeline.dispatch()

    assert await plugin.ended() == 1  # about the first one, in the same session
    await pipeline.complete()
    meanwhile = await pipeline.statuses()
    await nothing_runs(pipeline)
    await plugin.ended()
    await pipeline.complete()
    await pipeline.deliver()

    assert meanwhile == ["completed", "running"]
    assert await pipeline.statuses() == ["completed", "completed"]
    assert len(pipeline.replies(first)) == 2


async def test_looks_that_meet_have_one_result(pipeline: Pipeline, plugin: Plugin) -> None:
    question = await run_begins(pipeline)
    await nothing_runs(pipeline)

    await asyncio.gather(*(plugin.ended() for _ in range(5)), *(pipeline.complete() for _ in range(5)))

    await has_one_result(pipeline, question)


async def test_what_the_listener_told_the_plugin_does_not_tell_again(pipeline: Pipeline, plugin: Plugin) -> None:
    async with listening(pipeline):
        await run_begins(pipeline, '[[tool=bash {"command":"sleep 0.1","description":"a nap"}]] [[delay=0.3]] go')
        await until_due(pipeline)
        told = [event for event in await shown(pipeline) if event["type"] == "tool"]

        news = await plugin.progress(*(event | {"type": "tool"} for event in told))

    assert [event["status"] for event in told][-1] == "completed"
    assert news == 0
    assert [event for event in await shown(pipeline) if event["type"] == "tool"] == told


async def test_what_the_plugin_told_the_listener_does_not_tell_again(pipeline: Pipeline, plugin: Plugin) -> None:
    await run_begins(pipeline, "[[delay=3]] go")
    tool = {"type": "tool", "call_id": "call_1", "tool": "bash", "status": "running"}

    assert [await plugin.progress(tool), await plugin.progress(tool)] == [1, 0]
    assert [event for event in await shown(pipeline) if event["type"] == "tool"] == [
        {"type": "tool", "tool": "bash", "status": "running", "call_id": "call_1"}
    ]


async def shown(pipeline: Pipeline) -> list[dict[str, Any]]:
    row = await pipeline.one("SELECT id FROM executions")
    events = []
    reading = pipeline.services.progress.read(ORGANIZATION, str(row["id"]), after="", idle_s=0.01)
    async with aclosing(reading) as items:  # type: ignore[type-var]
        async for item in items:
            if item is None:
                break
            events.append(dict(item[1]))
    return events


async def test_a_replayed_call_is_refused_by_every_web_process(pipeline: Pipeline, plugin: Plugin) -> None:
    await run_begins(pipeline)
    session = await plugin.session()
    path, body = f"/api/sidecar/sessions/{session}/update", {"type": "session.idle", "session_id": session}

    answers = await asyncio.gather(*(plugin.says(path, body, nonce="n" * 20) for _ in range(8)))
    await pipeline.services.cache.flushdb()
    after_a_wipe = await plugin.says(path, body, nonce="n" * 20)

    assert sorted(answer.status_code for answer in answers) == [202] + [401] * 7
    assert (after_a_wipe.status_code, after_a_wipe.json()["code"]) == (401, "replayed")


async def test_a_sub_agents_session_is_its_roots_and_a_wiped_cache_changes_nothing(
    pipeline: Pipeline, plugin: Plugin
) -> None:
    await run_begins(pipeline, "[[delay=3]] go")
    root = await plugin.session()
    child = (await create_child(pipeline, root))["id"]
    tool = {"type": "tool", "session_id": child, "call_id": "call_c", "tool": "grep", "status": "running"}

    first = await plugin.progress(tool)
    await pipeline.services.cache.flushdb()
    again = await plugin.progress(tool | {"status": "completed"})
    update = await plugin.says(f"/api/sidecar/sessions/{root}/update", {"type": "session.idle", "session_id": child})

    assert (first, again, update.json()) == (1, 1, {"accepted": 0})


async def create_child(pipeline: Pipeline, root: str) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(f"{pipeline.opencode.url}/session", json={"title": "sub", "parentID": root})
    found: dict[str, Any] = answer.json()
    return found


Attempt = Callable[[Plugin, str], Awaitable[httpx.Response]]

TOOL = {"type": "tool", "call_id": "c", "tool": "bash", "status": "running"}
_ATTEMPTS: dict[str, Attempt] = {
    "update": lambda plugin, ours: plugin.says(
        f"/api/sidecar/sessions/{ours}/update",
        {"type": "session.idle", "session_id": ours},
        OTHER_KEY,
        instance="ins_2",
    ),
    "progress": lambda plugin, ours: plugin.says(
        f"/api/sidecar/sessions/{ours}/progress",
        {"items": [TOOL | {"session_id": ours}]},
        OTHER_KEY,
        instance="ins_2",
    ),
    "invoke": lambda plugin, ours: plugin.says(
        "/api/sidecar/mcp/invoke",
        {"session_id": ours, "call_id": "c", "tool_name": "t", "arguments": {}},
        OTHER_KEY,
        instance="ins_2",
    ),
    "tools": lambda plugin, ours: plugin.says(
        "/api/sidecar/mcp/tools", {"session_id": ours}, OTHER_KEY, instance="ins_2"
    ),
}


@pytest.fixture
async def other_server() -> AsyncIterator[RunningSimulator]:
    async with simulator(SimulatorConfig()) as running:
        yield running


@pytest.mark.parametrize("attempt", _ATTEMPTS.values(), ids=_ATTEMPTS.keys())
async def test_a_key_stolen_from_another_server_can_do_nothing_to_a_session_here(
    pipeline: Pipeline, plugin: Plugin, attempt: Attempt, other_server: RunningSimulator
) -> None:
    """ins_2 is a registered server, its key is good; the session is on ins_1."""
    system = pipeline.services.database.system()
    await system.execute("INSERT INTO instances (id, url) VALUES ('ins_2', %(url)s)", {"url": other_server.url})
    await pipeline.services.instances.add_callback_key("ins_2", OTHER_KEY, actor="tests")
    await run_begins(pipeline, "[[delay=3]] go")
    ours = await plugin.session()
    before = await pipeline.one("SELECT check_at FROM executions")

    answer = await attempt(plugin, ours)
    pretending = await plugin.says(
        f"/api/sidecar/sessions/{ours}/update", {"type": "session.idle", "session_id": ours}, OTHER_KEY
    )

    assert (answer.status_code, answer.json()["code"]) == (403, "session_not_served")
    assert (pretending.status_code, pretending.json()["code"]) == (401, "bad_signature")
    assert await pipeline.one("SELECT check_at FROM executions") == before
    assert [event for event in await shown(pipeline) if event["type"] == "tool"] == []
    await pipeline.services.foreign_ids.settled()
    entry = await pipeline.one(
        "SELECT organization_id, actor FROM audit_log WHERE action = 'callback.refused' ORDER BY id DESC LIMIT 1"
    )
    assert entry == {"organization_id": ORGANIZATION, "actor": "instance:ins_2"}
