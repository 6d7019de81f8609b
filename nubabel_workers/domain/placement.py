"""On which OpenCode server an execution runs: its session's own, else the least loaded one that may serve it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from nubabel_workers.domain.circuit_breaker import Gate
from nubabel_workers.domain.directories import ROOM, own_directory
from nubabel_workers.domain.executions import Execution, SessionLeft
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.tenants import Instance, ServersPolicy

FULL = "capacity"
AWAY = "server away"
ORCHESTRATOR_AWAY = "orchestrator away"
OWN = "own server"
PACE = "pace"

TAKE_BACK_S = 30.0
NO_SERVER_WAIT_S = 2.0
_FIRST_SHARE = 5  # a fifth of its capacity at once
_STAYS_TOGETHER_BELOW = 0.25  # of what its server takes, an organization's new sessions join those before; then spread

_ALL_CLOSED: Mapping[str, Gate] = MappingProxyType({})
_NONE_PLACED: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Pool:
    """Servers that one line of requests goes to: an organization's own, or the shared ones, everybody else's.

    takes: runs that each takes now, when nothing runs there, by its id; None: none of them takes new sessions, so that
    what is ready is taken to find out where its session is, or to be told what it waits for. free: of them, how many
    are free. away_for_s: where all servers' breakers are open, seconds until the first lets a probe go; where there is
    no server, until the next look for one; else None. submits_per_second: prompts that each takes which can be asked.
    """

    organization_id: str | None
    takes: Mapping[InstanceId, int] | None
    free: int | None
    away_for_s: float | None
    submits_per_second: Mapping[str, int]

    def pace_of(self, paced: Collection[str]) -> float | None:
        """Prompts a second that all servers take together, where each that can be asked is among the paced; else None.

        paced: servers that take no more prompts in this second.
        """
        exhausted = self.submits_per_second and self.submits_per_second.keys() <= set(paced)
        return float(sum(self.submits_per_second.values())) if exhausted else None


@dataclass(frozen=True)
class PlaceWait:
    """Why there is no place now. wait_s: until there may be one; None where nobody knows."""

    reason: str
    wait_s: float | None = None


def takes_now(instance: Instance) -> int:
    """Runs that a server may have at this moment: all of its capacity, or less in the half minute after it came back.

    A server that has just started loads each directory again, a second of CPU each, and would be away once more if all
    that waited for it came at once (measured on opencode 1.18.33: fifty directories at once block it for 43 s).
    """
    capacity = instance.capacity_runs
    if instance.recovered_ago_s is None or instance.recovered_ago_s >= TAKE_BACK_S:
        return capacity
    first = max(1, capacity // _FIRST_SHARE)
    return first + int((capacity - first) * max(0.0, instance.recovered_ago_s) / TAKE_BACK_S)


class Placement:
    """Server loads at one moment; each placed execution counts at once, so that a batch spreads.

    gates: of servers whose circuit breaker is not closed; they get one execution, as the probe, or none. placed: how
    many were placed on each that its load does not tell of yet.
    """

    def __init__(
        self,
        instances: Sequence[Instance],
        gates: Mapping[str, Gate] = _ALL_CLOSED,
        placed: Mapping[str, int] = _NONE_PLACED,
    ) -> None:
        self._instances = {instance.id: instance for instance in instances}
        self._in_flight = {instance.id: instance.in_flight + placed.get(instance.id, 0) for instance in instances}
        self._awaited = {instance.id: instance.awaited for instance in instances}
        self._directories = {instance.id: _Directories(instance) for instance in instances}
        self._gates = gates
        self._probes = {instance_id: int(gate.lets_probe) for instance_id, gate in gates.items()}

    def pool(self, organization_id: str | None) -> Pool:
        """Of that organization, as one that has servers of its own; None: of those that share theirs."""
        theirs = [one for one in self._serving() if one.organization_id == organization_id]
        open_to = {one.id for one in self._open_in(organization_id) if self._answers(one)}
        takes = {one.id: self._takes(one, is_open=one.id in open_to) for one in theirs}
        return Pool(
            organization_id,
            takes=takes if open_to else None,
            free=sum(max(0, n - self._in_flight[one]) for one, n in takes.items()) if open_to else None,
            away_for_s=self._away_for_s(theirs, organization_id),
            submits_per_second={
                one.id: one.submits_per_second for one in theirs if one.id in open_to and one.id not in self._probes
            },
        )

    def place(
        self, execution: Execution, servers: ServersPolicy = ServersPolicy.SHARED, *, stays: bool = False
    ) -> Instance | None:
        """None: all that may serve it are full or away. A session stays where its history is, also while draining,
        but not on a server that its organization's policy does not allow.

        stays: its prompt may have arrived there; that is to be found out, whatever the policy says by now.
        """
        pinned = self._pinned(execution, servers, stays=stays)
        candidates = [pinned] if pinned else self._open_in(pool_of(execution.organization_id, servers))
        free = [
            one
            for one in candidates
            if self._free(one) > 0
            and (self._answers(one) or (one is pinned and not one.refused))
            and self._directories[one.id].has_room(execution)
        ]
        if not free:
            return None
        chosen = min(free, key=lambda one: self._preference(one, execution))
        self._in_flight[chosen.id] += 1
        if chosen is pinned:
            self._awaited[chosen.id] = max(0, self._awaited[chosen.id] - 1)
        self._directories[chosen.id].take(execution)
        if chosen.id in self._probes:
            self._probes[chosen.id] -= 1
        return chosen

    def is_probe(self, instance: Instance) -> bool:
        """Whether what was placed there is the one call that decides whether its breaker closes."""
        return instance.id in self._probes

    def wait_for(
        self, execution: Execution, servers: ServersPolicy = ServersPolicy.SHARED, *, stays: bool = False
    ) -> PlaceWait:
        """What an execution that got no place waits for."""
        pinned = self._pinned(execution, servers, stays=stays)
        candidates = [pinned] if pinned else self._open_in(pool_of(execution.organization_id, servers))
        if not candidates and servers is ServersPolicy.DEDICATED:
            return PlaceWait(OWN)
        usable = [
            one
            for one in candidates
            if one.id not in self._probes and not one.refused and (one.healthy or one is pinned)
        ]
        if any(self._free(one) > 0 for one in usable):
            return PlaceWait(ROOM)
        if usable:
            return PlaceWait(FULL)
        return PlaceWait(AWAY, self._soonest(candidates))

    def _away_for_s(self, theirs: Sequence[Instance], pool: str | None) -> float | None:
        """Whoever has no server of its own may still have a prompt on a shared one, which is to be found."""
        if not theirs:
            return NO_SERVER_WAIT_S if pool is None else None
        return self._soonest(theirs) if all(one.id in self._probes for one in theirs) else None

    def _soonest(self, instances: Sequence[Instance]) -> float | None:
        waits = [self._gates[instance.id].wait_s for instance in instances if instance.id in self._gates]
        return min((wait_s for wait_s in waits if wait_s > 0), default=None)

    def _preference(self, instance: Instance, execution: Execution) -> tuple[bool, bool, int, int, float, int, str]:
        """A quarter of a server is filled before its organizations get a directory on a second one; an idle directory
        is unloaded only where no server has a place left. Places that a server's own sessions wait for are the last.

        A directory is made where the fewest are waited for, whatever the load: a server loads one a second.
        """
        load = (self._in_flight[instance.id] + self._awaited[instance.id]) / takes_now(instance)
        directories = self._directories[instance.id]
        if directories.houses(execution.organization_id) and load < _STAYS_TOGETHER_BELOW:
            rank = 0
        else:
            rank = 2 if directories.displaces(execution) else 1
        awaited = directories.awaited if directories.wants_place(execution) else 0
        return not instance.healthy, load >= 1, rank, awaited, load, directories.taken, instance.id

    def _pinned(self, execution: Execution, servers: ServersPolicy, *, stays: bool) -> Instance | None:
        """Where its session's history is; None also when that server is given up, or not for it any more."""
        pinned = self._instances.get(execution.instance_id) if execution.instance_id else None
        if pinned is None or pinned.given_up:
            return None
        return pinned if stays or _may_serve(pinned, execution.organization_id, servers) else None

    def _serving(self) -> list[Instance]:
        return [instance for instance in self._instances.values() if instance.status in {"active", "draining"}]

    def _open_in(self, pool: str | None) -> list[Instance]:
        """Servers for new sessions. A strained one is drained while there is another that is fit, even if that is full;
        where all are strained they go on: no server at all would be worse.
        """
        found = [
            one
            for one in self._instances.values()
            if one.status == "active" and not one.given_up and one.organization_id == pool
        ]
        if any(one.is_fit and one.id not in self._gates for one in found):
            return [one for one in found if not one.strain]
        return found

    def _answers(self, instance: Instance) -> bool:
        return not instance.refused and (instance.healthy or self.is_probe(instance))

    def _takes(self, instance: Instance, *, is_open: bool) -> int:
        """One that gets no new session has places for its own ones that wait, and keeps them from nobody else."""
        in_flight, takes = self._in_flight[instance.id], takes_now(instance)
        if not is_open:
            return min(takes, in_flight + self._awaited[instance.id])
        return min(takes, in_flight + self._probes.get(instance.id, takes))

    def _free(self, instance: Instance) -> int:
        free = takes_now(instance) - self._in_flight[instance.id]
        return min(free, self._probes.get(instance.id, free))


