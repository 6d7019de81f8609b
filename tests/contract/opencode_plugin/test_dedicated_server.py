"""A server of one organization: its models have a shell. What the server itself needs stays out of it."""

import json

import pytest

from tests.contract.opencode_plugin.deployed import ENVIRONMENT_CANARY, Deployed, delegation, directive

pytestmark = [pytest.mark.node, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

_PRINT_ALL = directive("bash", {"command": "env; echo [$OPENCODE_SERVER_PASSWORD]", "description": "Print"})


async def test_the_shell_is_offered_and_works(dedicated: Deployed) -> None:
    run = await dedicated.ask(f"{_PRINT_ALL} [[text=x]]")

    assert {"bash", "webfetch"} <= set().union(*dedicated.tools_offered())
    status, output = run.outcome("bash")
    assert status == "completed"
    assert "HOME=" in output


@pytest.mark.parametrize("text", [_PRINT_ALL, delegation(f"{_PRINT_ALL} [[text=x]]")], ids=["root", "sub-agent"])
async def test_commands_see_neither_the_servers_keys_nor_its_password(text: str, dedicated: Deployed) -> None:
    since = len(dedicated.sent)

    run = await dedicated.ask(f"{text} [[text=x]]")

    seen = json.dumps([dedicated.sent[since:], run.parts])
    assert ENVIRONMENT_CANARY not in seen
    assert dedicated.server.password.get_secret_value() not in seen
    assert dedicated.bridge_key not in seen
    assert "[]" in seen


async def test_it_makes_no_directories_for_organizations(dedicated: Deployed) -> None:
    folder = (await dedicated.http.get("/file", params={"path": "."})).json()

    assert "directories" not in [entry["name"] for entry in folder]


async def test_tools_across_sessions_are_closed_here_too(dedicated: Deployed) -> None:
    calls = [directive("session_list", {}), directive("background_output", {"task_id": "ses_x"})]

    run = await dedicated.ask(f"{' '.join(calls)} {delegation('x', run_in_background=True)} [[text=x]]")

    assert [part["tool"] for part in run.tools] == ["invalid", "invalid", "task"]
    assert "run_in_background=false" in run.outcome("task")[1]
