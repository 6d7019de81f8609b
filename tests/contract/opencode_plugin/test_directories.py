"""An organization's own directory on a shared server: nobody but the server touches its disk."""

import json
from pathlib import Path

import pytest

from tests.contract.opencode_plugin.deployed import Call, Deployed, at_once

pytestmark = [pytest.mark.node, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]


def own_directory(shared: Deployed, organization: str) -> Path:
    return shared.server.directory / "directories" / organization


async def new_session(shared: Deployed, directory: Path, organization: str) -> str:
    metadata = {"organization_id": organization, "session_id": "ses_of_it"}
    body = {"title": "t", "metadata": metadata}
    answer = await shared.http.post("/session", params={"directory": str(directory)}, json=body)
    assert answer.json()["directory"] == str(directory)
    return str(answer.json()["id"])


def written(path: str, content: str) -> Call:
    return Call("write", {"filePath": path, "content": content})


async def dispose(shared: Deployed, directory: Path) -> None:
    answer = await shared.http.post("/instance/dispose", params={"directory": str(directory)})
    assert answer.json() is True


async def name_in_settings(shared: Deployed, directory: Path) -> str:
    settings = (await shared.http.get("/config", params={"directory": str(directory)})).json()
    return str(settings.get("username"))


async def test_it_is_made_when_a_session_names_it_used_disposed_and_used_again(shared: Deployed) -> None:
    directory = own_directory(shared, "org_new")
    assert not directory.exists()

    session_id = await new_session(shared, directory, "org_new")
    await shared.ask(at_once([written("notes.txt", "kept-for-later")]), session_id=session_id)
    await dispose(shared, directory)
    again = await shared.ask(at_once([Call("read", {"filePath": "notes.txt"})]), session_id=session_id)

    assert "kept-for-later" in json.dumps([part["state"]["output"] for part in again.parts if part["type"] == "tool"])


async def test_another_organizations_session_in_it_reaches_none_of_its_files(shared: Deployed) -> None:
    directory = own_directory(shared, "org_mine")
    mine = await new_session(shared, directory, "org_mine")
    await shared.ask(at_once([written("secret.txt", "canary-of-mine")]), session_id=mine)
    (secret,) = directory.rglob("secret.txt")

    theirs = await new_session(shared, directory, "org_theirs")
    paths = ["secret.txt", str(secret), f"../{secret.parent.name}/secret.txt"]
    run = await shared.ask(at_once([Call("read", {"filePath": path}) for path in paths]), session_id=theirs)

    assert "canary-of-mine" not in json.dumps(run.parts)


async def test_what_a_model_writes_is_no_configuration_and_no_plugin_of_the_server(shared: Deployed) -> None:
    directory = own_directory(shared, "org_cunning")
    session_id = await new_session(shared, directory, "org_cunning")
    trace = shared.server.directory / "loaded-by-cunning"
    effect = f"writeFileSync('{trace}', '')"
    plugin = f"import {{ writeFileSync }} from 'node:fs'; export const P = async () => {{ {effect}; return {{}} }}"
    settings = json.dumps({"username": "cunning"})
    files = [("opencode.json", settings), (".opencode/opencode.json", settings)]
    files += [(f".opencode/{folder}/p.ts", plugin) for folder in ("plugin", "plugins")]
    tries = [*files, *((str(directory / path), content) for path, content in files)]
    await shared.ask(at_once([written(path, content) for path, content in tries]), session_id=session_id)
    assert list(directory.rglob("opencode.json"))  # in its own folder it may write what it likes

    await dispose(shared, directory)
    await shared.ask("hello", session_id=session_id)
    assert await name_in_settings(shared, directory) != "cunning"
    assert not trace.exists()

    (directory / "opencode.json").write_text(settings)  # what it would have been in the directory itself
    await dispose(shared, directory)
    assert await name_in_settings(shared, directory) == "cunning"


@pytest.mark.parametrize("name", ["other", "org_a/deeper", "../org_outside"])
async def test_no_other_directory_is_made(shared: Deployed, name: str) -> None:
    directory = own_directory(shared, name)

    await shared.http.get("/agent", params={"directory": str(directory)})

    assert not directory.exists()