class _Directories:
    """The places of one server for organizations' directories, as they are taken. awaited: not loaded yet."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._housed = set(instance.housed)
        self.taken = instance.directories_taken
        self.awaited = instance.directories_awaited
        self._idle = instance.directories_idle

    def houses(self, organization_id: str) -> bool:
        return organization_id in self._housed

    def has_room(self, execution: Execution) -> bool:
        return not self.wants_place(execution) or self._has_free or self._idle > 0

    def displaces(self, execution: Execution) -> bool:
        return self.wants_place(execution) and not self._has_free

    def take(self, execution: Execution) -> None:
        if not self.wants_place(execution):
            return
        if self._has_free:
            self.taken += 1
        else:
            self._idle -= 1
        self.awaited += 1
        self._housed.add(execution.organization_id)

    @property
    def _has_free(self) -> bool:
        return self.taken < self._instance.max_directories

    def wants_place(self, execution: Execution) -> bool:
        """Not where the organization has one, nor for a session that lives in the server's common directory."""
        own = own_directory(self._instance, execution.organization_id)
        if own is None or execution.organization_id in self._housed:
            return False
        stays = execution.opencode_session_id is not None and execution.instance_id == self._instance.id
        return not stays or execution.opencode_directory == own.path


def why_left(instance: Instance | None, organization_id: str, servers: ServersPolicy) -> SessionLeft:
    """Of the server that a session had, when it is placed on another one."""
    if instance is None or instance.status == "removed":
        return SessionLeft.REMOVED
    return SessionLeft.GIVEN_UP if _may_serve(instance, organization_id, servers) else SessionLeft.POLICY


def _may_serve(instance: Instance, organization_id: str, servers: ServersPolicy) -> bool:
    """Only its own where it is to have its own, even if all are down; else none that is somebody's."""
    return instance.organization_id == pool_of(organization_id, servers)


def pool_of(organization_id: str, servers: ServersPolicy) -> str | None:
    """The pool that an organization's requests are placed in: its own, or None, the shared one."""
    return organization_id if servers is ServersPolicy.DEDICATED else None
