"""The operators' catalogue of commands: what it may say, and what is explained."""

from pathlib import Path

import pytest

from nubabel_workers.adapters.mcp.catalogue import load_catalogue
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.tools import CommandServer


def written(folder: Path, text: str) -> Path:
    path = folder / "commands.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_nothing_can_be_started() -> None:
    assert load_catalogue(None) == {}


def test_an_entry_says_command_arguments_and_variables(tmp_path: Path) -> None:
    text = """
    servers:
      files:
        command: /usr/bin/npx
        arguments: ["-y", "@modelcontextprotocol/server-filesystem", "/srv/shared"]
        environment: {NODE_ENV: production}
        credentials: [FILES_TOKEN]
    """

    assert load_catalogue(written(tmp_path, text)) == {
        "files": CommandServer(
            "files",
            "/usr/bin/npx",
            ("-y", "@modelcontextprotocol/server-filesystem", "/srv/shared"),
            {"NODE_ENV": "production"},
            frozenset({"FILES_TOKEN"}),
        )
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its top"),
        ("servers: [", "not YAML"),
        ("servers: {a: {command: npx}}", "absolute path"),
        ("servers: {a: {}}", "servers.a.command"),
        ("servers: {A: {command: /bin/a}}", "servers.A"),
        ("servers: {a: {command: /bin/a, shell: true}}", "servers.a.shell"),
        ("servers: {a: {command: /bin/a, credentials: ['A-B']}}", "servers.a.credentials"),
        ("servers: {a: {command: /bin/a, environment: {A: 1}}}", "servers.a.environment.A"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        load_catalogue(written(tmp_path, text))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        load_catalogue(tmp_path / "missing.yaml")
