"""Somebody named what is another organization's, and was told that there is no such thing: counted, for the alert, and
in the audit log.

Every door hands over what was sought and not found, be it another's or nobody's, and answers without waiting: neither
the answer nor its time says whether the id exists. The entry belongs to no organization: one of the caller's own would
show, in its export, that the id exists, and one of the owner's would name somebody else's token. Operators see both.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import structlog

from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.fair_line import FairLine
from nubabel_workers.domain.foreign_ids import Naming, kind_of
from nubabel_workers.domain.ports import Incident, Incidents, Throttle
from nubabel_workers.domain.ports.administration import AuditTrail, IdOwners

log = structlog.get_logger(__name__)

# Of one caller in one organization. Who asks again and again for what has expired attacks nobody: more is looked up
# than is written down.
LOOKED_UP_PER_MINUTE = 600
LISTED_PER_MINUTE = 60  # of one caller about one organization, of one kind
LISTED_OF_ALL_PER_MINUTE = 600  # of one caller
_MAX_WAITING_EACH = 100  # of one caller in one organization, in each of the two queues of a process
_MAX_WAITING = 2000  # of all together, in each queue
_LOOK_S = 10.0
_SUMMED_UP_EVERY_S = 60.0
_CLOSE_S = 5.0

One = TypeVar("One", Naming, AuditEntry)


@dataclass(frozen=True)
class _Share:
    """What is counted together: what one caller named in one organization, or was refused as of it.

    refusal: the action, where its entries are in the organization's own audit log; None: they are operators' alone.
    """

    actor: str
    organization_id: str | None
    refusal: str | None = None


@dataclass
class _NotListed:
    """What there was of one share beyond the limits. unseen: not looked up, may be nobody's."""

    refused: int = 0
    unseen: int = 0


@dataclass
class _Queue(Generic[One]):
    """working: who works it off, one after the other, while somebody waits."""

    waiting: FairLine[tuple[str, str | None], One] = field(
        default_factory=lambda: FairLine(places_each=_MAX_WAITING_EACH, places=_MAX_WAITING)
    )
    working: asyncio.Task[None] | None = None


