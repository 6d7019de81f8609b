"""Make one tool call for an agent: once, whatever happens, and with its outcome written down.

The intent is written before the call and the outcome after it. Whoever asks again, in any process, gets the stored
outcome; a call whose process died in between is unknown, and made again only where the server calls it repeatable.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from nubabel_workers.domain.errors import NotFoundError, NubabelError, PermanentError, TransientError
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

_ID_USED: Final = ToolCallError("call_id_used", "Another call was made under this call id; give this one its own.")
_UNDER_WAY: Final = ToolCallError("under_way", "This call is still under way; ask again in a moment.")
_TOO_LATE: Final = ToolCallError("not_made", "The call was not made: it came too late. Nothing took effect.")
_STORE_AWAY: Final = ToolCallError("not_made", "The call was not made: it could not be written down. Try again.")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class InvokeLimits:
    """Seconds. lease_s: as the ledger has it, longer than call_s. wait_s: for another process that makes the call.

    close_s: for calls under way when this process ends.
    """

    call_s: float = 120.0
    lease_s: float = 150.0
    wait_s: float = 150.0
    look_every_s: float = 0.5
    write_tries: int = 4  # of an outcome
    write_wait_s: float = 1.0
    close_s: float = 10.0


class InvokeTool:
    def __init__(
        self,
        connections: ToolConnections,
        ask: AskToolServers,
        ledger: ToolCallLedger,
        clock: Clock,
        chance: Chance,
        limits: InvokeLimits,
    ) -> None:
        self._connections = connections
        self._ask = ask
        self._ledger = ledger
        self._clock = clock
        self._chance = chance
        self._limits = limits
        self._under_way: set[asyncio.Task[ToolOutcome]] = set()

    async def close(self) -> None:
        """Calls under way are waited for, for a while; what was broken off is stored as unknown."""
        if not self._under_way:
            return
        _, late = await asyncio.wait(self._under_way, timeout=self._limits.close_s)
        for making in late:
            making.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def run(self, request: ToolRequest) -> ToolOutcome:
        """Errors of tools, servers and arguments are outcomes, for the agent to read."""
        try:
            return await self._stored(request) or await self._new(request)
        except NotFoundError as error:
            return ToolOutcome(error=ToolCallError(error.code, f"The call was not made: {error}."))
        except TransientError:
            return ToolOutcome(error=_STORE_AWAY)

    async def _stored(self, request: ToolRequest) -> ToolOutcome | None:
        """Of a call that is over. Its server may be gone by now, so this comes first."""
        record = await self._ledger.find(request.organization_id, tool_call_id(request))
        if record is None or record.status is CallStatus.STARTED:
            return None
        if record.fingerprint != fingerprint(request):
            return ToolOutcome(error=_ID_USED)
        again = record.status is CallStatus.UNKNOWN and record.repeatable
        return None if again else told_again(record)

    async def _new(self, request: ToolRequest) -> ToolOutcome:
        found = await self._route(request)
        if isinstance(found, ToolCallError):
            return ToolOutcome(error=found)
        wrong = _objection(found, request)
        if wrong is not None:
            return ToolOutcome(error=wrong)
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
            lease = Lease(self._chance.new_id("lse"), self._clock.monotonic() + self._limits.lease_s)
            record, mine = await self._ledger.begin(new, lease)
            if mine:
                return await self._shielded(record, lease, new, found)
            if record.fingerprint != new.fingerprint:
                return ToolOutcome(error=_ID_USED)
            if record.status is not CallStatus.STARTED:
                return told_again(record)
            if self._clock.monotonic() >= give_up_at:
                return ToolOutcome(record.id, error=_UNDER_WAY)
            # The end of another process's call is no event here: a look at the row.
            await asyncio.sleep(self._limits.look_every_s * (1 + self._chance.jitter()))

    async def _shielded(self, record: ToolCallRecord, lease: Lease, new: NewToolCall, found: Route) -> ToolOutcome:
        """A caller that goes away must not break off what may take effect."""
        making = asyncio.create_task(self._make(record, lease, new, found))
        self._under_way.add(making)
        making.add_done_callback(self._under_way.discard)
        return await asyncio.shield(making)

    async def _make(self, record: ToolCallRecord, lease: Lease, new: NewToolCall, found: Route) -> ToolOutcome:
        if lease.remaining_s(self._clock.monotonic()) < self._limits.call_s:  # stood still: it may be another's by now
            return await self._failed(record, _TOO_LATE)
        try:
            result = await self._ask.call(
                found.connection, found.tool, new.request.arguments, execution_id=new.request.execution_id
            )
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
        for left in reversed(range(self._limits.write_tries)):
            try:
                await self._ledger.finish(record, end)
            except NubabelError as error:
                if not left:
                    log.warning("tool_call.outcome_not_written", id=record.id, error=str(error))
                    return
                await asyncio.sleep(self._limits.write_wait_s)
            else:
                return


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
