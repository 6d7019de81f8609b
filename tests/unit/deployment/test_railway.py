"""railway.toml: the process web, from the image."""

import tomllib

from tests.unit.deployment.files import ROOT, SETTING_NAMES, processes


def test_web_is_built_from_the_image_and_started_as_in_the_procfile() -> None:
    config = tomllib.loads((ROOT / "railway.toml").read_text())
    command = config["deploy"]["startCommand"]

    assert (ROOT / config["build"]["dockerfilePath"]).exists()
    assert command.endswith(f"exec {' '.join(processes()['web'])}'")
    settings = {word.partition("=")[0] for word in command.split("'")[1].split() if word.startswith("NUBABEL_")}
    assert settings
    assert settings <= SETTING_NAMES


def test_schema_is_migrated_before_a_deployment() -> None:
    assert tomllib.loads((ROOT / "railway.toml").read_text())["deploy"]["preDeployCommand"] == ["nubabel migrate"]


def test_draining_leaves_tasks_the_time_they_need() -> None:
    assert tomllib.loads((ROOT / "railway.toml").read_text())["deploy"]["drainingSeconds"] >= 70
