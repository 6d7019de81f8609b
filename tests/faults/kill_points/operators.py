"""What operators type. One whose command is killed types it again, and what was changed is there once."""

from nubabel_workers.adapters.cache.connection import PREFIX
from nubabel_workers.embedded.stack_tenants import register_server
from nubabel_workers.services.manage_instances import NewInstance
from tests.faults.kill_points.conversations import Check, Scenario, Thread, answers, ask
from tests.faults.kill_points.lane import Lane
from tests.faults.kill_points.processes import CLI, LISTENER

QUIET_COMMANDS = (
    "audit",
    "dead-letters list",
    "dead-letters list --all",
    "doctor",
    "executions list",
    "instances list",
    "orgs list",
    "restored",
    "workspaces list",
)

_CALLBACK_KEYS = "instances WHERE id = %(id)s AND callback_key IS NOT NULL"


def _nothing_to_see() -> None:
    """Its rows were looked at already."""


async def new_organization(lane: Lane) -> Check:
    name = f"org-{lane.number():05d}"
    await lane.type_until_it_ends(f"orgs create {name}")
    assert await lane.count("organizations WHERE name = %(name)s", name=name) == 1
    assert await lane.count(_audited("organizations", "name"), name=name) == 1
    return _nothing_to_see


async def organization_is_changed(lane: Lane) -> Check:
    name = await _organization(lane)
    await lane.type_until_it_ends(f"orgs set-policy {name} --busy reject")
    await lane.type_until_it_ends(f"limits set {name} in_flight=7")
    for others in ("--end-now", "", "--keep-old"):
        await lane.type_until_it_ends(f"webhooks secret {name} {others}")
    await lane.type_until_it_ends(f"webhooks secret {name}", may_complain=True)  # a third beside two
    await lane.type_until_it_ends(f"webhooks secret {name} --end-old")
    assert await lane.count("organizations WHERE name = %(name)s AND previous_webhook_secret IS NULL", name=name) == 1
    changed = "organizations WHERE name = %(name)s AND busy_policy = 'reject' AND limits = '{\"in_flight\": 7}'"
    assert await lane.count(changed, name=name) == 1
    return _nothing_to_see


async def organization_is_disabled(lane: Lane) -> Check:
    name = await _organization(lane)
    await lane.type_until_it_ends(f"orgs disable {name}")
    assert await lane.count("organizations WHERE name = %(name)s AND disabled_at IS NOT NULL", name=name) == 1
    return _nothing_to_see


async def token_comes_and_goes(lane: Lane) -> Check:
    """A token that was made by a command that died was never shown: it is revoked like the other."""
    name = await _organization(lane)
    await lane.type_until_it_ends(f"tokens create {name} --org {name}")
    await lane.type_until_it_ends(f"tokens list --org {name}")
    for token in await lane.ids("service_tokens WHERE name = %(name)s", name=name):
        await lane.type_until_it_ends(f"tokens revoke {token}")
    assert await lane.count("service_tokens WHERE name = %(name)s AND revoked_at IS NULL", name=name) == 0
    return _nothing_to_see


async def submit_key_comes_and_goes(lane: Lane) -> Check:
    name = await _organization(lane)
    await lane.type_until_it_ends(f"submit-keys create {name} --org {name}")
    await lane.type_until_it_ends(f"submit-keys list --org {name}")
    for key in await lane.ids("submit_keys WHERE name = %(name)s", name=name):
        await lane.type_until_it_ends(f"submit-keys revoke {key}")
    assert await lane.count("submit_keys WHERE name = %(name)s AND revoked_at IS NULL", name=name) == 0
    return _nothing_to_see


async def keys_are_rotated(lane: Lane) -> Check:
    """What was encrypted stays readable: the thread gets its answer."""
    await lane.type_until_it_ends("keys rotate")
    thread = ask(lane, answers("Done."))
    await thread.until_told("Done.")
    return lambda: thread.check("Done.")


async def workspace_comes_and_goes(lane: Lane) -> Check:
    workspace = lane.slack.world.add_workspace(f"T{lane.number():05d}")
    lane.processes[CLI].environment["SECOND_TOKEN"] = workspace.bot_token
    await lane.type_until_it_ends(f"workspaces add {lane.tenant.id} --token-env SECOND_TOKEN")
    (added,) = await lane.ids("workspaces WHERE team_id = %(team)s", team=workspace.team_id)
    await lane.type_until_it_ends(f"workspaces remove {added}")
    assert await lane.count("workspaces WHERE id = %(id)s AND status = 'revoked'", id=added) == 1
    return _nothing_to_see


_CONNECTIONS = "mcp_connections WHERE organization_id = %(name)s"


async def connection_comes_and_goes(lane: Lane) -> Check:
    name = await _organization_with_tools(lane)
    await lane.type_until_it_ends(f"connections list --org {name}")
    await lane.type_until_it_ends(f"connections remove {name} tools")
    assert await lane.count(_CONNECTIONS, name=name) == 0
    return _nothing_to_see


async def connection_is_limited(lane: Lane) -> Check:
    name = await _organization_with_tools(lane)
    await lane.type_until_it_ends(f"connections allow {name} tools search")
    await lane.type_until_it_ends(f"connections repeat {name} tools --never")
    await lane.type_until_it_ends(f"connections set-default {name} tools")
    chosen = f"{_CONNECTIONS} AND is_default AND allowed_tools = '[\"search\"]' AND repeatable_tools = '[]'"
    assert await lane.count(chosen, name=name) == 1
    return _nothing_to_see


async def connection_rests(lane: Lane) -> Check:
    name = await _organization_with_tools(lane)
    await lane.type_until_it_ends(f"connections disable {name} tools")
    await lane.type_until_it_ends(f"connections enable {name} tools")
    assert await lane.count(f"{_CONNECTIONS} AND status = 'active'", name=name) == 1
    return _nothing_to_see


