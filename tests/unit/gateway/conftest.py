"""The gateway over fakes, and a client that speaks to it without a network."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.fakes.front_door import FrontDoor


@pytest.fixture
def door() -> FrontDoor:
    return FrontDoor()


@pytest.fixture
async def http(door: FrontDoor) -> AsyncIterator[httpx.AsyncClient]:
    """Authenticated as the organization Acme."""
    async with client_of(door, token=door.token()) as client:
        yield client


def client_of(door: FrontDoor, *, token: str | None = None) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(transport=httpx.ASGITransport(door.app), base_url="http://gateway", headers=headers)
