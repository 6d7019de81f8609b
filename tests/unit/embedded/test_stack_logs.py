"""Lines of the stack's processes: kept, passed on, waited for."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nubabel_workers.embedded.stack_logs import StackLogs


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[StackLogs]:
    logs = StackLogs(tmp_path)
    yield logs
    logs.close()


async def test_a_line_from_another_thread_ends_the_waiting(logs: StackLogs) -> None:
    ready = logs.next_lines(["worker"], r"\bready\.")

    threading.Thread(target=logs.take, args=("worker", "worker@host ready.")).start()

    async with asyncio.timeout(5):
        await ready


async def test_lines_of_other_processes_and_earlier_lines_do_not_count(logs: StackLogs) -> None:
    logs.take("worker", "ready")
    ready = logs.next_lines(["worker"], "ready")

    logs.take("listener", "ready")
    await asyncio.sleep(0)

    assert not ready.done()
    ready.cancel()


async def test_several_lines_may_come_from_several_processes(logs: StackLogs) -> None:
    connected = logs.next_lines(["one", "two"], "connected", times=2)

    logs.take("one", "connected to a")
    await asyncio.sleep(0)
    assert not connected.done()
    logs.take("two", "connected to b")

    async with asyncio.timeout(5):
        await connected


async def test_waiting_for_no_lines_is_over_at_once(logs: StackLogs) -> None:
    assert logs.next_lines([], "anything", times=0).done()


def test_every_process_has_its_file_and_all_lines_are_passed_on(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    logs = StackLogs(tmp_path, lambda name, line: seen.append((name, line)))

    logs.take("web", "first")
    logs.take("slack", "한글")
    logs.take("web", "second")
    logs.close()

    assert logs.path("web").read_text() == "first\nsecond\n"
    assert logs.tail("slack") == "한글\n"
    assert logs.tail("nobody") == ""
    assert seen == [("web", "first"), ("slack", "한글"), ("web", "second")]
