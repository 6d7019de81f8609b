"""On which OpenCode server an execution runs: its session's own, else the least loaded one that may serve it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from nubabel_workers.domain.circuit_breaker import Gate
from nubabel_workers.domain.directories import ROOM, own_directory
from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.tenants import Instance, ServersPolicy

FULL = "capacity"
AWAY = "server away"
ORCHESTRATOR_AWAY = "orchestrator away"
OWN = "own server"
PACE = "pace"

TAKE_BACK_S = 30.0
_FIRST_SHARE = 5  # a fifth of its capacity at once
_STAYS_TOGETHER_BELOW = 0.25  # of what its server takes, an organization's new sessions join those before; then spread

_ALL_CLOSED: Mapping[str, Gate] = MappingProxyType({})
_NONE_PLACED: Mapping[str, int] = MappingProxyType({})


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

    def free_slots(self) -> int:
        return sum(max(0, self._free(instance)) for instance in self._serving())

    def takes(self) -> Mapping[str, int]:
        """Runs that each server takes now, when nothing runs there."""
        return {instance.id: takes_now(instance) for instance in self._serving()}

    def place(
        self, execution: Execution, servers: ServersPolicy = ServersPolicy.SHARED, *, stays: bool = False
    ) -> Instance | None:
        """None: all that may serve it are full or away. A session stays where its history is, also while draining,
        but not on a server that its organization's policy does not allow.

        stays: its prompt may have arrived there; that is to be found out, whatever the policy says by now.
        """
        pinned = self._pinned(execution, servers, stays=stays)
        candidates = [pinned] if pinned else self._open_to(execution.organization_id, servers)
        free = [
            one
            for one in candidates
            if self._free(one) > 0
            and not one.refused
            and (one.healthy or one is pinned or self.is_probe(one))
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
        candidates = [pinned] if pinned else self._open_to(execution.organization_id, servers)
        if not candidates and servers is ServersPolicy.DEDICATED:
            return PlaceWait(OWN)
        usable = [
            one
            for one in candidates
            if one.id not in self._probes and not one.refused and (one.healthy or one is pinned)
        ]
        if any(self._free(one) > 0 for one in usable):
            return PlaceWait(ROOM)
        if usable or not candidates:
            return PlaceWait(FULL)
        return PlaceWait(AWAY, self._soonest(candidates))

    def all_away_for_s(self) -> float | None:
        """Seconds until the first breaker lets a probe go, where all servers' are open; else None."""
        serving = self._serving()
        return self._soonest(serving) if all(one.id in self._probes for one in serving) else None

    def pace_of(self, paced: Collection[str]) -> float | None:
        """Prompts a second that all servers take together, where each that can be asked is among the paced; else None.

        paced: servers that take no more prompts in this second.
        """
        closed = [one for one in self._serving() if one.id not in self._probes]
        exhausted = all(one.id in paced for one in closed)
        return float(sum(one.submits_per_second for one in closed)) if closed and exhausted else None

    def _soonest(self, instances: Sequence[Instance]) -> float | None:
        waits = [self._gates[instance.id].wait_s for instance in instances if instance.id in self._gates]
        return min((wait_s for wait_s in waits if wait_s > 0), default=None)

    def _preference(self, instance: Instance, execution: Execution) -> tuple[bool, bool, int, float, str]:
        """A quarter of a server is filled before its organizations get a directory on a second one; an idle directory
        is unloaded only where no server has a place left. Places that a server's own sessions wait for are the last.
        """
        load = (self._in_flight[instance.id] + self._awaited[instance.id]) / takes_now(instance)
        directories = self._directories[instance.id]
        if directories.houses(execution.organization_id) and load < _STAYS_TOGETHER_BELOW:
            rank = 0
        else:
            rank = 2 if directories.displaces(execution) else 1
        return not instance.healthy, load >= 1, rank, load, instance.id

    def _pinned(self, execution: Execution, servers: ServersPolicy, *, stays: bool) -> Instance | None:
        """Where its session's history is; None also when that server is given up, or not for it any more."""
        pinned = self._instances.get(execution.instance_id) if execution.instance_id else None
        if pinned is None or pinned.given_up:
            return None
        return pinned if stays or _may_serve(pinned, execution.organization_id, servers) else None

    def _serving(self) -> list[Instance]:
        return [instance for instance in self._instances.values() if instance.status in {"active", "draining"}]

    def _open_to(self, organization_id: str, servers: ServersPolicy) -> list[Instance]:
        """Servers for new sessions. A strained one is drained while there is another that is fit, even if that is full;
        where all are strained they go on: no server at all would be worse.
        """
        found = [
            i
            for i in self._instances.values()
            if i.status == "active" and not i.given_up and _may_serve(i, organization_id, servers)
        ]
        if any(one.is_fit and one.id not in self._gates for one in found):
            return [one for one in found if not one.strain]
        return found

    def _free(self, instance: Instance) -> int:
        free = takes_now(instance) - self._in_flight[instance.id]
        return min(free, self._probes.get(instance.id, free))


class _Directories:
    """The places of one server for organizations' directories, as they are taken."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._housed = set(instance.housed)
        self._free = instance.max_directories - instance.directories_taken
        self._idle = instance.directories_idle

    def houses(self, organization_id: str) -> bool:
        return organization_id in self._housed

    def has_room(self, execution: Execution) -> bool:
        return not self._wants_place(execution) or self._free > 0 or self._idle > 0

    def displaces(self, execution: Execution) -> bool:
        return self._wants_place(execution) and self._free <= 0

    def take(self, execution: Execution) -> None:
        if not self._wants_place(execution):
            return
        if self._free > 0:
            self._free -= 1
        else:
            self._idle -= 1
        self._housed.add(execution.organization_id)

    def _wants_place(self, execution: Execution) -> bool:
        """Not where the organization has one, nor for a session that lives in the server's common directory."""
        own = own_directory(self._instance, execution.organization_id)
        if own is None or execution.organization_id in self._housed:
            return False
        stays = execution.opencode_session_id is not None and execution.instance_id == self._instance.id
        return not stays or execution.opencode_directory == own.path


def _may_serve(instance: Instance, organization_id: str, servers: ServersPolicy) -> bool:
    """Only its own where it is to have its own, even if all are down; else none that is somebody's."""
    return instance.organization_id == (organization_id if servers is ServersPolicy.DEDICATED else None)
