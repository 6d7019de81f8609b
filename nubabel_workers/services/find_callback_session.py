"""Whose session an OpenCode server's plugin speaks of: looked up by us, never believed, and only on that server."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from nubabel_workers.domain.administration import AuditAction, AuditEntry, server_actor
from nubabel_workers.domain.errors import (
    CredentialsError,
    InvalidInputError,
    NotFoundError,
    RateLimitedError,
    UnavailableError,
)
from nubabel_workers.domain.ports import (
    Clock,
    ExecutionStore,
    Incident,
    Incidents,
    InstanceStore,
    OpenCodeServers,
    SessionMappings,
    SessionPlace,
    Throttle,
)
from nubabel_workers.services.report_foreign_ids import ReportForeignIds

log = structlog.get_logger(__name__)

_MAX_DEPTH = 8  # sub-agents of sub-agents
_ASKING_S = 3.0
_ASKS_PER_S = 50  # of one server, for sessions that nobody knows; sub-agents' are remembered
_NOT_ASKED_AGAIN_S = 5.0
_MOST_REMEMBERED = 10_000  # sessions of all servers


@dataclass(frozen=True)
class CallbackSession:
    """A session of ours on the server that calls. opencode_session_id: the root's."""

    instance_id: str
    organization_id: str
    session_id: str
    opencode_session_id: str


class _AskedInVain:
    """Sessions that a server was asked for lately, and that are not served there. Of one process.

    The plugin of a server that sessions have left may speak of them at length: these must not use up the questions
    for its sub-agents. Whether a session is elsewhere or nobody's, it is asked for at the same times.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: OrderedDict[tuple[str, str], float] = OrderedDict()  # the first to be forgotten is the first

    def __contains__(self, one: tuple[str, str]) -> bool:
        return self._until.get(one, 0.0) > self._clock.monotonic()

    def add(self, one: tuple[str, str]) -> None:
        self._until[one] = self._clock.monotonic() + _NOT_ASKED_AGAIN_S
        self._until.move_to_end(one)
        if len(self._until) > _MOST_REMEMBERED:
            self._until.popitem(last=False)


class FindCallbackSession:
    """callbacks_per_s: of one organization's sessions, over all servers and web processes."""

    def __init__(
        self,
        mappings: SessionMappings,
        executions: ExecutionStore,
        instances: InstanceStore,
        servers: OpenCodeServers,
        throttle: Throttle,
        foreign_ids: ReportForeignIds,
        incidents: Incidents,
        clock: Clock,
        *,
        callbacks_per_s: int,
    ) -> None:
        self._mappings = mappings
        self._executions = executions
        self._instances = instances
        self._servers = servers
        self._throttle = throttle
        self._foreign_ids = foreign_ids
        self._incidents = incidents
        self._asked_in_vain = _AskedInVain(clock)
        self._callbacks_per_s = callbacks_per_s

    async def run(
        self, instance_id: str, session_ids: Sequence[str], *, told_organization: str | None
    ) -> CallbackSession:
        """The one session that all these ids name: ours, OpenCode's, or sub-agents' of it.

        Raises CredentialsError for a session that is not on this server and for an organization that is not the
        session's or not that of all of them (in the audit log), InvalidInputError when the ids name several sessions,
        RateLimitedError, and UnavailableError when the server has to be asked for a parent and does not answer.
        """
        first, *others = [await self._find(instance_id, session_id) for session_id in dict.fromkeys(session_ids)]
        if told_organization is not None and told_organization != first.organization_id:
            await self._foreign_ids.write(self._noted(instance_id, first, "other_organization"))
            raise CredentialsError("the session belongs to another organization", code="organization_mismatch")
        if any(other.organization_id != first.organization_id for other in others):
            await self._foreign_ids.write(self._noted(instance_id, first, "other_organization"))
            raise CredentialsError("these sessions belong to several organizations", code="organization_mismatch")
        if any(other.session_id != first.session_id for other in others):
            raise InvalidInputError("these are several sessions; send each its own call", code="several_sessions")
        if not await self._throttle.take(f"callbacks:{first.organization_id}", per_s=1, limit=self._callbacks_per_s):
            raise RateLimitedError("too many callbacks for this organization; send it again", retry_after_s=1)
        return first

    async def _find(self, instance_id: str, session_id: str) -> CallbackSession:
        root_id = await self._mappings.root_of(instance_id, session_id) or session_id
        known = await self._known(instance_id, root_id)
        if known is not None:
            return known
        if root_id == session_id and (instance_id, session_id) not in self._asked_in_vain:
            # Asked, followed and remembered also for what is known to be elsewhere: else the server would see, by our
            # question or our answer, that it exists. What it gets is its own root, which it may speak of anyway.
            told = await self._ask_for_root(instance_id, session_id)
            if told is not None and told != session_id:
                found = await self._known(instance_id, told)
                if found is not None:
                    await self._mappings.remember_root(instance_id, session_id, told)
                    return found
            self._asked_in_vain.add((instance_id, session_id))
        log.warning("callback.unknown_session", instance_id=instance_id, opencode_session_id=session_id)
        raise _not_served()

    async def _known(self, instance_id: str, session_id: str) -> CallbackSession | None:
        """None also where it is known to be somewhere else, which is put down."""
        mapped = await self._mappings.session_of(instance_id, session_id)
        if mapped is not None:
            return CallbackSession(instance_id, *mapped, session_id)
        place = await self._executions.session_anywhere(session_id)
        if place is None:
            return None
        if place.instance_id != instance_id or place.opencode_session_id is None:
            self._foreign_ids.refused(self._noted(instance_id, place, "other_server"))
            return None
        return CallbackSession(instance_id, place.organization_id, place.session_id, place.opencode_session_id)

    async def _ask_for_root(self, instance_id: str, session_id: str) -> str | None:
        """As that server says; None where it has no such session. It can only lie about itself: its root has to be a
        session of ours on it.
        """
        if not await self._throttle.take(f"callback-asks:{instance_id}", per_s=1, limit=_ASKS_PER_S):
            raise RateLimitedError("too many unknown sessions; send it again", retry_after_s=1)
        instance = await self._instances.lately(instance_id)
        if instance is None:
            return None
        server = self._servers.server(instance)
        try:
            async with asyncio.timeout(_ASKING_S):
                for _ in range(_MAX_DEPTH):
                    parent_id = await server.parent_of(session_id)
                    if parent_id is None:
                        return session_id
                    session_id = parent_id
        except NotFoundError:
            return None
        except TimeoutError as error:
            raise UnavailableError("the OpenCode server did not say in time whose session it is") from error
        return None

    def _noted(self, instance_id: str, session: CallbackSession | SessionPlace, reason: str) -> AuditEntry:
        """Counted, and in words for the audit log of whose it is."""
        log.warning("callback.foreign_session", instance_id=instance_id, session_id=session.session_id, reason=reason)
        self._incidents.count(Incident.FOREIGN_SESSION)
        return AuditEntry(
            server_actor(instance_id),
            AuditAction.CALLBACK_REFUSED,
            session.organization_id,
            session.session_id,
            {"reason": reason},
        )


def _not_served() -> CredentialsError:
    """The same for what is elsewhere and for what does not exist."""
    return CredentialsError("this server has no such session of ours", code="session_not_served")
