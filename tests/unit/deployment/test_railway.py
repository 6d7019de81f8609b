"""Railway: one service for each process of the Procfile, each with its own file; `web` has the one read by default."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from nubabel_workers.embedded.procfile import read_procfile
from tests.unit.deployment.files import ROOT, SETTING_NAMES, compose

FILES = {name: ROOT / "deploy" / "railway" / f"{name}.toml" for name in read_procfile()} | {
    "web": ROOT / "railway.toml"
}
OPENCODE = ROOT / "opencode-server" / "railway.toml"
# https://docs.railway.com/config-as-code/reference
KNOWN = {
    "build": {"builder", "dockerfilePath"},
    "deploy": {
        *("startCommand", "preDeployCommand", "healthcheckPath", "healthcheckTimeout", "restartPolicyType"),
        *("overlapSeconds", "drainingSeconds", "requiredMountPath"),
    },
}


def _config(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def _deploy(name: str) -> dict[str, Any]:
    found: dict[str, Any] = _config(FILES[name])["deploy"]
    return found


def test_every_process_has_a_file_and_every_file_a_process() -> None:
    assert {path.stem for path in (ROOT / "deploy" / "railway").iterdir()} == set(read_procfile()) - {"web"}


@pytest.mark.parametrize("path", [*FILES.values(), OPENCODE], ids=[*FILES, "opencode"])
def test_a_file_says_what_railway_knows(path: Path) -> None:
    config = _config(path)

    assert {section: set(values) - KNOWN[section] for section, values in config.items()} == {
        "build": set(),
        "deploy": set(),
    }
    assert config["build"]["builder"] == "DOCKERFILE"
    assert config["deploy"]["restartPolicyType"] == "ALWAYS"
    numbers = {name: value for name, value in config["deploy"].items() if name.endswith(("Seconds", "Timeout"))}
    assert {type(value) for value in numbers.values()} == {int}  # a string is refused


@pytest.mark.parametrize("name", FILES)
def test_a_process_is_built_from_the_image_and_started_by_its_line_of_the_procfile(name: str) -> None:
    """In a shell, since Railway starts an image's command without one: no variable would be replaced."""
    command = _deploy(name)["startCommand"]

    assert (ROOT / _config(FILES[name])["build"]["dockerfilePath"]).exists()
    assert command.startswith("sh -c '")
    assert command.endswith(f" exec {read_procfile()[name]}'")


@pytest.mark.parametrize("name", FILES)
def test_it_answers_on_the_port_that_railway_chooses_by_either_family(name: str) -> None:
    words = _deploy(name)["startCommand"].split("'")[1].split(" exec ")[0].split()
    settings = dict(word.split("=") for word in words)

    assert set(settings) <= SETTING_NAMES
    assert {setting.rpartition("_")[2]: value for setting, value in settings.items()} == {"HOST": "::", "PORT": "$PORT"}
    assert _deploy(name)["healthcheckPath"] == {"web": "/health", "flower": "/healthcheck"}.get(name, "/metrics")


def test_schema_is_migrated_before_a_deployment_by_one_of_them() -> None:
    assert {name: found for name in FILES if (found := _deploy(name).get("preDeployCommand"))} == {
        "web": ["nubabel migrate"]
    }


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"flower"}))
def test_draining_leaves_a_process_the_time_that_it_has_in_compose(name: str) -> None:
    service = compose()["services"][name]

    assert _deploy(name)["drainingSeconds"] >= int(service["stop_grace_period"].removesuffix("s"))


def test_the_opencode_server_keeps_its_volume() -> None:
    config = _config(OPENCODE)

    assert (OPENCODE.parent / config["build"]["dockerfilePath"]).exists()
    assert any(volume.endswith(f":{config['deploy']['requiredMountPath']}") for volume in _opencode_volumes())


def _opencode_volumes() -> list[str]:
    found: list[str] = compose()["services"]["opencode"]["volumes"]
    return found
