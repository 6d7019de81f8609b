"""Calls at once to one connection are bounded, and a connection without calls is forgotten."""

import asyncio

import pytest

from nubabel_workers.adapters.mcp.places import Places
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.ids import OrganizationId, ToolConnectionId
from nubabel_workers.domain.tools import ConnectionKind, ConnectionStatus, ToolConnection


def connection(name: str) -> ToolConnection:
    return ToolConnection(
        ToolConnectionId(name), OrganizationId("org_a"), name, ConnectionKind.HTTP, ConnectionStatus.ACTIVE
    )


async def test_one_call_too_many_is_refused_and_another_connection_goes_on() -> None:
    places = Places(at_once=1, wait_s=0.01)

    async with places.place(connection("notion")):
        with pytest.raises(UnavailableError, match="notion has 1 calls under way"):
            async with places.place(connection("notion")):
                pass
        async with places.place(connection("linear")):
            pass


async def test_a_call_waits_for_the_end_of_another() -> None:
    places = Places(at_once=1, wait_s=10)
    entered = asyncio.Event()

    async def second() -> None:
        async with places.place(connection("notion")):
            entered.set()

    async with places.place(connection("notion")):
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        assert not entered.is_set()
    await asyncio.wait_for(waiting, 10)


async def test_nothing_is_kept_of_connections_without_calls() -> None:
    places = Places(at_once=1, wait_s=0)

    for number in range(3):
        async with places.place(connection(str(number))):
            with pytest.raises(UnavailableError):
                async with places.place(connection(str(number))):
                    pass

    assert len(places) == 0
