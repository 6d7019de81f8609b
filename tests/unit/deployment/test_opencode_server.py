"""What is deployed into the OpenCode server: its settings, the plugin's, the models, the tool that is refused."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nubabel_workers.adapters.analysis_rules import load_rules
from tests.unit.deployment.files import ROOT

SERVER = ROOT / "opencode-server"
CONFIG = SERVER / "config"
_COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)


def json_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_COMMENT.sub("", path.read_text()))
    return content


def plugin_settings(path: Path = CONFIG / "omo.jsonc") -> dict[str, Any]:
    settings: dict[str, Any] = json_of(path)["[opencode]"]
    return settings


def node() -> str:
    found = shutil.which("node")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("Node.js is missing")
        pytest.skip("Node.js is missing")
    return found


def test_what_is_not_named_is_denied_and_nothing_waits_for_a_person() -> None:
    permission = json_of(CONFIG / "opencode.json")["permission"]

    assert next(iter(permission)) == "*"  # the last match decides: the names after it are the exceptions
    assert permission["*"] == "deny"
    for name in ("question", "doom_loop", "external_directory", "bash", "webfetch"):
        assert permission[name] == "deny"
    assert permission["read"]["*.env"] == "deny"


def test_server_neither_shares_nor_updates_nor_reports() -> None:
    server, plugin = json_of(CONFIG / "opencode.json"), plugin_settings()

    assert server["share"] == "disabled"
    assert server["autoupdate"] is False
    assert plugin["telemetry"] is False
    assert plugin["auto_update"] is False


def test_sessions_of_other_organizations_cannot_be_read() -> None:
    disabled = set(plugin_settings()["disabled_tools"])

    assert {"session_list", "session_read", "session_search", "session_info", "background_output"} <= disabled


def test_session_does_not_start_again_by_itself() -> None:
    settings = plugin_settings()

    assert {"todo-continuation-enforcer", "background-notification", "runtime-fallback"} <= set(
        settings["disabled_hooks"]
    )
    assert settings["model_fallback"] is False
    assert settings["runtime_fallback"] is False


def test_every_category_of_the_analysis_has_a_model() -> None:
    # Without one, oh-my-opencode answers with the text of an error.
    assert set(plugin_settings()["categories"]) == set(load_rules().categories)
    assert all(category["model"] for category in plugin_settings()["categories"].values())


def test_every_category_can_have_a_model_of_its_own() -> None:
    for name, category in plugin_settings()["categories"].items():
        assert category["model"] == f"$MODEL_{name.upper().replace('-', '_')}"


def test_versions_agree() -> None:
    opencode = json_of(SERVER / "package.json")["dependencies"]["opencode-ai"]
    config = json_of(CONFIG / "package.json")["dependencies"]
    locked = json_of(CONFIG / "package-lock.json")["packages"]

    assert config["@opencode-ai/plugin"] == opencode
    for name, version in config.items():
        assert locked[f"node_modules/{name}"]["version"] == version
    assert (
        f"oh-my-opencode {config['oh-my-opencode']}"
        in (ROOT / "nubabel_workers/domain/analysis_rules.yaml").read_text()
    )


def test_plugin_is_loaded_from_the_preinstalled_packages() -> None:
    (plugin,) = json_of(CONFIG / "opencode.json")["plugin"]

    assert plugin.startswith("./node_modules/oh-my-opencode/")


@pytest.mark.node
def test_models_come_from_the_environment(tmp_path: Path) -> None:
    target = tmp_path / "omo.jsonc"
    environment = {"PATH": os.environ["PATH"], "OPENCODE_MODEL": "a/general", "OPENCODE_MODEL_DEEP": "b/deep"}

    subprocess.run(
        [node(), SERVER / "put-models.mjs", CONFIG / "omo.jsonc", target], env=environment, check=True, timeout=30
    )

    written = plugin_settings(target)
    assert written["agents"]["sisyphus"]["model"] == "a/general"
    assert written["categories"]["deep"]["model"] == "b/deep"
    assert written["categories"]["unspecified-low"]["model"] == "a/general"
    assert "$" not in json.dumps(written)


@pytest.mark.node
@pytest.mark.parametrize("model", ["", "model-without-provider"])
def test_model_that_cannot_be_one_is_refused(model: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [node(), SERVER / "put-models.mjs", CONFIG / "omo.jsonc", tmp_path / "omo.jsonc"],
        env={"PATH": os.environ["PATH"], "OPENCODE_MODEL": model},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert done.returncode == 1
    assert "provider/model" in done.stderr


def test_server_refuses_to_start_without_password_or_model() -> None:
    done = subprocess.run(
        [SERVER / "start"], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False, timeout=30
    )

    assert done.returncode != 0
    assert "OPENCODE_SERVER_PASSWORD" in done.stderr
