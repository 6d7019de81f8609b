"""A person in one Slack channel, and what the system makes of what the person writes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.executions import FINAL, Execution, Status, TimelineEvent
from nubabel_workers.embedded.stack import Stack
from nubabel_workers.embedded.stack_tenants import Tenant
from nubabel_workers.simulators.slack.model import Message, Workspace

T = TypeVar("T")

TIMEOUT_S = 30.0
_POLL_S = 0.03


class Conversation:
    """`say` writes as a person; the other methods wait, with a deadline, for what has to come of it."""

    def __init__(self, stack: Stack, tenant: Tenant, channel: str) -> None:
        self.stack = stack
        self.tenant = tenant
        self.channel = channel

    @property
    def workspace(self) -> Workspace:
        return self.stack.slack.workspace(self.tenant.team)

    def say(self, text: str, *, thread: Message | None = None) -> Message:
        """In the thread of that message, or at the channel's top level."""
        return self.stack.slack.say(
            text,
            team=self.tenant.team,
            channel=self.channel,
            user="U0PERSON",
            thread_ts=thread.root_ts if thread is not None else None,
        )

    def thread(self, message: Message) -> list[Message]:
        return list(self.workspace.channels[self.channel].thread(message.root_ts))

    def bot_messages(self, message: Message) -> list[Message]:
        """What the bot has written into the thread and left there, oldest first."""
        return [one for one in self.thread(message) if one.bot_id is not None]

    async def reply(self, message: Message, text: str = "", *, timeout_s: float = TIMEOUT_S) -> Message:
        """The bot's message after this one that contains text."""

        def of_bot(messages: Sequence[Message]) -> list[Message]:
            return [one for one in messages if one.bot_id and one.ts > message.ts and text in one.body]

        seen = await self.stack.slack.wait_for(
            message,
            lambda messages: bool(of_bot(messages)),
            team=self.tenant.team,
            channel=self.channel,
            timeout_s=timeout_s,
        )
        return of_bot(seen)[0]

    async def settled(self, message: Message, *, timeout_s: float = TIMEOUT_S) -> Execution:
        """The execution when it is final and everything about it has been told."""
        execution = await self.until_status(message, *FINAL, timeout_s=timeout_s)

        async def told() -> bool:
            rows = await self.stack.services.database.tenant(self.tenant.id).all(
                "SELECT status FROM notifications WHERE execution_id = %(id)s", {"id": execution.id}
            )
            return all(row["status"] in {"sent", "dropped"} for row in rows)

        await until(told, timeout_s=timeout_s, what=f"the end of {execution.id} is told")
        return execution

    async def until_status(self, message: Message, *statuses: Status, timeout_s: float = TIMEOUT_S) -> Execution:
        """The execution that the message became, once it has one of these statuses."""
        deadline = time.monotonic() + timeout_s
        async with asyncio.timeout(timeout_s):
            execution_id = await self.stack.execution_of(self.tenant, self.channel, message)

        async def there() -> Execution | None:
            execution = await self.execution(execution_id)
            return execution if execution.status in statuses else None

        wanted = ", ".join(statuses)
        return await until(there, timeout_s=deadline - time.monotonic(), what=f"{execution_id} is {wanted}")

    async def execution_of(self, message: Message) -> Execution:
        return await self.execution(await self.stack.execution_of(self.tenant, self.channel, message))

    async def execution(self, execution_id: str) -> Execution:
        execution = await self.stack.services.executions.find(self.tenant.id, execution_id)
        assert execution is not None
        return execution

    async def timeline(self, execution: Execution) -> list[TimelineEvent]:
        return await self.stack.services.executions.timeline(self.tenant.id, execution.id)

    async def executions_in_channel(self) -> int:
        row = await self.stack.services.database.tenant(self.tenant.id).one(
            "SELECT count(*) AS n FROM executions WHERE reply->>'channel' = %(channel)s", {"channel": self.channel}
        )
        assert row is not None
        return int(row["n"])


async def all_running(conversation: Conversation, questions: Sequence[Message]) -> None:
    """Every question has been seen running, whichever of them is the first to end."""
    await asyncio.gather(*(conversation.until_status(question, Status.RUNNING) for question in questions))


async def answered_once(
    conversation: Conversation, questions: Sequence[Message], *, timeout_s: float = 2 * TIMEOUT_S
) -> None:
    """Every question has the text it asked for as its one answer."""
    executions = await asyncio.gather(*(conversation.settled(one, timeout_s=timeout_s) for one in questions))
    assert {execution.status for execution in executions} == {Status.COMPLETED}
    for question, execution in zip(questions, executions, strict=True):
        assert [message.body for message in conversation.bot_messages(question)] == [execution.output]


async def until(condition: Callable[[], Awaitable[T | None]], *, what: str, timeout_s: float = TIMEOUT_S) -> T:
    """The first true result of condition; fails the test when timeout_s is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        with suppress(TransientError):  # a store that the test has killed may still be away
            if result := await condition():
                return result
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(_POLL_S)
