"""Commands for one organization, with another's names."""

import asyncio
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from nubabel_workers.adapters.storage.row_sets import TENANT_TABLES
from nubabel_workers.cli import command_settings
from nubabel_workers.cli.main import app
from tests.tenancy.matrix import note
from tests.tenancy.world import ATTACKER, Side, World

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


@pytest.mark.parametrize("form", ["text", "JSON"])
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
    note(request, f"nubabel {name}", f"--{option}" if option else "--org", form)
    monkeypatch.chdir(tmp_path)  # no .env of a developer
    monkeypatch.setattr(command_settings, "configure_logging", lambda **_: None)
    named = _COMMANDS[command](world.victim)
    words = [*name.split(), "--org", ATTACKER, *([f"--{option}"] if option else []), *named]
    before = await world.belongings()

    result = await asyncio.to_thread(typed, world, [*words, *(["--json"] if form == "JSON" else [])])

    assert result.exit_code == 0, result.output
    assert world.leaks(result.output, sent=named) == []
    assert await world.belongings() == before


async def test_an_export_holds_nothing_of_another_organization(
    world: World, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    note(request, "nubabel orgs export", "ORG", "own")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_settings, "configure_logging", lambda **_: None)
    before = await world.belongings()

    result = await asyncio.to_thread(typed, world, ["orgs", "export", ATTACKER, "--to", str(tmp_path / "own.zip")])

    assert result.exit_code == 0, result.output
    with zipfile.ZipFile(tmp_path / "own.zip") as archive:
        exported = "".join(archive.read(name).decode() for name in archive.namelist())
    assert ATTACKER in exported
    assert world.leaks(exported, sent=TENANT_TABLES) == []
    assert await world.belongings() == before


@pytest.mark.parametrize("position", ["id", "provider"])
@pytest.mark.parametrize("command", ["show", "check", "disable", "enable", "remove"])
async def test_a_command_for_anothers_connection_finds_none(
    command: str,
    position: str,
    world: World,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    note(request, f"nubabel connections {command}", position, "another's")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_settings, "configure_logging", lambda **_: None)
    named = world.victim.connection if position == "id" else world.victim.provider
    before = await world.belongings()

    result = await asyncio.to_thread(typed, world, ["connections", command, ATTACKER, named])

    assert result.exit_code != 0
    assert world.leaks(result.output, sent=[named]) == []
    assert await world.belongings() == before
