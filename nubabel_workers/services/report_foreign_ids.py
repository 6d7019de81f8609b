"""Somebody named what is another organization's, and was told that there is no such thing: counted, for the alert, and
in the audit log.

Every door hands over what was sought and not found, be it another's or nobody's, and answers without waiting: neither
the answer nor its time says whether the id exists. The entry belongs to no organization: one of the caller's own would
show, in its export, that the id exists, and one of the owner's would name somebody else's token. Operators see both.
"""

import asyncio
from collections import deque
from contextvars import Context
from dataclasses import dataclass

import structlog

from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.foreign_ids import Naming, kind_of
from nubabel_workers.domain.ports import Incident, Incidents, Throttle
from nubabel_workers.domain.ports.administration import AuditTrail, IdOwners

log = structlog.get_logger(__name__)

# Of one caller. Who asks again and again for what has expired attacks nobody: more is looked up than is written down.
LOOKED_UP_PER_MINUTE = 600
LISTED_PER_MINUTE = 60  # of one caller about one organization, of one kind
LISTED_OF_ALL_PER_MINUTE = 600  # of one caller
_MAX_WAITING = 1000  # of one process, looked up one after the other
_LOOK_S = 10.0
_SUMMED_UP_EVERY_S = 60.0
_CLOSE_S = 5.0


@dataclass
class _NotListed:
    """What one caller named beyond the limits. unseen: not looked up, may be nobody's."""

    foreign: int = 0
    unseen: int = 0


class ReportForeignIds:
    """Safe to run twice: an attempt that is reported again is there twice."""

    def __init__(self, owners: IdOwners, audit: AuditTrail, incidents: Incidents, throttle: Throttle) -> None:
        self._owners = owners
        self._audit = audit
        self._incidents = incidents
        self._throttle = throttle
        self._waiting: deque[Naming | AuditEntry] = deque()
        self._working: asyncio.Task[None] | None = None
        self._not_listed: dict[tuple[str, str | None], _NotListed] = {}
        self._summing: asyncio.Task[None] | None = None

    def soon(self, naming: Naming) -> None:
        """For doors whose caller waits: returns at once, whatever was named."""
        if kind_of(naming.sought.name) is not None:
            self._put(naming)

    def refused(self, entry: AuditEntry) -> None:
        """For a door that knows already whose it is, and whose caller must not: listed soon, within the same bounds."""
        self._put(entry)

    async def write(self, entry: AuditEntry) -> None:
        """For a refusal that hides nothing: listed now, within the same bounds."""
        if await self._may_be_listed(entry):
            await self._audit.add(entry)
        else:
            self._beyond(entry).foreign += 1

    async def _may_be_listed(self, entry: AuditEntry) -> bool:
        """An organization's share is its own: many call as one server, and one of them is to hide nothing of others."""
        share = f"foreign-ids-listed:{entry.actor}:{_organization_of(entry)}:{entry.action}"
        if not await self._throttle.take(share, per_s=60, limit=LISTED_PER_MINUTE):
            return False
        everybody = f"foreign-ids-listed:{entry.actor}"
        return await self._throttle.take(everybody, per_s=60, limit=LISTED_OF_ALL_PER_MINUTE) > 0

    def _put(self, one: Naming | AuditEntry) -> None:
        if len(self._waiting) >= _MAX_WAITING:
            self._beyond(one).unseen += 1
            return
        self._waiting.append(one)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work_off(), context=Context())  # no log fields of the request

    async def run(self, naming: Naming) -> None:
        """For doors whose caller sees no answer. Raises nothing: what cannot be looked up now is counted."""
        await self._within_limits(naming)

    async def settled(self) -> None:
        """When all that was handed over is looked up."""
        while self._working is not None and not self._working.done():
            await asyncio.wait([self._working])

    async def close(self) -> None:
        """What waits is looked up, for a while; what there is beyond the limits is written down."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self.settled()
        except TimeoutError:
            for one in self._waiting:
                self._beyond(one).unseen += 1
        await _stop(self._working)  # counts what it held, and may begin to sum up for that
        await _stop(self._summing)
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._sum_up()
        except TimeoutError:
            log.warning("foreign_id.not_summed_up", error="the process ends")

    async def _work_off(self) -> None:
        while self._waiting:
            await self._within_limits(self._waiting.popleft())

    async def _within_limits(self, one: Naming | AuditEntry) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                await (self.write(one) if isinstance(one, AuditEntry) else self._report(one))
        except (NubabelError, TimeoutError) as error:
            log.warning("foreign_id.not_looked_up", actor=one.actor, error=str(error))
            self._beyond(one).unseen += 1
        except asyncio.CancelledError:
            self._beyond(one).unseen += 1
            raise

    async def _report(self, naming: Naming) -> None:
        sought, kind = naming.sought, kind_of(naming.sought.name)
        if kind is None:
            return
        if not await self._throttle.take(f"foreign-ids:{naming.actor}", per_s=60, limit=LOOKED_UP_PER_MINUTE):
            self._beyond(naming).unseen += 1
            return
        owners = await self._owners.owners(kind, sought.name)
        if not owners or sought.organization_id in owners:
            return
        log.warning("foreign_id.named", actor=naming.actor, organization_id=sought.organization_id, door=naming.door)
        self._incidents.count(Incident.FOREIGN_ID)
        detail = {
            "organization": sought.organization_id,
            "owner": min(owners),
            "door": naming.door,
            "kind": str(kind),
        }
        await self.write(AuditEntry(naming.actor, AuditAction.FOREIGN_ID_NAMED, None, sought.name, detail))

    def _beyond(self, one: Naming | AuditEntry) -> _NotListed:
        """The caller's count of this minute; somebody will write it down."""
        if self._summing is None or self._summing.done():
            self._summing = asyncio.create_task(self._sum_up_later(), context=Context())
        organization_id = one.sought.organization_id if isinstance(one, Naming) else _organization_of(one)
        return self._not_listed.setdefault((one.actor, organization_id), _NotListed())

    async def _sum_up_later(self) -> None:
        while True:
            await asyncio.sleep(_SUMMED_UP_EVERY_S)
            await self._sum_up()
            if not self._not_listed:
                return

    async def _sum_up(self) -> None:
        for (actor, organization_id), count in list(self._not_listed.items()):
            foreign, unseen = count.foreign, count.unseen
            detail = {"organization": organization_id, "foreign": foreign, "not_looked_up": unseen}
            try:
                await self._audit.add(AuditEntry(actor, AuditAction.FOREIGN_IDS_NOT_LISTED, None, "", detail))
            except NubabelError as error:
                log.warning("foreign_id.not_summed_up", actor=actor, error=str(error), **detail)
                return
            count.foreign -= foreign
            count.unseen -= unseen
            if not (count.foreign or count.unseen):
                del self._not_listed[actor, organization_id]


def _organization_of(entry: AuditEntry) -> str | None:
    """The caller's, or whose refusal it is."""
    return entry.organization_id or entry.detail.get("organization")


async def _stop(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
