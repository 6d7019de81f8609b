"""Slack events that name another team, its threads and its people.

Threads, channels and people are looked for in the workspace whose installation the event came by: none names another's.
The button of a notice holds the id of an execution, which can be anybody's.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from nubabel_workers.domain.budget_button import ALLOW_MORE
from tests.tenancy.matrix import Cell, Seen, note
from tests.tenancy.world import ATTACKER, VICTIM, World

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

THREAD = "1700000000.000100"
_numbers = itertools.count(1)

_SAME_THREAD = "thread and channel of another workspace"
_NOT_INSTALLED = "a team that nobody installed"
_WAITS = "another's request that waits for its budget"
_WHOSE_TEAM = ("team_id", "authorizations", "both")


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
    note(request, ("Slack: event", position, _SAME_THREAD), Seen.NOT_NAMED)
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


@pytest.mark.parametrize("position", _WHOSE_TEAM)
async def test_the_event_of_a_team_that_is_not_installed_is_nobodys(
    position: str, world: World, request: pytest.FixtureRequest
) -> None:
    note(request, ("Slack: event", position, _NOT_INSTALLED), Seen.NO_CALLER)
    await world.clean_up()
    before, kept = await world.belongings(), await inbound(world)
    body = event(world, "T0NOBODY")
    if position == "team_id":
        body["authorizations"] = []
    body["event"]["team"] = world.victim.team

    await world.services.accept_slack_event.accept(body)

    assert await world.belongings() == before
    assert await inbound(world) == kept


def press(team: str, thread: str, execution_id: str) -> dict[str, Any]:
    """Of a button below a notice in that thread, for a request that was paused once."""
    return {
        "type": "block_actions",
        "team": {"id": team},
        "enterprise": None,
        "user": {"id": "U0SAME", "team_id": team},
        "channel": {"id": "C0SAME"},
        "message": {"ts": "1700000002.000100", "thread_ts": thread},
        "actions": [
            {
                "action_id": ALLOW_MORE,
                "value": f"{execution_id}:0.1.0:5",
                "action_ts": f"1700000003.{next(_numbers):06}",
            }
        ],
    }


_CLAIMS_OF_A_PRESS: Mapping[str, Callable[[dict[str, Any], str], object]] = {
    "actions.value": lambda _body, _team: None,
    "user.team_id": lambda body, team: body["user"].update(team_id=team),
    "message.team": lambda body, team: body["message"].update(team=team),
    "container.team_id": lambda body, team: body.update(container={"team_id": team}),
    "team_id": lambda body, team: body.update(team_id=team),
}


CELLS: list[Cell] = [
    *(("Slack: event", position, _SAME_THREAD) for position in _CLAIMS),
    *(("Slack: event", position, _NOT_INSTALLED) for position in _WHOSE_TEAM),
    *(("Slack: press of a button", position, _WAITS) for position in _CLAIMS_OF_A_PRESS),
]


@pytest.mark.parametrize("position", _CLAIMS_OF_A_PRESS)
async def test_a_press_lets_nothing_of_another_organization_go_on(
    position: str, world: World, request: pytest.FixtureRequest
) -> None:
    note(request, ("Slack: press of a button", position, _WAITS), Seen.AUDITED)
    await world.clean_up()
    own, victim, services = world.attacker, world.victim, world.services
    thread = f"1700000009.{next(_numbers):06}"
    await services.accept_slack_event.accept(event(world, victim.team, thread_ts=thread))
    await services.process_slack_events.run(None)
    system = services.database.system()
    theirs = await system.one(
        """UPDATE executions SET status = 'waiting_budget', waiting_for = 'budget', pauses = 1
           WHERE organization_id = %(id)s AND reply->>'thread_ts' = %(thread)s RETURNING id""",
        {"id": VICTIM, "thread": thread},
    )
    assert theirs is not None
    await system.execute(
        "UPDATE organizations SET budget_approvers = ARRAY['U0SAME'] WHERE id = %(id)s", {"id": ATTACKER}
    )
    services.tenants._organizations.clear()
    before, known = await world.belongings(), len(await world.refusals())
    body = press(own.team, thread, str(theirs["id"]))
    _CLAIMS_OF_A_PRESS[position](body, victim.team)

    await services.accept_slack_event.accept(body)
    await services.process_slack_events.run(None)

    assert await world.belongings() == before
    outcome = await system.one(
        "SELECT outcome FROM inbound_events WHERE kind = 'button' ORDER BY position DESC LIMIT 1"
    )
    assert outcome == {"outcome": "nothing to allow"}
    (refusal,) = (await world.refusals())[known:]
    assert refusal.actor.startswith("slack:wsp_")
    assert refusal.actor.endswith(":U0SAME")
    assert (refusal.subject, refusal.organization_id) == (theirs["id"], None)
    assert (refusal.detail["organization"], refusal.detail["owner"]) == (ATTACKER, VICTIM)


async def inbound(world: World) -> int:
    rows = await world.services.database.system().all("SELECT 1 FROM inbound_events")
    return len(rows)
