"""One running system per test module: real stores, every process of the Procfile, local Slack, OpenCode simulator.

A module that needs another system than the default says so in a variable `STACK` (StackOptions). Its processes are
forked, each with the command of the Procfile; `test_commands.py` starts its own as everybody does.
"""

from collections.abc import AsyncIterator, Callable
from itertools import count

import pytest
import pytest_asyncio

from nubabel_workers.embedded.stack import Stack, StackOptions
from tests.e2e.conversation import Conversation
from tests.forking import ForkedProcess
from tests.needing_node import needing

_channels = count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    options: StackOptions = getattr(request.module, "STACK", StackOptions())
    running = Stack(options, start_process=ForkedProcess)
    with needing("the real OpenCode"):
        await running.__aenter__()
    try:
        yield running
    finally:
        await running.close()


@pytest.fixture
def new_conversation(stack: Stack) -> Callable[..., Conversation]:
    """A channel of its own for each test, so that one running system serves them all."""

    def create(*, tenant: int = 0, direct: bool = False) -> Conversation:
        channel = f"{'D' if direct else 'C'}{next(_channels):08d}"
        return Conversation(stack, stack.tenants[tenant], channel)

    return create


@pytest.fixture
def conversation(new_conversation: Callable[..., Conversation]) -> Conversation:
    return new_conversation()
