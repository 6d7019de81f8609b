"""Commands for one organization, with another's names."""

import asyncio
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from nubabel_workers.adapters.storage.row_sets import TENANT_TABLES
from nubabel_workers.cli import command_settings
from nubabel_workers.cli.main import app
from nubabel_workers.domain.administration import AuditAction
from tests.tenancy.matrix import Cell, Seen, note
from tests.tenancy.world import ATTACKER, VICTIM, Side, World, bearer

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

# Command -> its words behind --org, with the victim's ids. Those without any list what the organization has.
_COMMANDS: Mapping[str, Callable[[Side], tuple[str, ...]]] = {
    "executions list": lambda _: (),
    "batches list": lambda _: (),
    "tool-calls list": lambda _: (),
    "dead-letters list": lambda _: (),
    "tokens list": lambda _: (),
    "submit-keys list": lambda _: (),
    "workspaces list": lambda _: (),
    "connections list": lambda _: (),
    "audit": lambda _: (),
    "usage --by": lambda _: ("organization,user,session,model,day",),
    "tool-calls list --execution": lambda side: (side.executions["running"],),
    "tool-calls list --session": lambda side: (side.sessions["running"],),
    "tool-calls list --provider": lambda side: (side.provider,),
}


_FORMS = ("text", "JSON")
_OF_CONNECTIONS, _NAMED_BY = ("show", "check", "disable", "enable", "remove"), ("id", "provider")
_EXPORT: Cell = ("nubabel orgs export", "ORG", "own")


def _of_command(command: str, form: str) -> Cell:
    name, _, option = command.partition(" --")
    return f"nubabel {name}", f"--{option}" if option else "--org", form


def _of_connection(command: str, position: str) -> Cell:
    return f"nubabel connections {command}", position, "another's"


CELLS = [
    *(_of_command(command, form) for command in _COMMANDS for form in _FORMS),
    *(_of_connection(command, position) for command in _OF_CONNECTIONS for position in _NAMED_BY),
    _EXPORT,
]


def typed(world: World, words: list[str]) -> Result:
    """In a thread: a command has an event loop of its own."""
    settings = world.services.settings
    environment = {
        "NUBABEL_ENVIRONMENT": "development",
        "NUBABEL_DATABASE_URL": settings.database_url.get_secret_value(),
        "NUBABEL_BROKER_URL": settings.broker_url.get_secret_value(),
        "NUBABEL_CACHE_URL": settings.cache_url.get_secret_value(),
        "NUBABEL_ENCRYPTION_KEYS": settings.encryption_keys[0].get_secret_value(),
        "COLUMNS": "250",
    }
    with capture_logs():
        return CliRunner().invoke(app, words, env=environment, prog_name="nubabel")


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("command", _COMMANDS)
async def test_a_command_for_one_organization_shows_nothing_of_another(
    command: str,
    form: str,
    world: World,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    name, _, option = command.partition(" --")
    expected = Seen.AUDITED if option in {"execution", "session"} else Seen.NOT_NAMED
    note(request, _of_command(command, form), expected)
    monkeypatch.chdir(tmp_path)  # no .env of a developer
    monkeypatch.setattr(command_settings, "configure_logging", lambda **_: None)
    named = _COMMANDS[command](world.victim)
    words = [*name.split(), "--org", ATTACKER, *([f"--{option}"] if option else []), *named]
    before, known = await world.belongings(), len(await world.refusals())

    result = await asyncio.to_thread(typed, world, [*words, *(["--json"] if form == "JSON" else [])])

    assert result.exit_code == 0, result.output
    assert world.leaks(result.output, sent=named) == []
    assert await world.belongings() == before
    refusals = (await world.refusals())[known:]
    assert [one.subject for one in refusals] == ([*named] if expected is Seen.AUDITED else [])


async def test_an_export_holds_nothing_of_another_organization(
    world: World, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    note(request, _EXPORT, Seen.NOT_NAMED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_settings, "configure_logging", lambda **_: None)
    await names_the_others_execution(world)
    before = await world.belongings()

    result = await asyncio.to_thread(typed, world, ["orgs", "export", ATTACKER, "--to", str(tmp_path / "own.zip")])

    assert result.exit_code == 0, result.output
    with zipfile.ZipFile(tmp_path / "own.zip") as archive:
        exported = "".join(archive.read(name).decode() for name in archive.namelist())
    assert ATTACKER in exported
    assert world.leaks(exported, sent=TENANT_TABLES) == []
    assert await world.belongings() == before


async def names_the_others_execution(world: World) -> str:
    """And is refused, which is in the audit log."""
    stolen = world.victim.executions["running"]
    await world.http.get(f"{world.gateway.url}/v1/executions/{stolen}", headers=bearer(world.attacker.token))
    assert (await world.refusals())[-1].subject == stolen
    return stolen


@pytest.mark.parametrize("side", [ATTACKER, VICTIM])
async def test_who_named_whose_id_is_for_operators_and_not_for_either_side(
    side: str, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_settings, "configure_logging", lambda **_: None)
    stolen = await names_the_others_execution(world)

    of_side = await asyncio.to_thread(typed, world, ["audit", "--org", side, "--limit", "1000"])
    await asyncio.to_thread(typed, world, ["orgs", "export", side, "--to", str(tmp_path / "side.zip")])
    of_all = await asyncio.to_thread(typed, world, ["audit", "--json", "--limit", "1000"])

    with zipfile.ZipFile(tmp_path / "side.zip") as archive:
        exported = archive.read("audit_log.jsonl").decode()
    for readable in (of_side.output, exported):
        assert AuditAction.WEBHOOK_SECRET_SET in readable
        assert "foreign_id" not in readable
    (entry, *_) = [one for one in orjson.loads(of_all.output) if one["subject"] == stolen]
    assert (entry["actor"], entry["action"]) == (world.attacker.actor, "foreign_id.named")
    assert entry["organization_id"] is None
    assert entry["detail"] == {
        "organization": ATTACKER,
        "owner": VICTIM,
        "door": "GET /v1/executions/{execution_id}",
        "kind": "execution",
    }


@pytest.mark.parametrize("position", _NAMED_BY)
@pytest.mark.parametrize("command", _OF_CONNECTIONS)
async def test_a_command_for_anothers_connection_finds_none(
    command: str,
    position: str,
    world: World,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    expected = Seen.AUDITED if position == "id" else Seen.NOT_NAMED
    note(request, _of_connection(command, position), expected)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_settings, "configure_logging", lambda **_: None)
    named = world.victim.connection if position == "id" else world.victim.provider
    before, known = await world.belongings(), len(await world.refusals())

    result = await asyncio.to_thread(typed, world, ["connections", command, ATTACKER, named])

    assert result.exit_code != 0
    assert world.leaks(result.output, sent=[named]) == []
    assert await world.belongings() == before
    refusals = [(one.subject, one.detail["door"]) for one in (await world.refusals())[known:]]
    assert refusals == ([(named, f"nubabel connections {command}")] if expected is Seen.AUDITED else [])
