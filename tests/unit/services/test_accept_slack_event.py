"""The two events of a mention: stored once, and acknowledged only when that is committed."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from pydantic import SecretStr

from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.hints import HintTask
from nubabel_workers.domain.ids import OrganizationId, WorkspaceId
from nubabel_workers.domain.ports import InboundStore
from nubabel_workers.domain.slack_events import SlackEvent
from nubabel_workers.domain.tenants import BusyPolicy, Workspace
from nubabel_workers.services.accept_slack_event import AcceptSlackEvent
from tests.fakes.clock import START, FakeChance
from tests.fakes.hints import FakeHints
from tests.fakes.tenants import FakeTenants

BOT = "UBOT"
WORKSPACE = Workspace(
    id=WorkspaceId("wsp_1"),
    organization_id=OrganizationId("org_a"),
    team_id="T1",
    enterprise_id=None,
    team_name="Acme",
    bot_user_id=BOT,
    bot_id="BBOT",
    bot_token=SecretStr("xoxb-1"),
    installed=True,
    installed_at=START,
    busy_policy=BusyPolicy.QUEUE,
)


@dataclass
class SlowInbound:
    """Commits when it is let go on; may fail, or store nothing."""

    may_commit: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None
    stores: bool = True
    added: list[str] = field(default_factory=list)

    async def add(self, _workspace: Workspace, event: SlackEvent, **_context: str) -> str | None:
        self.added.append(event.event_id)
        await self.may_commit.wait()
        error, self.error = self.error, None
        if error is not None:
            raise error
        return f"evt_{event.event_id}" if self.stores else None


@pytest.fixture
def inbound() -> SlowInbound:
    return SlowInbound()


@pytest.fixture
def hints() -> FakeHints:
    return FakeHints()


@pytest.fixture
def accept(inbound: SlowInbound, hints: FakeHints) -> AcceptSlackEvent:
    tenants = FakeTenants(workspaces={WORKSPACE.id: WORKSPACE})
    return AcceptSlackEvent(tenants, cast("InboundStore", inbound), hints, FakeChance())


def event(kind: str, event_id: str, *, ts: str = "1.1") -> dict[str, Any]:
    inner = {
        "type": kind,
        "user": "U1",
        "text": f"<@{BOT}> hello",
        "ts": ts,
        "channel": "C1",
        "channel_type": "channel",
    }
    bot = {"team_id": "T1", "user_id": BOT, "is_bot": True}
    return {
        "type": "event_callback",
        "event_id": event_id,
        "team_id": "T1",
        "authorizations": [bot],
        "event": inner | {"event_ts": ts},
    }


async def until_waiting() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_twin_waits_for_the_first_ones_commit_and_stores_nothing(
    accept: AcceptSlackEvent, inbound: SlowInbound, hints: FakeHints
) -> None:
    first = asyncio.create_task(accept.accept(event("app_mention", "Ev1")))
    second = asyncio.create_task(accept.accept(event("message", "Ev2")))
    await until_waiting()
    assert not second.done()

    inbound.may_commit.set()
    await asyncio.gather(first, second)

    assert inbound.added == ["Ev1"]
    assert hints.rows(HintTask.PROCESS_SLACK_EVENTS) == ["evt_Ev1"]


async def test_a_twin_is_stored_when_the_first_one_could_not_be(
    accept: AcceptSlackEvent, inbound: SlowInbound, hints: FakeHints
) -> None:
    inbound.error = UnavailableError("the database is away")
    first = asyncio.create_task(accept.accept(event("app_mention", "Ev1")))
    second = asyncio.create_task(accept.accept(event("message", "Ev2")))
    await until_waiting()

    inbound.may_commit.set()
    with pytest.raises(UnavailableError):
        await first
    await second

    assert inbound.added == ["Ev1", "Ev2"]
    assert hints.rows(HintTask.PROCESS_SLACK_EVENTS) == ["evt_Ev2"]


async def test_what_was_not_stored_hides_nothing(accept: AcceptSlackEvent, inbound: SlowInbound) -> None:
    inbound.may_commit.set()
    inbound.stores = False
    await accept.accept(event("message", "Ev1"))

    inbound.stores = True
    await accept.accept(event("app_mention", "Ev2"))

    assert inbound.added == ["Ev1", "Ev2"]


async def test_a_twin_that_gives_up_waiting_takes_nobody_along(accept: AcceptSlackEvent, inbound: SlowInbound) -> None:
    first = asyncio.create_task(accept.accept(event("app_mention", "Ev1")))
    second = asyncio.create_task(accept.accept(event("message", "Ev2")))
    await until_waiting()

    second.cancel()
    await until_waiting()
    inbound.may_commit.set()
    await first
    await accept.accept(event("message", "Ev3"))

    assert inbound.added == ["Ev1"]


async def test_another_message_is_another_event(accept: AcceptSlackEvent, inbound: SlowInbound) -> None:
    inbound.may_commit.set()

    await accept.accept(event("app_mention", "Ev1", ts="1.1"))
    await accept.accept(event("app_mention", "Ev2", ts="1.2"))

    assert inbound.added == ["Ev1", "Ev2"]
