"""The scheduler process: the steps of `services.maintain`, each in a loop of its own."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from nubabel_workers.domain.errors import NubabelError

log = structlog.get_logger(__name__)

_STEP_LIMIT_S = 60.0


async def repeat(
    name: str,
    step: Callable[[], Awaitable[object]],
    *,
    every_s: float,
    stop: asyncio.Event,
    on_done: Callable[[str], None],
) -> None:
    """Run step until stop is set, every_s seconds apart. A failing step is logged and tried again at its time.

    on_done is told the name after each time that it worked.
    """
    while not stop.is_set():
        try:
            async with asyncio.timeout(_STEP_LIMIT_S):
                await step()
            on_done(name)
        except (NubabelError, TimeoutError) as error:
            log.warning("scheduler.step_failed", step=name, error=str(error) or type(error).__name__)
        except Exception:
            log.exception("scheduler.step_crashed", step=name)  # one broken step must not end the others
        try:
            await asyncio.wait_for(stop.wait(), every_s)
        except TimeoutError:
            continue
