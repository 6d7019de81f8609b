import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import structlog

from tasks.runtime import LoopThread, WorkerRuntime


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = LoopThread()
    yield loop
    loop.close()


def test_a_coroutine_runs_on_the_loops_thread_and_gives_its_result(loop: LoopThread) -> None:
    async def where() -> str:
        return threading.current_thread().name

    assert loop.run(where(), timeout_s=5) == "event-loop"


def test_an_error_comes_back_as_it_is(loop: LoopThread) -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        loop.run(fail(), timeout_s=5)


def test_what_takes_too_long_is_cancelled_and_may_write_down_what_happened(loop: LoopThread) -> None:
    written = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            written.append("ended")

    with pytest.raises(TimeoutError):
        loop.run(slow(), timeout_s=0.05)

    assert written == ["ended"]


def test_what_ignores_its_cancellation_does_not_hold_the_caller_for_long(
    loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.runtime._CANCEL_GRACE_S", 0.1)

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(60)

    started = time.monotonic()
    with pytest.raises(TimeoutError):
        loop.run(stubborn(), timeout_s=0.05)

    assert time.monotonic() - started < 5


def test_the_callers_log_context_is_the_coroutines(loop: LoopThread) -> None:
    async def read() -> str:
        return str(structlog.contextvars.get_contextvars()["task_id"])

    with structlog.contextvars.bound_contextvars(task_id="7"):
        assert loop.run(read(), timeout_s=5) == "7"


def test_waiting_on_the_loops_own_thread_is_refused_instead_of_hanging(loop: LoopThread) -> None:
    async def inner() -> None:
        """Never gets to run."""

    async def outer() -> None:
        loop.run(inner(), timeout_s=60)

    with pytest.raises(RuntimeError, match="own thread"):
        loop.run(outer(), timeout_s=5)


def test_several_threads_wait_side_by_side(loop: LoopThread) -> None:
    together = asyncio.Barrier(8)

    async def meet() -> None:
        await together.wait()

    threads = [threading.Thread(target=loop.run, args=(meet(),), kwargs={"timeout_s": 5}) for _ in range(7)]
    for thread in threads:
        thread.start()
    loop.run(meet(), timeout_s=5)
    for thread in threads:
        thread.join()

    assert not together.broken


def test_services_are_opened_once_and_closed_by_the_same_task() -> None:
    seen = []

    @asynccontextmanager
    async def open_services() -> AsyncIterator[str]:
        seen.append(("opened", asyncio.current_task()))
        yield "services"
        seen.append(("closed", asyncio.current_task()))

    async def work(services: str) -> str:
        return services.upper()

    runtime = WorkerRuntime(open_services)
    runtime.start()
    result = runtime.run(work, timeout_s=5)
    runtime.close()

    assert result == "SERVICES"
    assert [name for name, _ in seen] == ["opened", "closed"]
    assert seen[0][1] is seen[1][1]


def test_services_that_cannot_be_opened_fail_the_start() -> None:
    @asynccontextmanager
    async def open_services() -> AsyncIterator[str]:
        raise OSError("no database")
        yield ""

    runtime = WorkerRuntime(open_services)

    with pytest.raises(OSError, match="no database"):
        runtime.start()
    runtime.close()


def test_a_runtime_that_was_not_started_says_so() -> None:
    @asynccontextmanager
    async def open_services() -> AsyncIterator[str]:
        yield ""

    async def work(_services: str) -> None:
        """Never gets to run."""

    runtime = WorkerRuntime(open_services)

    with pytest.raises(RuntimeError, match="not open"):
        runtime.run(work, timeout_s=1)
    runtime.close()
