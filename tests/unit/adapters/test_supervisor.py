"""The operators' command that starts an OpenCode server anew."""

import sys
from pathlib import Path

import pytest

from nubabel_workers.adapters.supervisor import CommandSupervisor
from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.tenants import Instance
from tests.waiting import eventually

SERVER = Instance(InstanceId("ins_1"), "http://opencode-1:4096", "opencode", None)


def supervisor(code: str, *arguments: str, limit_s: float = 10.0) -> CommandSupervisor:
    return CommandSupervisor(f"{sys.executable} -c '{code}' {' '.join(arguments)}", limit_s=limit_s)


async def test_the_command_is_told_which_server_and_no_shell_reads_it(tmp_path: Path) -> None:
    said = tmp_path / "said"

    await supervisor(
        'import sys; open(sys.argv[1], "w").write(repr(sys.argv[2:]))', str(said), "{id}", "{url}", "$HOME;true"
    ).restart(SERVER)

    assert said.read_text() == "['ins_1', 'http://opencode-1:4096', '$HOME;true']"


async def test_the_command_gets_none_of_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUBABEL_DATABASE_URL", "postgresql://u:secret@db")
    said = tmp_path / "said"

    await supervisor('import os, sys; open(sys.argv[1], "w").write(repr(dict(os.environ)))', str(said)).restart(SERVER)

    assert "secret" not in said.read_text()
    assert "NUBABEL" not in said.read_text()


async def test_a_command_that_fails_is_told_with_its_last_words_and_without_secrets() -> None:
    failing = supervisor('import sys; print("no such unit, token=abcdefgh12345678"); sys.exit(3)')

    with pytest.raises(TransientError, match="ended with 3: no such unit") as failed:
        await failing.restart(SERVER)

    assert "abcdefgh12345678" not in str(failed.value)


async def test_a_command_that_is_not_there_is_told() -> None:
    with pytest.raises(TransientError, match="cannot be started: No such file"):
        await CommandSupervisor("/nowhere/restart {id}", limit_s=1).restart(SERVER)


async def test_a_command_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess, sys, time; "
        'child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]); '
        'open(sys.argv[1], "w").write(str(child.pid)); time.sleep(60)'
    )

    with pytest.raises(TransientError, match="did not end within"):
        await supervisor(code, str(pid_file), limit_s=2.0).restart(SERVER)

    await eventually(lambda: not _runs(int(pid_file.read_text())), what="the end of what it started")


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
