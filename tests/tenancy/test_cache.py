"""Whoever can write to the cache: what it says of sessions counts only as we wrote it. The rest is taken for not there:
nobody names anything by it, so there is nothing to be audited.
"""

import orjson
import pytest

from tests.tenancy.matrix import Cell, Seen, note
from tests.tenancy.world import ATTACKER, VICTIM, World

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

FORMS = ("poisoned", "another entry's copy", "not what we write", "empty list", "not JSON")


_TO_OURS = ("cache: OpenCode session to ours", "organization and session id")
_TO_OPENCODES = ("cache: our session to OpenCode's", "server and session id")
_ROOT = ("cache: root of a sub-agent's session", "session id")
CELLS: list[Cell] = [(*entry, form) for entry in (_TO_OURS, _TO_OPENCODES, _ROOT) for form in FORMS]


async def poison(world: World, key: str, value: list[str], form: str, sealed: str) -> None:
    """sealed: the key of a genuine entry of the victim."""
    genuine = await world.services.cache.get(sealed)
    stored = {
        "poisoned": orjson.dumps(value),
        "another entry's copy": genuine or "",
        "not what we write": orjson.dumps({"organization": value[0]}),
        "empty list": b"[]",
        "not JSON": b"\x00\xff",
    }[form]
    await world.services.cache.set(key, stored)


@pytest.mark.parametrize("form", FORMS)
async def test_a_poisoned_mapping_of_an_opencode_session_is_not_believed(
    form: str, world: World, request: pytest.FixtureRequest
) -> None:
    note(request, (*_TO_OURS, form), Seen.NOT_READ)
    own, victim = world.attacker, world.victim
    ours = own.opencode_sessions["running"]
    await world.services.mappings.session_of(victim.server, victim.opencode_sessions["running"])
    await poison(
        world,
        f"nubabel:opencode:{own.server}:{ours}",
        [VICTIM, victim.sessions["running"]],
        form,
        f"nubabel:opencode:{victim.server}:{victim.opencode_sessions['running']}",
    )

    found = await world.services.mappings.session_of(own.server, ours)
    answer = await world.callback(
        "/api/sidecar/mcp/tools", {"session_id": ours}, key=own.callback_key, instance=own.server
    )

    assert found == (ATTACKER, own.sessions["running"])
    assert world.leaks(answer.text) == []
    assert [provider["name"] for provider in answer.json()["providers"]] == [own.provider]


@pytest.mark.parametrize("form", FORMS)
async def test_a_poisoned_mapping_of_our_session_is_not_believed(
    form: str, world: World, request: pytest.FixtureRequest
) -> None:
    note(request, (*_TO_OPENCODES, form), Seen.NOT_READ)
    own, victim = world.attacker, world.victim
    await world.services.mappings.find(VICTIM, victim.sessions["running"])
    await poison(
        world,
        f"nubabel:session:{ATTACKER}:{own.sessions['running']}",
        [victim.server, victim.opencode_sessions["running"], "/"],
        form,
        f"nubabel:session:{VICTIM}:{victim.sessions['running']}",
    )

    found = await world.services.mappings.find(ATTACKER, own.sessions["running"])

    assert found is not None
    assert (found.instance_id, found.opencode_session_id) == (own.server, own.opencode_sessions["running"])


@pytest.mark.parametrize("form", FORMS)
async def test_a_poisoned_root_gives_a_sub_agent_no_other_parent(
    form: str, world: World, request: pytest.FixtureRequest
) -> None:
    note(request, (*_ROOT, form), Seen.NOT_READ)
    own, victim = world.attacker, world.victim
    child = "ses_childofnobody"
    await world.services.mappings.remember_root(victim.server, "ses_childofvictim", victim.opencode_sessions["running"])
    await poison(
        world,
        f"nubabel:root:{own.server}:{child}",
        [victim.opencode_sessions["running"]],
        form,
        f"nubabel:root:{victim.server}:ses_childofvictim",
    )
    before = await world.belongings()

    answer = await world.callback(
        "/api/sidecar/mcp/invoke",
        {"session_id": child, "call_id": form, "tool_name": "look", "arguments": {"name": "x"}},
        key=own.callback_key,
        instance=own.server,
    )

    assert await world.services.mappings.root_of(own.server, child) is None
    assert (answer.status_code, answer.json()["code"]) == (403, "session_not_served")
    assert world.leaks(answer.text) == []
    assert await world.belongings() == before