async def connection_is_checked(lane: Lane) -> Check:
    """Its server is out of bounds, which the check says and writes down."""
    name = await _organization_with_tools(lane)
    await lane.type_until_it_ends(f"connections set-token {name} tools --token-env TOOL_TOKEN")
    await lane.type_until_it_ends(f"connections check {name} tools", may_complain=True)
    assert await lane.count(f"{_CONNECTIONS} AND NOT healthy", name=name) == 1
    return _nothing_to_see


async def _organization_with_tools(lane: Lane) -> str:
    name = await _organization(lane)
    lane.processes[CLI].environment["TOOL_TOKEN"] = "t0ken"
    await lane.type_until_it_ends(
        f"connections add {name} --url https://127.1:1/mcp --name tools --token-env TOOL_TOKEN"
    )
    return name


async def server_comes_and_goes(lane: Lane) -> Check:
    """One that does not answer is registered, and the command says so. A listener tries to follow it until it goes."""
    url = _silent_server(lane)
    mark, kills = lane.mark(), lane.processes[LISTENER].kills

    def listener_did(call: str) -> bool:
        """Or was killed: the next one may never hear of a server that is gone by then."""
        return lane.made(LISTENER, call, mark) or lane.processes[LISTENER].kills > kills

    await lane.type_until_it_ends(f"instances add {url}", may_complain=True)
    (added,) = await lane.ids("instances WHERE url = %(url)s", url=url)

    async def is_followed() -> bool:
        """Reports may be those of other servers; the lease is on this one."""
        leased = await lane.services.cache.exists(f"{PREFIX}listeners:{added}")
        return bool(leased) or lane.processes[LISTENER].kills > kills

    await lane.until_true(is_followed, "the listener's lease on it")
    await lane.until(lambda: listener_did("instances.report_health"), "the listener's report")
    await lane.type_until_it_ends(f"instances remove {added}")
    await lane.until(lambda: listener_did("leadership.release"), "the listener's leaving")
    assert await lane.count("instances WHERE id = %(id)s AND status = 'removed'", id=added) == 1
    return _nothing_to_see


async def server_is_changed(lane: Lane) -> Check:
    """Apart from its coming and going, which takes long: each of these commands is killed at many points."""
    server = await register_server(lane.services, NewInstance(_silent_server(lane), "opencode", None, 50, 1000))
    for end_old in ("", "", " --end-old"):
        await lane.type_until_it_ends(f"instances callback-key {server.id}{end_old}")
    assert await lane.count(f"{_CALLBACK_KEYS} AND previous_callback_key IS NULL", id=server.id) == 1
    await lane.type_until_it_ends(f"instances set {server.id} --max-directories 5")
    assert await lane.count("instances WHERE id = %(id)s AND max_directories = 5", id=server.id) == 1
    await lane.database("UPDATE instances SET status = 'removed' WHERE id = %(id)s", id=server.id)
    return _nothing_to_see


def _silent_server(lane: Lane) -> str:
    """The URL of one that does not answer."""
    return f"http://127.0.0.1:1/{lane.number()}"


def looking(command: str) -> Scenario:
    """A command that changes nothing while all is quiet."""

    async def look(lane: Lane) -> Check:
        await lane.type_until_it_ends(command, may_complain=command == "doctor")
        return _nothing_to_see

    look.__name__ = f"nubabel {command}"
    return look


async def looking_at_one(lane: Lane) -> Check:
    thread = ask(lane, answers("Done."))
    await thread.until_told("Done.")
    *_, newest = await lane.ids("executions")
    await lane.type_until_it_ends(f"executions show {newest}")
    await lane.type_until_it_ends(f"orgs show {lane.tenant.id}")
    return lambda: thread.check("Done.")


async def dead_letter_is_discarded(lane: Lane) -> Check:
    thread = await _dead_letter(lane)
    *_, letter = await lane.ids("dead_letters WHERE status = 'open'")
    await lane.type_until_it_ends(f"dead-letters show {letter}")
    await lane.type_until_it_ends(f"dead-letters discard {letter} --because known")
    assert await lane.count("dead_letters WHERE id = %(id)s AND status = 'discarded'", id=letter) == 1
    return lambda: thread.check("Sorry")


async def dead_letters_are_discarded_together(lane: Lane) -> Check:
    thread = await _dead_letter(lane)
    await lane.type_until_it_ends("dead-letters discard --all --because known")
    assert await lane.count("dead_letters WHERE status = 'open'") == 0
    return lambda: thread.check("Sorry")


async def dead_letters_are_replayed_together(lane: Lane) -> Check:
    """One that has been replayed by a command that died is not replayed again by the next."""
    await lane.database("UPDATE dead_letters SET status = 'discarded' WHERE status = 'open'")
    thread = await _dead_letter(lane)
    await lane.type_until_it_ends("dead-letters replay --all --dry-run")
    await lane.type_until_it_ends("dead-letters replay --all")
    await thread.until_told_again("Sorry")
    return lambda: thread.check_again("Sorry")


async def _dead_letter(lane: Lane) -> Thread:
    thread = ask(lane, f"[[status=400]] [[times=1]] {answers('Done.')}")
    await thread.until_told("Sorry")
    await lane.until_quiet()
    return thread


async def _organization(lane: Lane) -> str:
    name = f"org-{lane.number():05d}"
    await lane.database("INSERT INTO organizations (id, name) VALUES (%(name)s, %(name)s)", name=name)
    return name


def _audited(table: str, column: str) -> str:
    return f"audit_log WHERE organization_id = (SELECT id FROM {table} WHERE {column} = %({column})s)"
