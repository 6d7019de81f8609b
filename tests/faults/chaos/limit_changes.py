"""Limits that operators change under load, by the command and over HTTP in turns, and take back."""

import asyncio
import itertools
import os
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import Awaitable, Callable, Mapping

import aiohttp
import structlog
from pydantic import SecretStr

from nubabel_workers.domain.budgets import Books
from nubabel_workers.domain.credentials import operator_setting, operator_token_text
from nubabel_workers.embedded.stack import Stack
from nubabel_workers.embedded.stack_tenants import Tenant
from tests.faults.chaos.patience import until_done

_COMMAND_WITHIN_S = 60.0
_CALL_WITHIN_S = 5.0
_AGAIN_S = 0.5
_FEW_REQUESTS, _FEW_WAITING, _FEW_SESSIONS, _FEW_AT_ONCE = 5, 2, 3, 2
_SOME_STEPS = 3  # of runs that go on, before the cap stops them
_STEP_COST, _STEP_TOKENS = 0.05, 50_000  # of the simulated model, see book.py

# What is left of an organization's money or tokens, by the limit.
_JUST_ABOVE: Mapping[str, Callable[[Books], float]] = {
    "tokens_per_day": lambda books: books.today.tokens + books.held.tokens + _SOME_STEPS * _STEP_TOKENS,
    "tokens_per_month": lambda books: books.this_month.tokens + books.held.tokens + _SOME_STEPS * _STEP_TOKENS,
    "cost_per_month": lambda books: round(books.this_month.cost + books.held.cost + _SOME_STEPS * _STEP_COST, 2),
    "cost_per_user_day": lambda books: round(books.today.cost / 2 + _SOME_STEPS * _STEP_COST, 2),
}
_FEW: Mapping[str, int] = {
    "requests_per_minute": _FEW_REQUESTS,
    "queued": _FEW_WAITING,
    "sessions": _FEW_SESSIONS,
    "in_flight": _FEW_AT_ONCE,
}

log = structlog.get_logger(__name__)


class OperatorAccess:
    """A token of the operators, and what the settings have to know of it."""

    def __init__(self) -> None:
        self.token: SecretStr = operator_token_text(os.urandom(32))
        self.setting = operator_setting("chaos", self.token)


class LimitChanges:
    """own: limits that an organization keeps when a change is taken back; by its id."""

    def __init__(
        self, stack: Stack, access: OperatorAccess, *, api_url: str, own: Mapping[str, Mapping[str, float]]
    ) -> None:
        self._stack = stack
        self._access = access
        self._api_url = api_url
        self._own = own
        self._turn = itertools.count()

    async def lower(self, tenant: Tenant, limit: str, hold_s: float) -> None:
        """So low that requests or runs come to it, for so long. Returns when it was taken back."""
        value = await self._value(tenant, limit)
        log.info("chaos.limit_lowered", organization_id=tenant.id, limit=limit, value=value)
        await self.set(tenant, limit, value)
        await asyncio.sleep(hold_s)
        await self.set(tenant, limit, self._own.get(tenant.id, {}).get(limit))

    async def _value(self, tenant: Tenant, limit: str) -> float:
        if limit in _FEW:
            return _FEW[limit]
        _, books = await until_done(lambda: self._stack.services.keep_budgets.books(tenant.id))
        return _JUST_ABOVE[limit](books)

    async def set(self, tenant: Tenant, limit: str, value: float | None) -> None:
        """None: what the plan says. A gateway or the database may be away, or a command be slow on a busy machine: an
        operator tries again, the other way.
        """
        while not await self._way()(tenant, limit, value):  # noqa: ASYNC110 - the other side gives no event
            await asyncio.sleep(_AGAIN_S)

    def _way(self) -> Callable[[Tenant, str, float | None], Awaitable[bool]]:
        return self._by_command if next(self._turn) % 2 else self._over_http

    async def _over_http(self, tenant: Tenant, limit: str, value: float | None) -> bool:
        body = {"unset": [limit]} if value is None else {"set": {limit: value}}
        url = f"{self._api_url}/v1/operator/organizations/{tenant.id}/limits"
        headers = {"authorization": f"Bearer {self._access.token.get_secret_value()}"}
        timeout = aiohttp.ClientTimeout(total=_CALL_WITHIN_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.patch(url, json=body, headers=headers) as response,
            ):
                return response.ok
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _by_command(self, tenant: Tenant, limit: str, value: float | None) -> bool:
        change = f"{limit}={'unset' if value is None else value}"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from nubabel_workers.cli.main import app; app()",
            "limits",
            "set",
            tenant.id,
            change,
            env={**os.environ, "NUBABEL_ENV_FILE": str(self._stack.env_file)},
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        try:
            async with asyncio.timeout(_COMMAND_WITHIN_S):
                return await process.wait() == 0
        except TimeoutError:
            process.kill()
            await process.wait()
            return False
