"""The server as it is deployed, with the real oh-my-opencode: one for organizations together, one for a single one."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.contract.opencode_plugin.deployed import Deployed, deployed
from tests.needing_node import needing


async def _running(factory: pytest.TempPathFactory, kind: str) -> AsyncIterator[Deployed]:
    with needing("the real OpenCode"):
        async with deployed(factory.mktemp(kind), kind=kind) as running:
            yield running


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployed]:
    async for running in _running(tmp_path_factory, "shared"):
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def dedicated(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployed]:
    async for running in _running(tmp_path_factory, "dedicated"):
        yield running
