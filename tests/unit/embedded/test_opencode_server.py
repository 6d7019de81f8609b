"""Installing and isolating the real OpenCode, without Node.js; the contract tests run it."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from nubabel_workers.embedded import opencode_server
from nubabel_workers.embedded.npm_packages import NotInstallableError
from nubabel_workers.embedded.opencode_server import install

ROOT = Path(opencode_server.__file__).parents[2]


def test_missing_npm_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(NotInstallableError, match="npm"):
        install(tmp_path)


def test_failing_npm_is_told_and_tried_again_next_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no registry here >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    for _ in range(2):
        with pytest.raises(NotInstallableError, match="no registry here"):
            install(tmp_path)


def test_second_installation_does_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\necho called >> {tmp_path}/calls\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    assert install(tmp_path) == install(tmp_path)
    assert (tmp_path / "calls").read_text() == "called\n"


@pytest.mark.parametrize("folder", ["opencode-server", "opencode-server/config", "tests/everything_server"])
def test_lock_names_no_registry(folder: str) -> None:
    locked = json.loads((ROOT / folder / "package-lock.json").read_text())["packages"]

    assert not [name for name, package in locked.items() if "resolved" in package]
    assert {name for name, package in locked.items() if "integrity" not in package and not package.get("optional")} == {
        ""
    }


def test_the_release_is_the_measured_one() -> None:
    locked = json.loads((ROOT / "opencode-server" / "package-lock.json").read_text())["packages"]

    assert locked["node_modules/opencode-ai"]["version"] == "1.18.33"


def test_server_sees_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test")

    environment = opencode_server.isolated_environment(tmp_path, tmp_path / "opencode.json", SecretStr("pw"))

    assert not {"ANTHROPIC_API_KEY", "HTTPS_PROXY"} & environment.keys()
    assert environment["HOME"] == str(tmp_path)


def test_nothing_is_asked_of_a_person() -> None:
    config = opencode_server._config("http://127.0.0.1:1")

    for permission in ("question", "doom_loop", "external_directory"):
        assert config["permission"][permission] == "deny"
    assert config["enabled_providers"] == ["stub"]
