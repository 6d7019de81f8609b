"""The bridge plugin inside the real server: reports that arrive signed, and tools that reach us."""

import asyncio

import pytest

from tests.contract.opencode_plugin.deployed import Deployed, delegation, directive
from tests.waiting import eventually

pytestmark = [pytest.mark.node, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

_TODO = directive("todowrite", {"todos": [{"content": "look", "status": "pending", "priority": "high", "id": "1"}]})
_INVOKE = directive("nubabel_mcp_invoke", {"provider": "notion", "toolName": "search", "args": {"query": "plan"}})


async def test_everything_is_loaded_without_a_registry(shared: Deployed) -> None:
    agents = {agent["name"] for agent in (await shared.http.get("/agent")).json()}

    assert "Sisyphus - ultraworker" in agents
    assert {"task", "nubabel_mcp_invoke", "nubabel_mcp_list"} <= shared.tools_offered()[0]
    assert "nubabel-bridge: off" not in shared.server.log_path.read_text()


async def test_end_tools_and_text_of_a_run_are_told(shared: Deployed) -> None:
    run = await shared.ask(f"{_TODO} [[text=All noted.]]")

    await eventually(lambda: shared.receiver.updates(run.session_id), what="the report of the end")
    await eventually(lambda: len(shared.receiver.progress(run.session_id)) >= 4, what="progress")
    assert set(shared.receiver.updates(run.session_id)) == {"session.idle"}
    states = shared.receiver.tool_states(run.session_id, "todowrite")
    assert states[-2:] == ["running", "completed"]
    assert len(states) == len(set(states))
    (step,) = [part for part in run.tools if part["tool"] == "todowrite"]
    told = [item for item in shared.receiver.progress(run.session_id) if item.get("tool") == "todowrite"]
    assert {(item["message_id"], item["call_id"]) for item in told} == {(step["messageID"], step["callID"])}
    texts = [item["text"] for item in shared.receiver.progress(run.session_id) if item["type"] == "text"]
    assert [text.strip() for text in texts] == ["All noted."]  # and not what was asked
    assert shared.receiver.unsigned == []


async def test_work_of_a_sub_agent_is_told_as_work_of_its_root(shared: Deployed) -> None:
    run = await shared.ask(delegation(f"{_TODO} [[text=The part is done.]]") + " [[text=Done.]]")
    (child,) = await shared.children(run.session_id)

    await eventually(lambda: shared.receiver.updates(run.session_id), what="the report of the end")
    progress = shared.receiver.progress(run.session_id)
    assert {item["session_id"] for item in progress} == {run.session_id, child}
    assert "The part is done." in [
        item["text"].strip() for item in progress if item["session_id"] == child and "text" in item
    ]
    assert shared.receiver.progress(child) == []
    assert shared.receiver.updates(child) == []


async def test_an_error_of_a_run_is_told(shared: Deployed) -> None:
    run = await shared.ask("[[status=401]]")

    await eventually(lambda: shared.receiver.updates(run.session_id), what="the report of the end")


async def test_sessions_of_others_are_not_told_of(shared: Deployed) -> None:
    theirs = await shared.session(organization=None)
    await shared.ask(f"{_TODO} [[text=x]]", session_id=theirs)

    ours = await shared.ask("[[text=y]]")  # what is told of it came after

    await eventually(lambda: shared.receiver.updates(ours.session_id), what="the report of the end")
    assert shared.receiver.updates(theirs) == []
    assert shared.receiver.progress(theirs) == []


async def test_another_directory_reports_although_the_key_left_the_environment(shared: Deployed) -> None:
    directory = shared.server.home / "another"
    directory.mkdir()

    run = await shared.ask("[[text=here]]", session_id=await shared.session(directory=directory))

    await eventually(lambda: shared.receiver.updates(run.session_id), what="the report of the end")


async def test_a_run_ends_while_its_reports_are_not_answered(shared: Deployed) -> None:
    with shared.receiver.being("silent"):
        run = await shared.ask(f"{_TODO} {_TODO} [[text=fine]]")

    assert run.answer.strip() == "fine"
    assert [part["state"]["status"] for part in run.tools] == ["completed", "completed"]


async def test_the_end_is_told_when_we_are_back(shared: Deployed) -> None:
    with shared.receiver.being("away"):
        run = await shared.ask(f"{_TODO} [[text=fine]]")
        assert run.answer.strip() == "fine"

    await eventually(lambda: shared.receiver.updates(run.session_id), timeout_s=30, what="the report of the end")


async def test_a_run_ends_while_its_reports_are_refused(shared: Deployed) -> None:
    with shared.receiver.being("refusing"):
        run = await shared.ask(f"{_TODO} [[text=fine]]")
        await eventually(lambda: shared.receiver.updates(run.session_id), what="the report of the end")

    assert run.answer.strip() == "fine"


async def test_the_organizations_tools_reach_us(shared: Deployed) -> None:
    run = await shared.ask(f"{directive('nubabel_mcp_list', {})} {_INVOKE} [[text=read]]")

    assert run.outcome("nubabel_mcp_list") == ("completed", "notion:\n- search: Find arguments: {}")
    assert run.outcome("nubabel_mcp_invoke") == ("completed", "three pages found")
    (asked,) = shared.receiver.asked("/api/sidecar/mcp/invoke", run.session_id)
    call = next(part for part in run.tools if part["tool"] == "nubabel_mcp_invoke")
    assert asked == {
        "session_id": run.session_id,
        "call_id": call["callID"],
        "message_id": call["messageID"],
        "provider": "notion",
        "tool_name": "search",
        "arguments": {"query": "plan"},
    }


async def test_a_call_outlasts_a_restart_of_ours(shared: Deployed) -> None:
    path = "/api/sidecar/mcp/invoke"
    before = shared.receiver.lost[path]
    with shared.receiver.being("away"):
        asking = asyncio.ensure_future(shared.ask(f"{_INVOKE} [[text=read]]"))
        await eventually(lambda: shared.receiver.lost[path] >= before + 3, timeout_s=60, what="the third try")

    run = await asking

    assert run.outcome("nubabel_mcp_invoke") == ("completed", "three pages found")
    assert len(shared.receiver.asked(path, run.session_id)) == 1


async def test_a_sub_agents_call_names_its_own_session(shared: Deployed) -> None:
    run = await shared.ask(delegation(f"{_INVOKE} [[text=x]]") + " [[text=Done.]]")
    (child,) = await shared.children(run.session_id)

    assert len(shared.receiver.asked("/api/sidecar/mcp/invoke", child)) == 1


async def test_a_refused_call_is_a_clear_error_for_the_agent(shared: Deployed) -> None:
    with shared.receiver.being("refusing"):
        run = await shared.ask(f"{_INVOKE} [[text=told]]")

    assert run.outcome("nubabel_mcp_invoke") == (
        "error",
        "Nubabel refused the call (status 403): not a session of this server",
    )
    assert run.answer.strip() == "told"


async def test_stopping_a_run_stops_its_call(shared: Deployed) -> None:
    session_id = await shared.session()
    with shared.receiver.being("silent"):
        asking = asyncio.ensure_future(shared.ask(f"{_INVOKE} [[text=never]]", session_id=session_id))
        await eventually(lambda: shared.receiver.asked("/api/sidecar/mcp/invoke", session_id), what="the call")
        before = shared.receiver.given_up

        await shared.http.post(f"/session/{session_id}/abort")

        run = await asking
        await eventually(lambda: shared.receiver.given_up > before, what="the end of the call")
    assert "never" not in run.answer


async def test_a_session_with_open_todos_does_not_start_again(shared: Deployed) -> None:
    run = await shared.ask(f"{_TODO} [[text=left open]]")
    calls = shared.llm.stats["main"]

    # The plugin's own enforcer began three seconds after the end of a run; nothing tells that it will not.
    await asyncio.sleep(5)

    assert shared.llm.stats["main"] == calls
    assert len(await shared.messages(run.session_id)) == 3  # question, tool step, answer
