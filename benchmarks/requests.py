"""Requests of organizations, as their producers send them: what several rows ask with."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from nubabel_workers.bootstrap import Services
from nubabel_workers.domain.submission import SubmitRequest
from nubabel_workers.domain.tenants import Organization

T = TypeVar("T")


async def organization_of(services: Services, organization_id: str) -> Organization:
    found = await services.tenants.organization(organization_id)
    assert found is not None  # noqa: S101 - it was just made
    return found


async def submitted(services: Services, organization: Organization, prompt: str) -> str:
    """In a conversation of its own; the execution's id."""
    accepted = await services.submit_execution.submit(
        organization, SubmitRequest(prompt=prompt), source="api", correlation_id="", traceparent=""
    )
    return accepted.execution_id


async def at_pace(given: Iterable[T], call: Callable[[T], Coroutine[Any, Any, object]], *, per_s: float) -> None:
    """Begin a call for each at a steady pace, however long those before take; all have ended when this returns."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as under_way:
        for number, one in enumerate(given):
            await asyncio.sleep(max(0.0, began + number / per_s - time.monotonic()))
            under_way.create_task(call(one))


async def database_now(services: Services) -> object:
    row = await services.database.system().one("SELECT now() AS now")
    return row["now"] if row else None
