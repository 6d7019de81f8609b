"""Sessions are kept, replaced, ended and bounded: for one organization and for all of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import pytest

from nubabel_workers.adapters.mcp.pool import SessionLimits, SessionPool
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.ids import OrganizationId, ToolConnectionId
from nubabel_workers.domain.tools import ConnectionKind, ConnectionStatus, ToolConnection, ToolCredentials
from tests.waiting import eventually

CREDENTIALS = ToolCredentials(1)


@dataclass(eq=False)
class FakeSession:
    connection: ToolConnection
    refuses: bool = False
    is_open: bool = False
    closed: bool = False

    async def open(self, *, timeout_s: float) -> None:
        if self.refuses:
            raise UnavailableError("not there")
        self.is_open = True

    async def close(self) -> None:
        self.is_open, self.closed = False, True


@dataclass
class Servers:
    """Makes sessions, and remembers them."""

    sessions: list[FakeSession] = field(default_factory=list)
    refuse: bool = False

    def new(self, connection: ToolConnection, _credentials: ToolCredentials) -> FakeSession:
        self.sessions.append(FakeSession(connection, self.refuse))
        return self.sessions[-1]

    def open(self) -> list[str]:
        return [one.connection.id for one in self.sessions if one.is_open]


def of(organization_id: str, number: int = 1, kind: ConnectionKind = ConnectionKind.HTTP) -> ToolConnection:
    return ToolConnection(
        ToolConnectionId(f"{organization_id}_{number}"),
        OrganizationId(organization_id),
        f"tools{number}",
        kind,
        ConnectionStatus.ACTIVE,
    )


@dataclass
class Stage:
    limits: SessionLimits = field(default_factory=SessionLimits)

    def __post_init__(self) -> None:
        self.servers = Servers()
        self.pool: SessionPool[FakeSession] = SessionPool(self.servers.new, self.limits, connect_s=1)
        self.calls = AsyncExitStack()

    async def use(self, connection: ToolConnection, credentials: ToolCredentials = CREDENTIALS) -> FakeSession:
        """For one call, which is over at once."""
        async with self.pool.session(connection, credentials) as session:
            return session

    async def begin(self, connection: ToolConnection, credentials: ToolCredentials = CREDENTIALS) -> FakeSession:
        """For a call that goes on until `calls` are closed."""
        return await self.calls.enter_async_context(self.pool.session(connection, credentials))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage(SessionLimits(sessions=4, sessions_of_one=2, processes=2, processes_of_one=1, wait_s=0))
    yield stage
    await stage.calls.aclose()
    await stage.pool.close()


async def test_a_session_serves_the_next_call_too(stage: Stage) -> None:
    assert await stage.use(of("a")) is await stage.use(of("a"))


async def test_organizations_never_share_a_session(stage: Stage) -> None:
    mine = of("a")
    theirs = replace(mine, organization_id=OrganizationId("b"))

    assert await stage.use(mine) is not await stage.use(theirs)


async def test_newer_credentials_get_a_new_session_and_calls_in_the_old_one_end_in_peace(stage: Stage) -> None:
    old = await stage.begin(of("a"))

    new = await stage.use(of("a"), ToolCredentials(2))

    assert new is not old
    assert old.is_open
    await stage.calls.aclose()
    await eventually(lambda: old.closed, what="the end of the old session")
    assert new.is_open


async def test_a_session_that_the_server_ended_is_replaced(stage: Stage) -> None:
    old = await stage.use(of("a"))
    old.is_open = False

    assert await stage.use(of("a")) is not old


async def test_a_session_that_could_not_be_begun_is_tried_again_by_the_next_call(stage: Stage) -> None:
    stage.servers.refuse = True
    with pytest.raises(UnavailableError):
        await stage.use(of("a"))
    stage.servers.refuse = False

    assert (await stage.use(of("a"))).is_open
    assert len(stage.pool) == 1


async def test_a_session_without_calls_ends_after_a_while() -> None:
    stage = Stage(SessionLimits(idle_s=0.01))
    session = await stage.use(of("a"))

    await eventually(lambda: session.closed, what="the end of the idle session")

    assert len(stage.pool) == 0


async def test_a_session_with_a_call_does_not_end() -> None:
    stage = Stage(SessionLimits(idle_s=0))
    session = await stage.begin(of("a"))

    for _ in range(10):
        await asyncio.sleep(0)

    assert session.is_open
    await stage.calls.aclose()
    await eventually(lambda: session.closed, what="the end of the idle session")


async def test_an_organization_makes_room_among_its_own_sessions_the_longest_unused_first(stage: Stage) -> None:
    await stage.use(of("b"))
    for number in (1, 2, 1, 3):
        await stage.use(of("a", number))

    await eventually(lambda: stage.servers.open() == ["b_1", "a_1", "a_3"], what="the end of a_2")


async def test_an_organization_that_uses_its_share_is_told_so_and_others_go_on(stage: Stage) -> None:
    await stage.begin(of("a", 1))
    await stage.begin(of("a", 2))

    with pytest.raises(UnavailableError, match="of this organization"):
        await stage.use(of("a", 3))

    assert (await stage.use(of("b"))).is_open
    assert (await stage.begin(of("a", 1))).is_open  # another call in one of its sessions


async def test_a_call_waits_until_a_session_of_its_organization_is_free() -> None:
    stage = Stage(SessionLimits(sessions_of_one=1))
    first = await stage.begin(of("a", 1))
    waiting = asyncio.create_task(stage.use(of("a", 2)))
    await asyncio.sleep(0)

    await stage.calls.aclose()

    assert (await waiting).is_open
    assert first.closed


async def test_an_organization_with_more_connections_than_sessions_asks_them_all_in_the_end() -> None:
    stage = Stage(SessionLimits(sessions_of_one=3))

    used = await asyncio.gather(*(stage.use(of("a", number)) for number in range(30)))

    assert len({one.connection.id for one in used}) == 30
    assert len(stage.pool) == 3


async def test_sessions_that_were_replaced_count_while_their_calls_go_on(stage: Stage) -> None:
    for revision in (1, 2):
        await stage.begin(of("a"), ToolCredentials(revision))

    with pytest.raises(UnavailableError, match="of this organization"):
        await stage.begin(of("a"), ToolCredentials(3))


async def test_the_longest_unused_session_of_all_ends_when_there_are_too_many(stage: Stage) -> None:
    for organization_id in "abcde":
        await stage.use(of(organization_id))

    await eventually(lambda: stage.servers.open() == ["b_1", "c_1", "d_1", "e_1"], what="the end of a_1")


async def test_when_all_are_in_use_nobody_is_thrown_out(stage: Stage) -> None:
    for organization_id in "abcd":
        await stage.begin(of(organization_id))

    with pytest.raises(UnavailableError, match="too many tools are in use"):
        await stage.use(of("e"))

    assert len(stage.servers.open()) == 4


async def test_started_servers_have_a_smaller_share(stage: Stage) -> None:
    await stage.begin(of("a", 1, ConnectionKind.COMMAND))

    with pytest.raises(UnavailableError, match="of this organization"):
        await stage.use(of("a", 2, ConnectionKind.COMMAND))

    assert (await stage.use(of("a", 3))).is_open


async def test_the_end_of_the_pool_ends_all_sessions_once(stage: Stage) -> None:
    await stage.begin(of("a"))
    await stage.use(of("b"))

    await stage.pool.close()

    assert [one.closed for one in stage.servers.sessions] == [True, True]
    assert len(stage.pool) == 0
