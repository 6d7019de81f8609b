"""Who renews tokens, who waits for them, and what becomes of a failure."""

import asyncio

import pytest
from pydantic import SecretStr

from nubabel_workers.domain.errors import (
    CredentialsError,
    InvalidInputError,
    NotFoundError,
    RateLimitedError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.ids import OrganizationId, ToolConnectionId
from nubabel_workers.domain.oauth import Grant, OAuthClient, Tokens
from nubabel_workers.domain.ports.tools import RefreshLease
from nubabel_workers.domain.tool_connections import Authentication, ConnectionDetails
from nubabel_workers.domain.tools import ConnectionKind, ConnectionStatus, ToolConnection
from nubabel_workers.services.grant_tool_access import GrantToolAccess, RefreshLimits
from tests.fakes.clock import FakeChance, FakeClock
from tests.fakes.connections import CREATED, FakeAuthorizationServers, FakeConnectionStore

ACME, ONE = OrganizationId("org_acme"), ToolConnectionId("mcp_1")
GRANT = Grant("i", "a", "t", "r", "u", OAuthClient("c", None, "none"))


class HeldElsewhere(FakeConnectionStore):
    """Another process holds the lease, and ends its renewal after so many looks."""

    looks = 0
    ends_after = 3

    async def begin_refresh(
        self, organization_id: str, connection_id: str, *, revision: int, owner: str, lease_s: float
    ) -> RefreshLease:
        self.looks += 1
        if self.looks == self.ends_after:
            self._store(connection_id, Tokens(SecretStr("theirs"), SecretStr("r2"), 3600))
        return RefreshLease.HELD


def filled(store: FakeConnectionStore, *, expires_in_s: float | None, refresh: bool = True) -> FakeConnectionStore:
    connection = ToolConnection(ONE, ACME, "wiki", ConnectionKind.HTTP, ConnectionStatus.ACTIVE, url="https://mcp")
    store.rows[ONE] = ConnectionDetails(connection, Authentication.OAUTH, CREATED, revision=1)
    store.secrets[ONE] = {"access": SecretStr("old")} | ({"refresh": SecretStr("r1")} if refresh else {})
    store.grants[ONE] = GRANT
    store.expires_in_s[ONE] = expires_in_s
    return store


def access_to(
    store: FakeConnectionStore, servers: FakeAuthorizationServers, clock: FakeClock | None = None
) -> GrantToolAccess:
    limits = RefreshLimits(look_every_s=0)
    return GrantToolAccess(store, store, servers, clock or FakeClock(), FakeChance(), limits=limits)


async def test_callers_of_one_process_share_one_renewal() -> None:
    store, servers = filled(FakeConnectionStore(), expires_in_s=10), FakeAuthorizationServers(hold=asyncio.Event())
    access = access_to(store, servers)
    callers = [asyncio.create_task(access.access(ACME, ONE)) for _ in range(20)]
    await asyncio.sleep(0)

    assert servers.hold is not None
    servers.hold.set()
    got = await asyncio.gather(*callers)

    assert {one.headers["Authorization"] for one in got} == {"Bearer access-1"}
    assert servers.refreshed == ["r1"]


async def test_what_another_process_renews_is_waited_for() -> None:
    store, servers = filled(HeldElsewhere(), expires_in_s=-1), FakeAuthorizationServers()

    got = await access_to(store, servers).access(ACME, ONE)

    assert (got.headers, got.revision) == ({"Authorization": "Bearer theirs"}, 2)
    assert servers.refreshed == []


async def test_the_wait_for_another_process_has_an_end() -> None:
    class Impatient(FakeClock):
        def monotonic(self) -> float:
            self.advance(1)
            return super().monotonic()

    store = filled(HeldElsewhere(), expires_in_s=-1)
    assert isinstance(store, HeldElsewhere)
    store.ends_after = 1000

    with pytest.raises(UnavailableError) as busy:
        await access_to(store, FakeAuthorizationServers(), Impatient()).access(ACME, ONE)

    assert busy.value.retry_after_s is not None


@pytest.mark.parametrize("trouble", [UnavailableError("away"), RateLimitedError("slow"), UncertainError("silent")])
async def test_a_token_that_still_lasts_serves_when_it_cannot_be_renewed(trouble: Exception) -> None:
    store, servers = filled(FakeConnectionStore(), expires_in_s=10), FakeAuthorizationServers(answers=[trouble])

    got = await access_to(store, servers).access(ACME, ONE)

    assert got.revision == 1
    assert store.leases == {}
    assert (ONE in store.in_doubt) == isinstance(trouble, UncertainError)


async def test_a_token_that_the_server_refused_does_not_serve_although_it_lasts() -> None:
    store = filled(FakeConnectionStore(), expires_in_s=1000)
    servers = FakeAuthorizationServers(answers=[UnavailableError("away")])

    with pytest.raises(UnavailableError):
        await access_to(store, servers).access(ACME, ONE, refused_revision=1)


async def test_an_endpoint_that_came_out_of_bounds_gives_the_lease_back() -> None:
    store = filled(FakeConnectionStore(), expires_in_s=10)
    servers = FakeAuthorizationServers(answers=[InvalidInputError("not public", code="egress_refused")])

    with pytest.raises(InvalidInputError):
        await access_to(store, servers).access(ACME, ONE)

    assert (store.leases, store.in_doubt) == ({}, set())


async def test_what_ended_and_cannot_be_renewed_is_refused_and_told_once() -> None:
    store = filled(FakeConnectionStore(), expires_in_s=-1, refresh=False)
    access = access_to(store, FakeAuthorizationServers())

    for _ in range(2):
        with pytest.raises(CredentialsError):
            await access.access(ACME, ONE, execution_id="exe_1")

    ((connection_id, reason, execution_id),) = store.refusals
    assert (connection_id, execution_id) == (ONE, "exe_1")
    assert "nothing to renew it with" in reason


async def test_a_token_without_an_end_is_used_until_it_is_refused() -> None:
    store = filled(FakeConnectionStore(), expires_in_s=None, refresh=False)
    access = access_to(store, FakeAuthorizationServers())

    assert (await access.access(ACME, ONE)).revision == 1
    with pytest.raises(CredentialsError) as refused:
        await access.access(ACME, ONE, refused_revision=1)
    assert refused.value.code == "connection_refused"


async def test_another_organization_gets_nothing() -> None:
    access = access_to(filled(FakeConnectionStore(), expires_in_s=None), FakeAuthorizationServers())

    with pytest.raises(NotFoundError):
        await access.access("org_other", ONE)


async def test_a_process_that_stood_still_under_its_lease_shows_no_refresh_token() -> None:
    class StoodStill(FakeConnectionStore):
        clock = FakeClock()
        stood = 0

        async def begin_refresh(
            self, organization_id: str, connection_id: str, *, revision: int, owner: str, lease_s: float
        ) -> RefreshLease:
            if self.stood == 0:
                self.stood += 1
                self.clock.advance(lease_s)
                self._store(connection_id, Tokens(SecretStr("theirs"), SecretStr("r2"), 3600))
                return RefreshLease.TAKEN
            return await super().begin_refresh(
                organization_id, connection_id, revision=revision, owner=owner, lease_s=lease_s
            )

    store, servers = StoodStill(), FakeAuthorizationServers()
    filled(store, expires_in_s=-1)

    got = await access_to(store, servers, store.clock).access(ACME, ONE)

    assert got.headers == {"Authorization": "Bearer theirs"}
    assert servers.refreshed == []
