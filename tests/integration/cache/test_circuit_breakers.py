"""Breakers that processes share through a real Valkey: each `process` is a client of its own."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
import redis.asyncio as redis
from structlog.testing import capture_logs

from nubabel_workers.adapters.cache import circuit_breakers, connection
from nubabel_workers.adapters.cache.circuit_breakers import OF_OPENCODE, OF_TOOLS, Guarded, RedisCircuitBreakers
from nubabel_workers.domain.circuit_breaker import BreakerPolicy, BreakerState, CallKind, CallOutcome
from tests.fakes.clock import FakeChance
from tests.waiting import eventually_true

pytestmark = pytest.mark.integration

INSTANCE, OTHER = "ins_1", "ins_2"
QUICK = BreakerPolicy(failures_in_a_row=3, first_wait_s=0.05, max_wait_s=0.05, probe_s=0.3)
PATIENT = BreakerPolicy(failures_in_a_row=3, first_wait_s=60, max_wait_s=60)

NewProcess = Callable[..., RedisCircuitBreakers]


@pytest.fixture
async def process(cache_url: str) -> AsyncIterator[NewProcess]:
    async with AsyncExitStack() as stack:

        def start(*, policy: BreakerPolicy = PATIENT, url: str = cache_url, **more: object) -> RedisCircuitBreakers:
            client = connection.connect(url, timeout_s=2, max_connections=4)
            stack.push_async_callback(client.aclose)
            return RedisCircuitBreakers(client, FakeChance(), policy=policy, **more)  # type: ignore[arg-type]

        yield start


@pytest.fixture
async def cache(cache_url: str) -> AsyncIterator["redis.Redis"]:
    client = connection.connect(cache_url, timeout_s=2, max_connections=2)
    yield client
    await client.aclose()


async def fails(breakers: RedisCircuitBreakers, times: int = 1, *, outcome: CallOutcome = CallOutcome.AWAY) -> None:
    for _ in range(times):
        breakers.saw(INSTANCE, CallKind.PROMPT, outcome)
    await breakers.report()


async def succeeds(breakers: RedisCircuitBreakers, kind: CallKind = CallKind.PROMPT) -> list[str]:
    breakers.saw(INSTANCE, kind, CallOutcome.SERVED)
    return await breakers.report()


async def state(breakers: RedisCircuitBreakers, instance_id: str = INSTANCE) -> BreakerState:
    gate = (await breakers.gates()).get(instance_id)
    return gate.state if gate else BreakerState.CLOSED


async def half_open(breakers: RedisCircuitBreakers) -> None:
    async def is_it() -> bool:
        return await state(breakers) is BreakerState.HALF_OPEN

    await eventually_true(is_it, what="the breaker is half open")


async def test_failures_of_several_processes_open_one_breaker_for_all(process: NewProcess) -> None:
    one, two, three = process(), process(), process()

    await fails(one, 2)
    await fails(two)

    assert [await state(each) for each in (one, two, three)] == [BreakerState.OPEN] * 3
    assert await state(three, OTHER) is BreakerState.CLOSED


async def test_an_opening_is_counted_once_by_the_process_that_caused_it(process: NewProcess) -> None:
    told: list[str] = []
    one, two = process(on_opened=told.append), process(on_opened=told.append)

    await asyncio.gather(fails(one, 3), fails(two, 3))

    assert told == [INSTANCE]


async def test_a_success_of_another_process_ends_a_row_of_failures(process: NewProcess) -> None:
    one, two = process(), process()
    await fails(one, 2)

    await succeeds(two)
    await fails(one, 2)

    assert await state(one) is BreakerState.CLOSED


async def test_failures_reported_at_once_are_all_counted(process: NewProcess) -> None:
    processes = [process() for _ in range(3)]

    await asyncio.gather(*(fails(each) for each in processes))

    assert await state(processes[0]) is BreakerState.OPEN


async def test_while_all_is_well_nothing_is_written_and_hardly_anything_read(
    process: NewProcess, cache: "redis.Redis"
) -> None:
    breakers = process()
    await breakers.gates()
    commands = (await cache.info("stats"))["total_commands_processed"]

    for _ in range(100):
        await breakers.gates()
        await succeeds(breakers)

    asked = (await cache.info("stats"))["total_commands_processed"] - commands - 1
    assert asked <= 6  # a pipeline of two each quarter of a second
    assert await cache.keys("*breaker*") == []


async def test_of_racing_processes_one_probes(process: NewProcess) -> None:
    processes = [process(policy=QUICK) for _ in range(8)]
    await fails(processes[0], 3)
    await half_open(processes[0])

    took = await asyncio.gather(*(each.take_probe(INSTANCE) for each in processes))

    assert sum(took) == 1


async def test_a_probe_that_succeeds_closes_it_for_all(process: NewProcess) -> None:
    one, two = process(policy=QUICK), process(policy=QUICK)
    await fails(one, 3, outcome=CallOutcome.FAILED)
    await half_open(two)
    assert await two.take_probe(INSTANCE)

    closed = await succeeds(two)

    assert closed == [INSTANCE]
    assert await state(one) is BreakerState.CLOSED


async def test_a_probe_that_fails_opens_it_again(process: NewProcess) -> None:
    told: list[str] = []
    breakers = process(policy=QUICK, on_opened=told.append)
    await fails(breakers, 3)
    await half_open(breakers)
    await breakers.take_probe(INSTANCE)

    await fails(breakers)

    assert told == [INSTANCE, INSTANCE]


async def test_after_a_prober_died_another_probes(process: NewProcess) -> None:
    dead, alive = process(policy=QUICK), process(policy=QUICK)
    await fails(dead, 3)
    await half_open(dead)
    assert await dead.take_probe(INSTANCE)
    assert not await alive.take_probe(INSTANCE)

    await eventually_true(lambda: alive.take_probe(INSTANCE), what="the probe is free again")


async def test_a_listeners_success_closes_the_breaker_of_a_server_that_was_away(process: NewProcess) -> None:
    worker, listener = process(), process()
    await fails(worker, 3, outcome=CallOutcome.AWAY)

    closed = await succeeds(listener, CallKind.LOOK)

    assert closed == [INSTANCE]
    assert await state(worker) is BreakerState.CLOSED


async def test_a_listeners_success_says_nothing_where_prompts_are_refused(process: NewProcess) -> None:
    worker, listener = process(), process()
    await fails(worker, 3, outcome=CallOutcome.FAILED)

    assert await succeeds(listener, CallKind.LOOK) == []

    assert await state(worker) is BreakerState.OPEN


async def test_a_wiped_cache_means_closed(process: NewProcess, cache: "redis.Redis") -> None:
    breakers = process()
    await fails(breakers, 3)

    await cache.flushdb()

    assert await state(breakers) is BreakerState.CLOSED
    await fails(breakers, 3)
    assert await state(breakers) is BreakerState.OPEN


async def test_what_nobody_can_read_means_closed(process: NewProcess, cache: "redis.Redis") -> None:
    await cache.hset("nubabel:breakers", mapping={INSTANCE: "{", OTHER: '{"shape": "of tomorrow"}'})

    breakers = process()

    assert await breakers.gates() == {}
    await fails(breakers, 3)
    assert await state(breakers) is BreakerState.OPEN


async def test_a_cache_that_hangs_holds_nothing_up(process: NewProcess) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1")
    breakers = process(url=f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    started = time.monotonic()

    for _ in range(20):
        assert await breakers.gates() == {}
        assert await breakers.take_probe(INSTANCE)
        await fails(breakers, 3)

    assert time.monotonic() - started < 1
    server.close()


async def test_what_was_seen_while_the_cache_was_away_is_shared_afterwards(
    process: NewProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = process(), process()
    monkeypatch.setattr(circuit_breakers, "_REST_S", 0.0)
    with monkeypatch.context() as away:
        away.setattr(circuit_breakers, "_PATIENCE_S", 0.0)
        await fails(one, 2)

    await fails(one)

    assert await state(two) is BreakerState.OPEN


@pytest.mark.parametrize(
    ("guarded", "event", "id_field"),
    [
        (OF_OPENCODE, "opencode.breaker_opened", "instance_id"),
        (OF_TOOLS, "tool_server.breaker_opened", "connection_id"),
    ],
)
async def test_an_opening_is_logged_as_what_it_is(
    process: NewProcess, guarded: Guarded, event: str, id_field: str
) -> None:
    with capture_logs() as logged:
        await fails(process(guarded=guarded), 3)

    assert [(line["event"], line[id_field]) for line in logged] == [(event, INSTANCE)]


async def test_servers_that_are_well_and_not_called_any_more_are_forgotten(process: NewProcess) -> None:
    breakers = process(policy=BreakerPolicy(window_s=0))
    for number in range(100):
        breakers.saw(f"mcp_{number}", CallKind.LOOK, CallOutcome.SERVED)

    await breakers.report()

    assert breakers._unreported == {}
