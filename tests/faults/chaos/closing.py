"""After quiet: whether a limit still lets through exactly as many as it says, and the cache counted them all."""

import asyncio
import time
from http import HTTPStatus

import httpx

from nubabel_workers.adapters.cache.connection import PREFIX
from nubabel_workers.embedded.stack import Stack
from nubabel_workers.embedded.stack_tenants import Tenant, create_tenant
from tests.faults.chaos.limit_changes import LimitChanges
from tests.faults.chaos.patience import until_done

_ALLOWED, _ASKED = 7, 12
_LIMIT = "requests_per_minute"
_MINUTE_S = 60
_TRIES = 3
_STORED = """
SELECT count(*) FILTER (WHERE status <> 'completed') AS left, count(*) AS stored
FROM executions WHERE organization_id = %(id)s
"""
_AT_LEAST_LEFT_S = 10.0
_ENDED_WITHIN_S = 30.0
_LOOK_EVERY_S = 0.2


async def requests_let_through(stack: Stack, limits: LimitChanges) -> list[str]:
    """An organization that nobody knew before asks more often than it may, at all gateways at once. In words, what is
    off: of the requests let through, of the window in the cache, and of those that were let through and did not end.

    Connections to PostgreSQL that were kept from before its faults may fail once: another one asks then.
    """
    for _ in range(_TRIES):
        tenant = await until_done(lambda: create_tenant(stack.services, "Newcomer", []))
        await limits.set(tenant, _LIMIT, _ALLOWED)
        await _early_in_a_minute()
        minute = int(time.time() // _MINUTE_S)
        answers = await _ask(stack, tenant)
        if set(answers) <= {HTTPStatus.ACCEPTED, HTTPStatus.TOO_MANY_REQUESTS}:
            break
    window = await stack.services.cache.get(f"{PREFIX}window:requests:{tenant.id}:{minute}")
    return wrong_window(answers, int(window or 0)) + await _not_ended(stack, tenant)


def wrong_window(answers: list[int], window: int) -> list[str]:
    """answers: HTTP statuses. Each request takes one, also one that is refused."""
    accepted, refused = answers.count(HTTPStatus.ACCEPTED), answers.count(HTTPStatus.TOO_MANY_REQUESTS)
    found = []
    if (accepted, refused) != (_ALLOWED, _ASKED - _ALLOWED):
        found.append(f"requests let through where {_ALLOWED} of {_ASKED} may: {accepted}, refused {refused}")
    if window != _ASKED:
        found.append(f"requests counted in a minute's window: {window} of {_ASKED}")
    return found


async def _early_in_a_minute() -> None:
    left_s = _MINUTE_S - time.time() % _MINUTE_S
    if left_s < _AT_LEAST_LEFT_S:
        await asyncio.sleep(left_s)


async def _ask(stack: Stack, tenant: Tenant) -> list[int]:
    headers = {"authorization": f"Bearer {tenant.token.get_secret_value()}"}
    ports = stack.processes.http_ports

    async def ask(http: httpx.AsyncClient, number: int) -> int:
        url = f"http://127.0.0.1:{ports[number % len(ports)]}/v1/executions"
        body = {"prompt": f"[[text=request {number}]]", "session_key": f"closing-{number}"}
        answer = await http.post(url, json=body, headers=headers | {"idempotency-key": f"closing-{number}"})
        return answer.status_code

    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
        return await asyncio.gather(*(ask(http, number) for number in range(_ASKED)))


async def _not_ended(stack: Stack, tenant: Tenant) -> list[str]:
    left = _ALLOWED
    deadline = time.monotonic() + _ENDED_WITHIN_S
    while time.monotonic() < deadline:
        row = await until_done(lambda: stack.services.database.system().one(_STORED, {"id": tenant.id}))
        left = row["left"] if row else left
        if row and row["stored"] and not left:
            return [] if row["stored"] == _ALLOWED else [f"requests stored: {row['stored']} of {_ALLOWED}"]
        await asyncio.sleep(_LOOK_EVERY_S)
    return [f"requests that were let through and not completed: {left}"]
