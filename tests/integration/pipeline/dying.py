"""A worker that dies at a given call, and the processes that find its rows afterwards."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.integration.pipeline.conftest import Pipeline, Steps


class Killed(BaseException):
    """Nothing of ours catches this: what would have come next never happens, as after SIGKILL."""


def dies(
    patch: pytest.MonkeyPatch, owner: object, method: str, *, after: bool, at: Callable[..., bool] = lambda *_: True
) -> Callable[[], int]:
    """The next call of owner.method is the worker's last: before it, or after it took effect. Returns how often.

    at: whether it is the call with these arguments.
    """
    real = getattr(owner, method)
    deaths = 0

    async def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal deaths
        if deaths or not at(*args):
            return await real(*args, **kwargs)
        deaths += 1
        if after:
            await real(*args, **kwargs)
        raise Killed

    patch.setattr(owner, method, deadly)
    return lambda: deaths


async def others_find_its_rows(pipeline: Steps) -> None:
    """As if minutes had passed: its leases are over, every wait as well, and the scheduler has looked."""
    system = pipeline.services.database.system()
    for table in ("executions", "inbound_events", "notifications"):
        await system.execute(f"UPDATE {table} SET lease_until = now() - interval '2 min' WHERE lease_owner IS NOT NULL")
    await pipeline.services.maintain.publish_overdue()
    for table in ("executions", "inbound_events", "notifications"):
        await system.execute(f"UPDATE {table} SET not_before = now()")
    await pipeline.services.cache.flushdb()


async def work_until_quiet(pipeline: Pipeline, *, rounds: int = 6) -> None:
    """Every step by turns; one that dies is followed by processes that go on."""
    for _ in range(rounds):
        for step in (pipeline.take_events, pipeline.dispatch, pipeline.run_ends, pipeline.complete, pipeline.deliver):
            with suppress(Killed):
                await step()
        await others_find_its_rows(pipeline)