class ReportForeignIds:
    """Safe to run twice: an attempt that is reported again is there twice.

    What is known to be a refusal waits apart from what has to be looked up first, so that a flood of ids that nobody
    has hides none.
    """

    def __init__(self, owners: IdOwners, audit: AuditTrail, incidents: Incidents, throttle: Throttle) -> None:
        self._owners = owners
        self._audit = audit
        self._incidents = incidents
        self._throttle = throttle
        self._named: _Queue[Naming] = _Queue()
        self._refused: _Queue[AuditEntry] = _Queue()
        self._not_listed: dict[_Share, _NotListed] = {}
        self._summing: asyncio.Task[None] | None = None

    def soon(self, naming: Naming) -> None:
        """For doors whose caller waits: returns at once, whatever was named."""
        if kind_of(naming.sought.name) is not None:
            self._put(self._named, naming, self.run)

    def refused(self, entry: AuditEntry) -> None:
        """For a door that knows already whose it is, and whose caller must not: listed soon, within the same bounds."""
        self._put(self._refused, entry, self._list)

    async def write(self, entry: AuditEntry) -> None:
        """For a refusal that hides nothing: listed now, within the same bounds."""
        if await self._may_be_listed(entry):
            await self._audit.add(entry)
        else:
            self._passed_over(entry)

    async def run(self, naming: Naming) -> None:
        """For doors whose caller sees no answer. Raises nothing: what cannot be looked up now is counted."""
        found: AuditEntry | None = None
        async with self._or_passed_over(naming):
            found = await self._look_up(naming)
        if found is not None:
            await self._list(found)

    async def settled(self) -> None:
        """When all that was handed over is looked up."""
        while working := [one for one in (self._named.working, self._refused.working) if one and not one.done()]:
            await asyncio.wait(working)

    async def close(self) -> None:
        """What waits is looked up, for a while; what there is beyond the limits is written down."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self.settled()
        for waiting in (self._named.waiting, self._refused.waiting):
            while (one := waiting.serve()) is not None:
                self._passed_over(one)
        await _stop(self._named.working)  # counts what it held, and may begin to sum up for that
        await _stop(self._refused.working)
        await _stop(self._summing)
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._sum_up()
        except TimeoutError:
            log.warning("foreign_id.not_summed_up", error="the process ends")

    def _put(self, queue: _Queue[One], one: One, work: Callable[[One], Awaitable[None]]) -> None:
        share = _share_of(one)
        without_place = queue.waiting.join((share.actor, share.organization_id), one)
        if without_place is not None:
            self._passed_over(without_place)
        if not _busy(queue.working):
            queue.working = _apart(_work_off(queue.waiting, work))

    async def _list(self, entry: AuditEntry) -> None:
        async with self._or_passed_over(entry):
            await self.write(entry)

    @asynccontextmanager
    async def _or_passed_over(self, one: Naming | AuditEntry) -> AsyncIterator[None]:
        """What fails, takes too long or is interrupted is counted; only an interruption is raised."""
        try:
            async with asyncio.timeout(_LOOK_S):
                yield
        except (NubabelError, TimeoutError) as error:
            log.warning("foreign_id.passed_over", actor=one.actor, error=str(error))
            self._passed_over(one)
        except Exception:  # a bug of one: what waits behind it is still served
            log.exception("foreign_id.passed_over", actor=one.actor)
            self._passed_over(one)
        except asyncio.CancelledError:
            self._passed_over(one)
            raise

    async def _look_up(self, naming: Naming) -> AuditEntry | None:
        """What operators are told; None where nobody else has it, and beyond the limit of looks."""
        sought, kind = naming.sought, kind_of(naming.sought.name)
        if kind is None:
            return None
        looks = f"foreign-ids:{naming.actor}:{sought.organization_id}"
        if not await self._throttle.take(looks, per_s=60, limit=LOOKED_UP_PER_MINUTE):
            self._passed_over(naming)
            return None
        owners = await self._owners.owners(kind, sought.name)
        if not owners or sought.organization_id in owners:
            return None
        log.warning("foreign_id.named", actor=naming.actor, organization_id=sought.organization_id, door=naming.door)
        self._incidents.count(Incident.FOREIGN_ID)
        detail = {
            "organization": sought.organization_id,
            "owner": min(owners),
            "door": naming.door,
            "kind": str(kind),
        }
        return AuditEntry(naming.actor, AuditAction.FOREIGN_ID_NAMED, None, sought.name, detail)

    async def _may_be_listed(self, entry: AuditEntry) -> bool:
        """An organization's share is its own: many call as one server, and one of them is to hide nothing of others."""
        share = f"foreign-ids-listed:{entry.actor}:{_organization_of(entry)}:{entry.action}"
        if not await self._throttle.take(share, per_s=60, limit=LISTED_PER_MINUTE):
            return False
        everybody = f"foreign-ids-listed:{entry.actor}"
        return await self._throttle.take(everybody, per_s=60, limit=LISTED_OF_ALL_PER_MINUTE) > 0

    def _passed_over(self, one: Naming | AuditEntry) -> None:
        """Counted for the minute's entry, which somebody will write down. What nobody looked at is heard of at once:
        the audit log may be what is away.
        """
        count = self._not_listed.setdefault(_share_of(one), _NotListed())
        if isinstance(one, Naming):
            count.unseen += 1
            self._incidents.count(Incident.FOREIGN_ID_UNSEEN)
        else:
            count.refused += 1
        if not _busy(self._summing):
            self._summing = _apart(self._sum_up_later())

    async def _sum_up_later(self) -> None:
        while True:
            await asyncio.sleep(_SUMMED_UP_EVERY_S)
            await self._sum_up()
            if not self._not_listed:
                return

    async def _sum_up(self) -> None:
        """Raises nothing: what cannot be written down stays counted."""
        for share, count in list(self._not_listed.items()):
            refused, unseen = count.refused, count.unseen
            entry = _summary(share, refused=refused, unseen=unseen)
            try:
                await self._audit.add(entry)
            except NubabelError as error:
                log.warning("foreign_id.not_summed_up", actor=share.actor, error=str(error), **entry.detail)
                return
            except Exception:  # a bug of one entry: the others are written down
                log.exception("foreign_id.not_summed_up", actor=share.actor, **entry.detail)
                continue
            count.refused -= refused
            count.unseen -= unseen
            if not (count.refused or count.unseen):
                del self._not_listed[share]


async def _work_off(waiting: FairLine[tuple[str, str | None], One], work: Callable[[One], Awaitable[None]]) -> None:
    while (one := waiting.serve()) is not None:
        await work(one)


def _share_of(one: Naming | AuditEntry) -> _Share:
    if isinstance(one, Naming):
        return _Share(one.actor, one.sought.organization_id)
    return _Share(one.actor, _organization_of(one), one.action if one.organization_id is not None else None)


def _summary(share: _Share, *, refused: int, unseen: int) -> AuditEntry:
    """Where the entries that it stands for are: in the organization's own log, or with the operators alone."""
    if share.refusal is not None:
        detail = {"action": share.refusal, "refused": refused}
        return AuditEntry(share.actor, AuditAction.REFUSALS_NOT_LISTED, share.organization_id, "", detail)
    counts = {"organization": share.organization_id, "foreign": refused, "not_looked_up": unseen}
    return AuditEntry(share.actor, AuditAction.FOREIGN_IDS_NOT_LISTED, None, "", counts)


def _organization_of(entry: AuditEntry) -> str | None:
    """The caller's, or whose refusal it is."""
    return entry.organization_id or entry.detail.get("organization")


def _apart(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.create_task(work, context=Context())  # without the log fields of the request


def _busy(task: asyncio.Task[None] | None) -> bool:
    return task is not None and not task.done()


async def _stop(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
