"""Make one tool call for an agent: once, whatever happens, and with its outcome written down.

The intent is written before the call and the outcome after it, under a lease that is renewed in between. Whoever asks
again, in any process, gets the stored outcome. A call whose process died in between is unknown as soon as its lease has
ended, and made again only where it is repeatable. How long all of it may take: `domain.tool_call_times`.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from nubabel_workers.domain.errors import (
    LeaseLostError,
    NotFoundError,
    NubabelError,
    PermanentError,
    TransientError,
)
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.ports import Chance, Clock
from nubabel_workers.domain.ports.tool_calls import ToolCallLedger
from nubabel_workers.domain.ports.tools import ToolConnections
from nubabel_workers.domain.tool_arguments import UnusableSchemaError, objection
from nubabel_workers.domain.tool_calls import (
    UNKNOWN_OUTCOME,
    CallStatus,
    NewToolCall,
    ToolCallEnd,
    ToolCallError,
    ToolCallRecord,
    ToolOutcome,
    ToolRequest,
    ended,
    fingerprint,
    new_tool_call,
    outcome_of,
    told_again,
    tool_call_id,
)
from nubabel_workers.domain.tool_routing import Route, candidates, route
from nubabel_workers.domain.tools import ToolConnection
from nubabel_workers.services.ask_tool_servers import AskToolServers
from nubabel_workers.services.hold_leases import LeaseHolder

T = TypeVar("T")

_ID_USED: Final = ToolCallError("call_id_used", "Another call was made under this call id; give this one its own.")
_UNDER_WAY: Final = ToolCallError("under_way", "This call is still under way; ask again in a moment.")
_TOO_LATE: Final = ToolCallError("not_made", "The call was not made: it came too late. Nothing took effect.")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class InvokeLimits:
    """Seconds. wait_s: for another process that makes the call. write_s: for an outcome to be written.

    close_s, give_up_s: when this process ends, for calls under way to end, and for those that did not to be written
    down as unknown. Their leases do the same a little later.
    """

    wait_s: float = 150.0
    look_every_s: float = 0.5
    write_s: float = 15.0
    write_tries: int = 4
    write_wait_s: float = 1.0
    close_s: float = 5.0
    give_up_s: float = 2.0


class InvokeTool:
    def __init__(
        self,
        connections: ToolConnections,
        ask: AskToolServers,
        ledger: ToolCallLedger,
        leases: LeaseHolder,
        clock: Clock,
        chance: Chance,
        limits: InvokeLimits,
    ) -> None:
        self._connections = connections
        self._ask = ask
        self._ledger = ledger
        self._leases = leases
        self._clock = clock
        self._chance = chance
        self._limits = limits
        self._under_way: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Calls under way are waited for, for a while; what was broken off is stored as unknown."""
        if not self._under_way:
            return
        _, late = await asyncio.wait(self._under_way, timeout=self._limits.close_s)
        for making in late:
            making.cancel()
        if late:
            await asyncio.wait(late, timeout=self._limits.give_up_s)

    async def run(self, request: ToolRequest) -> ToolOutcome:
        """Errors of tools, servers and arguments are outcomes, for the agent to read.

        Raises TransientError while the ledger is away: the same request, sent again, is still the same call.
        """
        before = await self._ledger.find(request.organization_id, tool_call_id(request))
        if before is not None:
            told = _told(before, request)
            if told is not None:  # its server may be gone by now, so this comes first
                return told
        try:
            return await self._made(request, before)
        except NotFoundError as error:
            return ToolOutcome(error=ToolCallError(error.code, f"The call was not made: {error}."))

    async def _made(self, request: ToolRequest, before: ToolCallRecord | None) -> ToolOutcome:
        found = await self._route(request)
        if isinstance(found, Route):
            found = _objection(found, request) or found
        if isinstance(found, ToolCallError):
            # It can't be made now; but somebody began it before, and may have made it.
            return ToolOutcome(error=found) if before is None else ToolOutcome(before.id, error=UNKNOWN_OUTCOME)
        new = new_tool_call(request, found.connection.id, found.connection.provider, found.tool)
        return await self._made_once(new, found)

    async def _route(self, request: ToolRequest) -> Route | ToolCallError:
        connections = await self._connections.serving(request.organization_id)
        chosen = candidates(connections, request.provider)
        if isinstance(chosen, ToolCallError):
            return chosen
        forbidding = [one for one in chosen if not one.allows(request.tool_name)]
        if len(forbidding) == len(chosen):
            return _not_allowed(request, forbidding)
        offers = await asyncio.gather(
            *(self._ask.offer(connection, execution_id=request.execution_id) for connection in chosen)
        )
        return route(chosen, offers, request.tool_name)

    async def _made_once(self, new: NewToolCall, found: Route) -> ToolOutcome:
        give_up_at = self._clock.monotonic() + self._limits.wait_s
        while True:
            # A caller that goes away must not break off what may take effect.
            attempt = await asyncio.shield(self._started(self._attempt(new, found)))
            if isinstance(attempt, ToolOutcome):
                return attempt
            if attempt.fingerprint != new.fingerprint:
                return ToolOutcome(error=_ID_USED)
            if attempt.status is not CallStatus.STARTED:
                return told_again(attempt)
            if self._clock.monotonic() >= give_up_at:
                return ToolOutcome(attempt.id, error=_UNDER_WAY)
            # The end of another process's call is no event here: a look at the row.
            await asyncio.sleep(self._limits.look_every_s * (1 + self._chance.jitter()))

    def _started(self, attempt: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(attempt)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _attempt(self, new: NewToolCall, found: Route) -> ToolOutcome | ToolCallRecord:
        """Its outcome; or its row, when another process makes the call or it is over."""
        async with self._leases.hold() as lease:
            record, mine = await self._ledger.begin(new, lease)
            return await self._make(record, lease, new, found) if mine else record

    async def _make(self, record: ToolCallRecord, lease: Lease, new: NewToolCall, found: Route) -> ToolOutcome:
        request = new.request
        try:
            result = await self._ask.call(
                found.connection,
                found.tool,
                request.arguments,
                execution_id=request.execution_id,
                may_go=partial(self._leases.must_hold, lease),
            )
        except LeaseLostError:  # others may have been told that it is unknown; this is what it came to
            return await self._failed(record, _TOO_LATE)
        except (TransientError, PermanentError) as error:
            return await self._failed(record, _refusal(error))
        except NubabelError:
            await self._write(record, ToolCallEnd(CallStatus.UNKNOWN, error=UNKNOWN_OUTCOME))
            return ToolOutcome(record.id, error=UNKNOWN_OUTCOME)
        except BaseException:
            await self._write(record, ToolCallEnd(CallStatus.UNKNOWN, error=UNKNOWN_OUTCOME))
            raise
        await self._write(record, ended(result))
        return outcome_of(record.id, result)

    async def _failed(self, record: ToolCallRecord, error: ToolCallError) -> ToolOutcome:
        await self._write(record, ToolCallEnd(CallStatus.FAILED, error=error))
        return ToolOutcome(record.id, error=error)

    async def _write(self, record: ToolCallRecord, end: ToolCallEnd) -> None:
        """The agent is told the outcome in any case; without its row a repeat is told that it is unknown."""
        try:
            async with asyncio.timeout(self._limits.write_s):
                await self._written(record, end)
        except (NubabelError, TimeoutError) as error:
            log.warning("tool_call.outcome_not_written", id=record.id, error=str(error))

    async def _written(self, record: ToolCallRecord, end: ToolCallEnd) -> None:
        for _ in range(self._limits.write_tries - 1):
            with suppress(NubabelError):
                await self._ledger.finish(record, end)
                return
            await asyncio.sleep(self._limits.write_wait_s)
        await self._ledger.finish(record, end)


def _told(record: ToolCallRecord, request: ToolRequest) -> ToolOutcome | None:
    """What a call that was begun before came to; None while it may be under way, and when it is to be made again."""
    if record.fingerprint != fingerprint(request):
        return ToolOutcome(error=_ID_USED)
    again = record.status is CallStatus.UNKNOWN and record.repeatable
    return None if again or record.status is CallStatus.STARTED else told_again(record)


def _objection(found: Route, request: ToolRequest) -> ToolCallError | None:
    try:
        wrong = objection(found.tool.input_schema, request.arguments)
    except UnusableSchemaError as error:
        log.info("tool_call.schema_not_usable", connection_id=found.connection.id, error=str(error))
        return None
    if wrong is None:
        return None
    return ToolCallError("invalid_arguments", f"The arguments do not fit {request.tool_name}: {wrong}")


def _not_allowed(request: ToolRequest, forbidding: Sequence[ToolConnection]) -> ToolCallError:
    names = ", ".join(one.provider for one in forbidding)
    return ToolCallError(
        "tool_not_allowed", f"The organization does not allow {request.tool_name[:80]!r} of its providers ({names})."
    )


def _refusal(error: TransientError | PermanentError) -> ToolCallError:
    if isinstance(error, PermanentError):
        return ToolCallError(error.code, f"The call was refused: {error}.")
    return ToolCallError("provider_unavailable", f"The call was not made: {error}. Try again later.")
