"""Waiting for a condition, with a deadline, instead of sleeping."""

import asyncio
import time
from collections.abc import Awaitable, Callable

_POLL_S = 0.01


def wait_for(condition: Callable[[], object], *, timeout_s: float = 10.0, what: str = "the condition") -> None:
    """Return once condition() is true; fail the test when timeout_s is over."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} did not become true within {timeout_s:g} s")
        time.sleep(_POLL_S)


async def eventually(condition: Callable[[], object], *, timeout_s: float = 10.0, what: str = "the condition") -> None:
    """The same on an event loop, which stays free meanwhile."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} did not become true within {timeout_s:g} s")
        await asyncio.sleep(_POLL_S)


async def eventually_true(
    condition: Callable[[], Awaitable[object]], *, timeout_s: float = 10.0, what: str = "the condition"
) -> None:
    """The same for a condition that has to be awaited."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} did not become true within {timeout_s:g} s")
        await asyncio.sleep(_POLL_S)
