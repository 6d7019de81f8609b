"""Conversations that end so that nobody can be answered there: one each, with silence as the right outcome."""

import asyncio

from nubabel_workers.embedded.stack import Stack
from nubabel_workers.embedded.stack_tenants import Tenant
from tests.faults.chaos.book import Book, directive
from tests.faults.chaos.load import Load, SlackThread

_ANSWER_TAKES_S = 3.0  # long enough to make it impossible meanwhile


class Farewells:
    """leaving: an organization that nobody else writes for; its token is revoked."""

    def __init__(self, stack: Stack, book: Book, load: Load, *, staying: Tenant, leaving: Tenant) -> None:
        self._stack = stack
        self._book = book
        self._load = load
        self._staying = staying
        self._leaving = leaving

    async def run(self) -> None:
        await asyncio.gather(self._archived_channel(), self._deleted_thread(), self._revoked_token())

    async def _archived_channel(self) -> None:
        thread = await self._asked(self._staying, "C0ARCHIVED")
        self._stack.slack.workspace(thread.team).channels[thread.channel].archived = True

    async def _deleted_thread(self) -> None:
        thread = await self._asked(self._staying, "C0DELETED")
        if thread.root is not None:
            workspace = self._stack.slack.workspace(thread.team)
            self._stack.slack.world.delete_by_person(workspace, thread.channel, thread.root.ts)

    async def _revoked_token(self) -> None:
        thread = await self._asked(self._leaving, "C0LEAVING")
        self._stack.slack.workspace(thread.team).revoked = True

    async def _asked(self, tenant: Tenant, channel: str) -> SlackThread:
        """A thread whose question was accepted."""
        thread = self._load.new_thread(tenant, channel)
        number = self._load.next_number()
        thread.ask(number, directive(number, _ANSWER_TAKES_S), tellable=False)
        await self._book.accepted[number].wait()
        return thread
