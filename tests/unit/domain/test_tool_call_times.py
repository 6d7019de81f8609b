"""The waits of a tool call lie one within the other, from the agent's plugin to the organization's server."""

import re
from pathlib import Path

from config.setting_groups import ToolSettings, WorkSettings
from nubabel_workers.domain.tool_call_times import PLUGIN_PATIENCE_S, PLUGIN_WAIT_S, ToolCallTimes

PLUGIN = Path("opencode-server/config/bridge/tools.ts")


def plugins(constant: str) -> float:
    found = re.search(rf"const {constant} = ([\d_]+);", PLUGIN.read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1].replace("_", "")) / 1000


def longest_answer_s() -> float:
    (bound,) = [one.le for one in ToolSettings.model_fields["tool_call_timeout_s"].metadata if hasattr(one, "le")]
    return float(bound)


def test_the_plugins_waits_are_those_that_are_written_down() -> None:
    assert (plugins("INVOKE_WAIT_MS"), plugins("INVOKE_PATIENCE_MS")) == (PLUGIN_WAIT_S, PLUGIN_PATIENCE_S)


def test_the_plugin_waits_for_the_longest_call_that_the_settings_allow() -> None:
    after_a_death_s = WorkSettings.model_fields["lease_s"].default

    assert ToolCallTimes(longest_answer_s()).whole_s + after_a_death_s < PLUGIN_PATIENCE_S


def test_by_default_a_call_ends_within_one_wait_of_the_plugin() -> None:
    default_s = ToolSettings.model_fields["tool_call_timeout_s"].default

    assert ToolCallTimes(default_s).whole_s < PLUGIN_WAIT_S
