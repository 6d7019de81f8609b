"""Who looks after an organization's budget: it is small, and raised now and then while something waits for it."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog

from nubabel_workers.adapters.storage.organizations import PostgresOrganizations
from nubabel_workers.domain.budgets import Books
from nubabel_workers.domain.errors import InvalidInputError, TransientError, UncertainError
from nubabel_workers.domain.executions import Status
from nubabel_workers.domain.limits import LimitChange, checked_change
from nubabel_workers.domain.tenants import PolicyChange
from nubabel_workers.embedded.stack import Stack
from nubabel_workers.embedded.stack_tenants import Tenant
from nubabel_workers.services.manage_limits import ManageLimits

_ACTOR = "chaos:purse"
_LOOKS_EVERY_S = 2.0
_FIRST_CAPS = {"cost_per_day": 0.5, "cost_per_execution": 0.22}  # dollars; a request costs 5 cents per step
_RAISED_BY = 1.0  # at least: room for what is held for one run
_FOR_EACH_THAT_WAITS = 0.1
_MORE_FOR_ONE = 2.0
_APPROVER = "U0PURSE"
_PAUSED = """
SELECT id, reply FROM executions WHERE organization_id = %(organization_id)s AND status = %(status)s ORDER BY random()
"""

log = structlog.get_logger(__name__)


class Purse:
    """As operators' commands would: the cap of the day for all, or more money for some that are paused; and as somebody
    in Slack would, who presses the buttons of such.
    """

    def __init__(self, stack: Stack, tenant: Tenant) -> None:
        services = stack.services
        self._slack = stack.slack
        self._services = services
        self._tenant = tenant
        self._organizations = PostgresOrganizations(services.database, services.cipher)
        self._limits = ManageLimits(self._organizations, services.plans, services.keep_budgets)

    async def open(self) -> None:
        approvers = PolicyChange(budget_approvers=(_APPROVER,))
        await self._organizations.set_policy(self._tenant.id, approvers, actor=_ACTOR)
        await self._set(checked_change(_FIRST_CAPS))

    async def run(self) -> None:
        """Until it is cancelled. The database may be away: then it is looked at again."""
        for turn in itertools.count():
            await asyncio.sleep(_LOOKS_EVERY_S)
            with suppress(TransientError, UncertainError):
                _, books = await self._services.keep_budgets.books(self._tenant.id)
                if turn % 3 == 0 and books.paused:
                    await self._press_buttons()
                elif turn % 3 == 1 and books.paused:
                    await self._allow_half()
                elif books.queued or books.paused:
                    await self._raise(books)

    async def _raise(self, books: Books) -> None:
        more = max(_RAISED_BY, _FOR_EACH_THAT_WAITS * (books.queued + books.paused))
        cap = round(books.today.cost + books.held.cost + more, 2)
        log.info("chaos.cap_raised", queued=books.queued, paused=books.paused, used=books.today.cost, cap=cap)
        await self._set(checked_change({"cost_per_day": cap}))

    async def _set(self, change: LimitChange) -> None:
        await self._limits.change(self._tenant.id, change, actor=_ACTOR)

    async def _press_buttons(self) -> None:
        """Of half of those that are paused, as far as they were asked in Slack and their notice stands."""
        for row in await self._half_of_the_paused():
            reply = row["reply"]
            if reply["kind"] != "slack":
                continue
            channel = self._slack.workspace(self._tenant.team).channels[reply["channel"]]
            notices = [message for message in channel.thread(reply["thread_ts"]) if message.buttons]
            if notices:
                log.info("chaos.button_pressed", execution_id=row["id"])
                self._slack.press(notices[-1], team=self._tenant.team, channel=channel.id, user=_APPROVER)

    async def _half_of_the_paused(self) -> Sequence[Mapping[str, Any]]:
        values = {"organization_id": self._tenant.id, "status": Status.WAITING_BUDGET}
        rows = await self._services.database.system().all(_PAUSED, values)
        return rows[: (len(rows) + 1) // 2]

    async def _allow_half(self) -> None:
        for row in await self._half_of_the_paused():
            log.info("chaos.one_allowed", execution_id=row["id"])
            with suppress(InvalidInputError):  # it has gone on meanwhile, or this was done though nobody heard of it
                await self._services.keep_budgets.allow(self._tenant.id, row["id"], cost=_MORE_FOR_ONE, actor=_ACTOR)
