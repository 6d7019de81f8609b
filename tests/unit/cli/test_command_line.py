"""How commands end: exit codes, and never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from nubabel_workers.cli.command_line import CommandLine, describe
from nubabel_workers.cli.main import app as nubabel
from nubabel_workers.domain.errors import (
    CredentialsError,
    InvalidInputError,
    NotFoundError,
    PermanentError,
    RateLimitedError,
    UncertainError,
)
from tests.unit.cli.bench import Bench, fails_with


class SettingsError(Exception):
    """Looks like config's."""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InvalidInputError("change this"), 2, "change this"),
        (NotFoundError("there is no such thing"), 2, "there is no such thing"),
        (CredentialsError("refused"), 1, "refused"),
        (PermanentError("no"), 1, "no"),
        (RateLimitedError("slow down"), 1, "slow down; `nubabel doctor` looks at every dependency"),
        (UncertainError("who knows"), 1, "who knows; `nubabel doctor` looks at every dependency"),
        (
            SettingsError("the settings are wrong:\n  A: is missing\n  B: is bad"),
            2,
            "wrong: A: is missing; B: is bad",
        ),
        (typer.Abort(), 1, "stopped"),
        (ModuleNotFoundError("x", name="config"), 1, "runs from a checkout or the image"),
        (ModuleNotFoundError("x", name="flower"), 1, "'flower' is not installed"),
        (typer.BadParameter("must be a number"), 2, "must be a number"),
    ],
)
def test_errors_become_a_line_and_an_exit_code(error: Exception, code: int, line: str) -> None:
    words, exit_code = describe(error)

    assert exit_code == code
    assert line in words
    assert "\n" not in words


def _with_a_bug() -> typer.Typer:
    app = typer.Typer(cls=CommandLine)

    @app.callback()
    def root() -> None: ...

    @app.command()
    def buggy() -> None:
        raise ValueError("password=hunter2")

    return app


def test_a_bug_is_one_line_without_its_message() -> None:
    result = CliRunner().invoke(_with_a_bug(), ["buggy"])

    fails_with(result, 1, "unexpected ValueError at test_command_line.py:")
    assert "hunter2" not in result.output


def test_a_bugs_traceback_is_shown_to_who_asks_for_it() -> None:
    result = CliRunner().invoke(_with_a_bug(), ["buggy"], env={"NUBABEL_CLI_DEBUG": "1"})

    assert "Traceback" in result.stderr
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("orgs", "creat"), "Did you mean 'create'? (see nubabel orgs --help)"),
        (("orgs", "create"), "(see nubabel orgs create --help)"),
        (("--nonsense",), "--nonsense"),
        (("executions", "list", "--limit", "0"), "--limit"),
        (("dead-letters", "list", "--reason", "nonsense"), "--reason"),
    ],
)
def test_what_was_mistyped_is_one_line_that_leads_to_the_help(words: tuple[str, ...], says: str, bench: Bench) -> None:
    fails_with(bench.type(*words), 2, says)


def test_a_group_alone_shows_its_commands_and_says_to_choose_one(bench: Bench) -> None:
    result = bench.type("limits")

    assert "Show an organization's limits" in result.stdout
    assert result.stderr == "nubabel: choose a command (see nubabel limits --help)\n"
    assert result.exit_code == 2


def test_every_command_explains_itself(bench: Bench) -> None:
    commands = typer.main.get_command(nubabel)
    assert isinstance(commands, TyperGroup)
    for name in commands.commands:
        result = bench.type(name, "--help")
        assert result.exit_code == 0
        assert "Usage: nubabel" in result.stdout


def test_the_actor_can_be_named(bench: Bench) -> None:
    assert bench.type("--actor", "cli:ben", "orgs", "list").exit_code == 0


def test_help_loads_no_adapter_and_no_settings() -> None:
    program = (
        "import sys; from nubabel_workers.cli.main import app; "
        "print(sorted(set(sys.modules) & {'config.settings', 'celery', 'psycopg', 'aiohttp', 'fastapi', 'redis'}))"
    )

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "[]"


def test_without_settings_a_command_names_what_is_missing(tmp_path: Path) -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("nubabel"), "orgs", "list"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        check=False,
    )

    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "NUBABEL_DATABASE_URL" in result.stderr


@pytest.mark.parametrize(
    ("does", "without"),
    [
        (
            (
                "import contextlib, nubabel_workers.cli.main as m\n"
                "with contextlib.suppress(SystemExit): m.app(['instances', 'list', '--help'])"
            ),
            "nubabel_workers.cli.wiring",
        ),
        ("import nubabel_workers.cli.wiring", "sqlalchemy"),
    ],
    ids=["a help text loads no adapter", "a command loads nothing of migrations"],
)
def test_what_takes_long_to_load_is_loaded_on_use(does: str, without: str) -> None:
    """In a process of its own: here everything is loaded."""
    looked = subprocess.run(
        [sys.executable, "-c", f"{does}\nimport sys\nsys.exit({without!r} in sys.modules)"],
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert looked.returncode == 0, looked.stderr.decode()
