"""Slack events that name another team, its threads and its people."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.tenancy.matrix import note
from tests.tenancy.world import ATTACKER, VICTIM, World

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

THREAD = "1700000000.000100"
_numbers = itertools.count(1)


def event(world: World, team: str, **changes: Any) -> dict[str, Any]:
    """A mention in the thread of that time, as Slack sends it for that team's installation."""
    return {
        "type": "event_callback",
        "event_id": world.services.chance.new_id("Ev"),
        "team_id": team,
        "authorizations": [{"team_id": team, "enterprise_id": None, "user_id": "UBOT", "is_bot": True}],
        "event": {
            "type": "app_mention",
            "channel_type": "channel",
            "channel": "C0SAME",
            "user": "U0SAME",
            "text": "<@UBOT> hello",
            "ts": f"1700000001.{next(_numbers):06}",
            "thread_ts": THREAD,
            "team": team,
            **changes,
        },
    }


_CLAIMS: Mapping[str, Callable[[dict[str, Any], str], object]] = {
    "nothing": lambda _body, _team: None,
    "event.team": lambda body, team: body["event"].update(team=team),
    "event.source_team": lambda body, team: body["event"].update(source_team=team),
    "event.user_team": lambda body, team: body["event"].update(user_team=team),
    "context_team_id": lambda body, team: body.update(context_team_id=team),
    "event.text": lambda body, team: body["event"].update(text=f"<@UBOT> {team}"),
}


@pytest.mark.parametrize("position", _CLAIMS)
async def test_a_thread_of_the_same_time_in_another_workspace_is_another_conversation(
    position: str, world: World, request: pytest.FixtureRequest
) -> None:
    note(request, "Slack: event", position, "thread and channel of another workspace")
    await world.clean_up()
    own, victim, services = world.attacker, world.victim, world.services
    theirs = event(world, victim.team)
    await services.accept_slack_event.accept(theirs)
    await services.process_slack_events.run(None)
    before = await world.belongings()
    body = event(world, own.team)
    _CLAIMS[position](body, victim.team)

    await services.accept_slack_event.accept(body)
    await services.process_slack_events.run(None)

    assert await world.belongings() == before
    rows = await services.database.system().all(
        """SELECT e.organization_id, e.session_id FROM executions e
           JOIN sessions s ON s.id = e.session_id WHERE s.session_key LIKE '%%' || %(thread)s
           ORDER BY e.position""",
        {"thread": THREAD},
    )
    sessions = {row["organization_id"]: row["session_id"] for row in rows}
    assert set(sessions) == {ATTACKER, VICTIM}
    assert sessions[ATTACKER] != sessions[VICTIM]


@pytest.mark.parametrize("position", ["team_id", "authorizations", "both"])
async def test_the_event_of_a_team_that_is_not_installed_is_nobodys(
    position: str, world: World, request: pytest.FixtureRequest
) -> None:
    note(request, "Slack: event", position, "a team that nobody installed")
    await world.clean_up()
    before, kept = await world.belongings(), await inbound(world)
    body = event(world, "T0NOBODY")
    if position == "team_id":
        body["authorizations"] = []
    body["event"]["team"] = world.victim.team

    await world.services.accept_slack_event.accept(body)

    assert await world.belongings() == before
    assert await inbound(world) == kept


async def inbound(world: World) -> int:
    rows = await world.services.database.system().all("SELECT 1 FROM inbound_events")
    return len(rows)
