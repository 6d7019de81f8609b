"""The tools of the simulated agent: what they cost in time and what they say."""

import shlex
from dataclasses import dataclass

from nubabel_workers.simulators.opencode.directives import ToolCall

TOOLS = (
    "bash",
    "edit",
    "glob",
    "grep",
    "invalid",
    "question",
    "read",
    "skill",
    "task",
    "todowrite",
    "webfetch",
    "write",
)
_MAX_SLEEP_S = 3600.0


@dataclass(frozen=True, slots=True)
class ToolResult:
    title: str
    output: str
    seconds: float = 0.0


def run_tool(call: ToolCall) -> ToolResult:
    """Only `echo` and `sleep` of bash do something; everything else succeeds without doing anything."""
    if call.name == "bash":
        return _bash(str(call.arguments.get("command", "")))
    title = str(call.arguments.get("description") or call.arguments.get("filePath") or call.name)
    return ToolResult(title, "(no output)")


def _bash(command: str) -> ToolResult:
    try:
        words = shlex.split(command)
    except ValueError:
        return ToolResult(command, "syntax error")
    if words[:1] == ["echo"]:
        return ToolResult(command, " ".join(words[1:]) + "\n")
    if words[:1] == ["sleep"] and len(words) > 1:
        return ToolResult(command, "(no output)", _seconds(words[1]))
    return ToolResult(command, "(no output)")


def _seconds(word: str) -> float:
    try:
        return min(max(float(word), 0.0), _MAX_SLEEP_S)
    except ValueError:
        return 0.0


def pattern_of(call: ToolCall) -> str:
    """What permission rules are matched with."""
    return str(call.arguments.get("command", "*")) if call.name == "bash" else "*"


def unavailable(name: str, offered: list[str]) -> str:
    return f"Model tried to call unavailable tool '{name}'. Available tools: {', '.join(offered)}."
