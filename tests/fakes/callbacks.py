"""What stands behind the callbacks of OpenCode's plugin, and a plugin that signs them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pydantic import SecretStr

from nubabel_workers.domain.callback_signature import SignedCall, signature_of
from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.ports import (
    Clock,
    ExecutionStore,
    OpenCodeServers,
    SessionMappings,
    SessionPlace,
    Throttle,
)
from nubabel_workers.domain.server_vitals import EventLagLimits, MemoryLimits
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.gateway.checks import reach_server
from nubabel_workers.gateway.dependencies import CallbackParts
from nubabel_workers.services.authenticate_callback import AuthenticateCallback
from nubabel_workers.services.call_tools_for_session import CallToolsForSession
from nubabel_workers.services.find_callback_session import FindCallbackSession
from nubabel_workers.services.hear_callbacks import HearCallbacks
from nubabel_workers.services.report_foreign_ids import ReportForeignIds
from nubabel_workers.services.watch_servers import WatchServers
from tests.fakes.administration import FakeAudit, FakeInstances
from tests.fakes.foreign_ids import FakeIdOwners
from tests.fakes.hints import FakeHints
from tests.fakes.incidents import FakeIncidents
from tests.fakes.progress import FakeProgress
from tests.fakes.tenants import FakeTenants
from tests.fakes.throttle import FakeThrottle
from tests.fakes.vitals import FakeVitals

KEY = SecretStr("nck_" + "k" * 43)
_nonces = itertools.count()


@dataclass
class FakeSessions:
    """Sessions by the ids they are known by, their runs, and what the OpenCode servers say of parents."""

    places: dict[str, SessionPlace] = field(default_factory=dict)
    running: dict[tuple[str, str], Execution] = field(default_factory=dict)  # (server, OpenCode session) -> run
    roots: dict[tuple[str, str], str] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)  # as mapped to a server, and then anywhere
    taken: list[str] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)  # how often a key is allowed
    error: Exception | None = None  # of the OpenCode server

    def add(self, session_id: str, organization_id: str, instance_id: str, opencode_session_id: str) -> None:
        place = SessionPlace(organization_id, session_id, instance_id, opencode_session_id)
        self.places[session_id] = self.places[opencode_session_id] = place

    async def session_of(self, instance_id: str, opencode_session_id: str) -> tuple[str, str] | None:
        self.looked_up.append(opencode_session_id)
        place = self.places.get(opencode_session_id)
        if place is None or (place.instance_id, place.opencode_session_id) != (instance_id, opencode_session_id):
            return None
        return place.organization_id, place.session_id

    async def root_of(self, instance_id: str, opencode_session_id: str) -> str | None:
        return self.roots.get((instance_id, opencode_session_id))

    async def remember_root(self, instance_id: str, opencode_session_id: str, root_id: str) -> None:
        self.roots[instance_id, opencode_session_id] = root_id

    async def session_anywhere(self, session_id: str) -> SessionPlace | None:
        self.looked_up.append(session_id)
        return self.places.get(session_id)

    async def running_by_opencode_session(self, instance_id: str, opencode_session_id: str) -> Execution | None:
        return self.running.get((instance_id, opencode_session_id))

    async def wake_by_sessions(self, instance_id: str, opencode_session_ids: Sequence[str]) -> list[str]:
        found = (self.running.get((instance_id, one)) for one in opencode_session_ids)
        return [run.id for run in found if run is not None]

    def server(self, instance: Instance) -> Any:
        return self

    async def parent_of(self, opencode_session_id: str) -> str | None:
        self.asked.append(opencode_session_id)
        if self.error is not None:
            raise self.error
        if opencode_session_id not in self.parents:
            raise NotFoundError("no such session")
        return self.parents[opencode_session_id]

    async def version(self) -> str:
        if self.error is not None:
            raise self.error
        return "1.18.33"

    async def take(self, key: str, *, per_s: float, limit: int, wanted: int = 1) -> int:
        self.taken.append(key)
        return wanted if self.taken.count(key) <= self.limits.get(key, limit) else 0


class FakeCallbacks:
    """The parts of the gateway that serve callbacks, with one server `ins_1`."""

    def __init__(
        self, tenants: FakeTenants, audit: FakeAudit, progress: FakeProgress, hints: FakeHints, clock: Clock
    ) -> None:
        self.sessions = FakeSessions()
        self.incidents = FakeIncidents()
        self.id_owners = FakeIdOwners()
        self.foreign_ids = ReportForeignIds(self.id_owners, audit, self.incidents, FakeThrottle(clock))
        self.instances = FakeInstances(rows={"ins_1": Instance(InstanceId("ins_1"), "http://oc", "", None)})
        self.instances.keys["ins_1"] = (KEY,)
        self.vitals = FakeVitals()
        self._clock = clock
        executions = cast("ExecutionStore", self.sessions)
        self.parts = CallbackParts(
            authenticate=AuthenticateCallback(self.instances, tenants, clock),
            find=FindCallbackSession(
                cast("SessionMappings", self.sessions),
                executions,
                self.instances,
                cast("OpenCodeServers", self.sessions),
                cast("Throttle", self.sessions),
                self.foreign_ids,
                self.incidents,
                clock,
                callbacks_per_s=100,
            ),
            hear=HearCallbacks(executions, progress, hints, self.foreign_ids),
            tools=CallToolsForSession(executions, self.foreign_ids),
            reach=reach_server(self.instances, cast("OpenCodeServers", self.sessions)),
            watch=WatchServers(self.vitals, memory=MemoryLimits(), events=EventLagLimits()),
        )

    def headers(self, path: str, body: bytes, key: SecretStr = KEY, **changes: str) -> dict[str, str]:
        """As the plugin sends them now. changes: of instance, timestamp, nonce, signature."""
        return signed_headers(path, body, key, now_s=int(self._clock.now().timestamp()), **changes)


def signed_headers(path: str, body: bytes, key: SecretStr, *, now_s: int, **changes: str) -> dict[str, str]:
    parts = {"instance": "ins_1", "timestamp": str(now_s), "nonce": f"nonce-{next(_nonces):016d}", **changes}
    call = SignedCall("POST", path.encode(), body)
    parts.setdefault("signature", signature_of(call, key, timestamp=parts["timestamp"], nonce=parts["nonce"]))
    return {"content-type": "application/json"} | {f"x-nubabel-{name}": value for name, value in parts.items()}


def running_on(sessions: FakeSessions, run: Execution, instance_id: str, opencode_session_id: str) -> None:
    placed = replace(run, instance_id=InstanceId(instance_id), opencode_session_id=opencode_session_id)
    sessions.running[instance_id, opencode_session_id] = placed
