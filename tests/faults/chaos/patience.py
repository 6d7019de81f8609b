"""The stores of a rig are away now and then: whoever asks them for something asks again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from nubabel_workers.domain.errors import TransientError, UncertainError

T = TypeVar("T")

_AGAIN_S = 0.3


async def until_done(act: Callable[[], Awaitable[T]]) -> T:
    """As operators do. What was done although nobody heard of it is done again."""
    while True:
        try:
            return await act()
        except (TransientError, UncertainError):
            await asyncio.sleep(_AGAIN_S)
