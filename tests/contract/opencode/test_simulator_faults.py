"""What the simulator can be told to do wrong, seen through the library. The real server does these by itself."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from nubabel_workers.adapters.opencode import (
    HttpClient,
    OpenCodeClient,
    PromptPart,
    SessionIdle,
    SessionStatus,
    ToolUpdate,
    new_http_client,
)
from nubabel_workers.domain.errors import NotFoundError, TransientError, UnavailableError, UncertainError
from nubabel_workers.domain.verdict import VerdictKind
from nubabel_workers.simulators.opencode import RunningSimulator, SimulatorConfig, simulator
from tests.contract.opencode.backends import Conversation, new_conversation, simulated
from tests.contract.opencode.listening import listening
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def server() -> AsyncIterator[RunningSimulator]:
    async with simulator(SimulatorConfig(plugin="none")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def faulty(server: RunningSimulator, http: HttpClient) -> Conversation:
    return await new_conversation(simulated(server), http)


async def test_stalled_model_keeps_the_session_busy_until_the_abort(
    server: RunningSimulator, faulty: Conversation
) -> None:
    server.simulator.set_faults(stall=1)

    prompt = await faulty.post("hello")
    busy = await faulty.verdict(prompt)
    await faulty.client.abort(faulty.id)

    assert busy.kind is VerdictKind.RUNNING
    assert (await faulty.ended(prompt)).kind is VerdictKind.CANCELLED
    assert (await faulty.ask("again")).kind is VerdictKind.SUCCEEDED


async def test_a_prompt_that_goes_on_is_finished_by_the_next_ones_that_say_nothing_of_their_own(
    server: RunningSimulator, faulty: Conversation
) -> None:
    session = server.simulator.store.sessions[faulty.id]

    async def called(tools: int) -> None:
        await eventually(lambda: sum(bool(message.tool_calls) for message in session.messages.values()) == tools)

    step = '[[tool=bash {"command":"sleep 60"}]]'
    prompt = await faulty.post(f"[[goes_on]] {step} {step} [[text=done]]")
    for tools, word in ((1, "Continue."), (2, "Go on.")):
        await called(tools)
        await faulty.client.abort(faulty.id)
        await faulty.ended(prompt)
        prompt = await faulty.post(word)

    assert (await faulty.ended(prompt)).text == "done"


async def test_lost_answer_is_uncertain_and_the_run_is_found(server: RunningSimulator, faulty: Conversation) -> None:
    server.simulator.set_faults(lose_answers=1)

    with pytest.raises(UncertainError):
        await faulty.post("hello")

    await eventually(lambda: server.simulator.engine.active == 0)
    assert [m.text for m in await faulty.messages()] == ["hello", "ECHO[2]: hello"]


async def test_refused_requests_are_counted_down(server: RunningSimulator, faulty: Conversation) -> None:
    server.simulator.set_faults(refuse=2, refuse_status=503, refuse_path="/message")

    for _ in range(2):
        with pytest.raises(UnavailableError):
            await faulty.messages()

    assert await faulty.messages() == []


async def test_plain_server_error_is_transient(server: RunningSimulator, faulty: Conversation) -> None:
    server.simulator.set_faults(refuse=1)

    with pytest.raises(TransientError):
        await faulty.client.health()


async def test_idle_before_the_final_message_is_unsettled(server: RunningSimulator, faulty: Conversation) -> None:
    server.simulator.set_faults(idle_before_final_s=0.3)

    async with listening(faulty.backend) as heard:
        prompt = await faulty.post("hello")
        await heard.idle(faulty.id)
        early = await faulty.verdict(prompt, settled=False)

    assert early.kind is VerdictKind.UNSETTLED
    await eventually(lambda: server.simulator.engine.active == 0)
    assert (await faulty.ended(prompt)).kind is VerdictKind.SUCCEEDED


async def test_idle_may_come_without_an_answer(server: RunningSimulator, faulty: Conversation) -> None:
    server.simulator.set_faults(idle_without_answer=1)

    prompt = await faulty.post("hello")
    dead = await faulty.ended(prompt)
    await faulty.post("", repeat_of=prompt)

    assert dead.kind is VerdictKind.RESUBMIT
    assert (await faulty.ended(prompt)).kind is VerdictKind.SUCCEEDED


async def test_idle_may_come_twice(server: RunningSimulator, faulty: Conversation) -> None:
    server.simulator.set_faults(duplicate_idle=True)

    async with listening(faulty.backend) as heard:
        await faulty.ask("hello")
        await heard.until(lambda: len(heard.of(SessionIdle, faulty.id)) == 2)


async def test_muted_stream_says_nothing_while_runs_go_on(server: RunningSimulator, faulty: Conversation) -> None:
    async with listening(faulty.backend) as heard:
        server.simulator.set_faults(mute_events=True)
        verdict = await faulty.ask("hello")
        server.simulator.set_faults(mute_events=False)
        await faulty.ask("again")
        await heard.idle(faulty.id)

    assert verdict.kind is VerdictKind.SUCCEEDED
    assert len(heard.of(SessionIdle, faulty.id)) == 1


async def test_streams_can_be_cut(server: RunningSimulator, faulty: Conversation) -> None:
    async with listening(faulty.backend) as heard:
        await control(faulty, "faults", {"disconnect_streams": True})
        failure = await heard.broken()

    assert isinstance(failure, UnavailableError)


async def test_new_stream_can_miss_its_first_moments(server: RunningSimulator, faulty: Conversation) -> None:
    server.simulator.set_faults(deaf_s=0.2)

    async with listening(faulty.backend) as heard:  # waits until it is heard
        await faulty.ask("hello")
        await heard.idle(faulty.id)


async def test_crash_over_http_with_time_out_of_service(server: RunningSimulator, faulty: Conversation) -> None:
    prompt = await faulty.post("[[hang]]")
    await faulty.begun()

    await control(faulty, "crash", {"down_s": 0.2})

    with pytest.raises(UnavailableError):
        await faulty.client.health()
    await back_in_service(faulty.client)
    assert (await faulty.verdict(prompt)).kind is VerdictKind.RESUBMIT


async def test_model_runs_are_counted_per_message(server: RunningSimulator, faulty: Conversation) -> None:
    prompt = await faulty.post("[[status=401]] [[times=1]]")
    await faulty.ended(prompt)
    await faulty.post("", repeat_of=prompt)
    await faulty.ended(prompt)
    await faulty.post("", repeat_of=prompt)
    await faulty.ended(prompt)

    answer = await stats(faulty)

    assert answer["model_runs"] == {prompt.message_id: 2}
    assert answer["prompts"] == 3


async def test_unknown_fault_is_refused(faulty: Conversation) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        await control(faulty, "faults", {"no_such_fault": 1})


async def test_oldest_idle_sessions_are_forgotten(http: HttpClient) -> None:
    async with simulator(SimulatorConfig(plugin="none", keep_sessions=3)) as running:
        backend = simulated(running)
        first = await new_conversation(backend, http)
        await first.ask("hello")
        for _ in range(3):
            await new_conversation(backend, http)

        with pytest.raises(NotFoundError):
            await first.client.get_session(first.id)
        assert len(running.simulator.store.sessions) == 3


async def test_answers_without_directives_follow_the_settings(http: HttpClient) -> None:
    async with simulator(SimulatorConfig(tokens=200, delay_s=0.05, gap_s=0.0001)) as running:
        conversation = await new_conversation(simulated(running), http)
        prompt = await conversation.post("hello", agent="Sisyphus - ultraworker")

        verdict = await conversation.ended(prompt)

        assert len(verdict.text.split()) == 200
        assert running.simulator.streams.frames in range(236, 244)


async def test_hundreds_of_sessions_run_at_once(http: HttpClient) -> None:
    async with simulator(SimulatorConfig(plugin="none")) as running:
        backend = simulated(running)
        conversations = [await new_conversation(backend, http) for _ in range(300)]
        async with listening(backend) as heard:
            await asyncio.gather(*(c.post("[[delay=3]] hello") for c in conversations))
            await heard.until(lambda: len({e.session_id for e in heard.seen if isinstance(e, SessionIdle)}) >= 300)

        assert running.simulator.engine.peak == 300
        assert running.simulator.engine.active == 0


async def test_other_directories_hear_nothing_on_their_own_stream(
    server: RunningSimulator, faulty: Conversation
) -> None:
    where = f"{server.url}/event?directory=/elsewhere"
    async with httpx.AsyncClient(trust_env=False) as http, http.stream("GET", where) as mine:
        lines = mine.aiter_lines()
        first = await anext(lines)
        await faulty.ask("hello")

        assert "server.connected" in first
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(line async for line in lines if line)


async def test_loop_of_tool_calls_ends_only_by_abort(faulty: Conversation) -> None:
    async with listening(faulty.backend) as heard:
        prompt = await faulty.post('[[loop=bash {"command":"sleep 0.01"}]]')
        await heard.until(lambda: len(heard.of(ToolUpdate, faulty.id)) > 20)
        await faulty.client.abort(faulty.id)

        assert (await faulty.ended(prompt)).kind is VerdictKind.CANCELLED
    assert heard.of(SessionStatus, faulty.id)


async def test_runs_as_a_process_and_tells_its_address() -> None:
    program = [sys.executable, "-m", "nubabel_workers.simulators.opencode", "--port", "0", "--tokens", "3"]
    process = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            line = (await process.stdout.readline()).decode()
        url = line.split()[-1]
        async with contextlib.aclosing(new_http_client()) as http:
            client = OpenCodeClient(http, url)
            session = await client.create_session(title="process")
            await client.submit_prompt(session.id, message_id="msg_1", parts=[PromptPart("prt_1", text="hello")])
    finally:
        process.terminate()
        async with asyncio.timeout(10):
            code = await process.wait()

    assert line.startswith("opencode server listening on http://127.0.0.1:")
    assert code == 0


async def back_in_service(client: OpenCodeClient) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                await client.health()
            except UnavailableError:
                await asyncio.sleep(0.02)
            else:
                return


async def control(conversation: Conversation, name: str, body: dict[str, object]) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(f"{conversation.backend.url}/_sim/{name}", json=body)
    answer.raise_for_status()


async def stats(conversation: Conversation) -> dict[str, object]:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{conversation.backend.url}/_sim/stats")
    told: dict[str, object] = answer.json()
    return told
