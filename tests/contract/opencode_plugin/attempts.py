"""What a hostile text could make a model try, for each tool: other people's sessions, files, addresses and settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.contract.opencode_plugin.deployed import Call, delegated, directive
from tests.tenancy.matrix import Cell, Seen


@dataclass(frozen=True)
class Victim:
    """Another organization on the same server, and the server itself. pid: the server's process."""

    session_id: str
    child_id: str
    organization: str
    file: Path
    server_url: str
    password: str
    home: Path
    pid: int


_BACKGROUND = "run_in_background"
AGENT, SUB_AGENT = "by the agent", "by a sub-agent"


def cell_of(call: Call, method: str) -> Cell:
    """Its place in the account of attempts to reach another organization. The position: what the call says at all."""
    return f"agent tools: {call.tool}", ", ".join(sorted(call.arguments)) or "the session itself", method


def seen_of(call: Call) -> Seen:
    """What the plugin lets through names the session that it was made in, whatever the model wrote. What it refuses it
    tells, for the audit log.
    """
    if call.tool == "todowrite" or call.arguments in ({}, {"name": "git-master"}) or call.arguments.get(_BACKGROUND):
        return Seen.NOT_READ  # words in a list, what every organization has, what only works otherwise
    is_let_through = call.tool.startswith("nubabel_mcp") and call.arguments.keys() <= {"provider", "toolName", "args"}
    return Seen.NOT_NAMED if is_let_through else Seen.AUDITED


def attempts(victim: Victim) -> dict[str, list[Call]]:
    """Tool -> calls of it. Each tool that a model is offered must have some."""
    other = f"../{victim.organization}"
    files = [
        str(victim.file),
        f"{other}/{victim.file.name}",
        "/proc/self/environ",
        f"/proc/{victim.pid}/environ",
        str(victim.home / ".local/share/opencode/opencode.db"),
        str(victim.home / ".local/share/opencode/log"),
        str(victim.home / ".omo/omo.jsonc"),
        str(victim.home / "work"),
        "~/.local/share/opencode/opencode.db",
    ]
    folders = [str(victim.file.parent), other, "/", "/proc/self", str(victim.home), str(victim.home / "work")]
    tried: dict[str, list[dict[str, Any]]] = {
        "read": [{"filePath": path} for path in files],
        "write": [
            {"filePath": path, "content": "taken over"} for path in (*files, str(victim.home / "work" / "AGENTS.md"))
        ],
        "edit": [{"filePath": path, "oldString": "canary", "newString": "taken over"} for path in files[:2]],
        "glob": [
            *({"pattern": "**/*", "path": path} for path in folders),
            {"pattern": f"{other}/*"},
            {"pattern": "{../,}**/*.txt"},
        ],
        "grep": [
            *({"pattern": "canary|nck_", "path": path, "output_mode": "content"} for path in folders),
            {"pattern": "canary", "include": f"{other}/*", "output_mode": "content"},
        ],
        "skill": [{"name": "../../../../etc/passwd"}, {"name": str(victim.file)}, {"name": "git-master"}],
        "todowrite": [{"todos": [{"content": victim.session_id, "status": "pending", "priority": "low", "id": "1"}]}],
        "nubabel_mcp_list": [{}, {"session_id": victim.session_id}, {"organization_id": victim.organization}],
        "nubabel_mcp_invoke": [
            {"provider": "notion", "toolName": "search", "args": {}, "session_id": victim.session_id},
            {"provider": victim.organization, "toolName": "search", "args": {"organization_id": victim.organization}},
        ],
    }
    made = {tool: [Call(tool, arguments) for arguments in calls] for tool, calls in tried.items()}
    made["task"] = [
        delegated("What did you say before?", task_id=victim.session_id),
        delegated("What did you say before?", task_id=victim.child_id),
        delegated("x", command="init"),
        delegated("x", run_in_background=True),
        delegated(
            f"{directive('read', {'filePath': str(victim.file)})} [[text=x]]", subagent_type="explore", category=""
        ),
    ]
    return made


def attempts_with_hidden_tools(victim: Victim) -> list[Call]:
    """Tools of OpenCode and oh-my-opencode that are not offered; a model may name them all the same."""
    command = {"command": "env; cat /proc/$PPID/environ", "description": "x"}
    with_password = victim.server_url.replace("://", f"://opencode:{victim.password}@")
    tried: list[tuple[str, dict[str, Any]]] = [
        ("bash", command),
        ("interactive_bash", {"tmux_command": "new-session env"}),
        ("webfetch", {"url": f"{victim.server_url}/session/{victim.session_id}/message", "format": "text"}),
        ("webfetch", {"url": "http://169.254.169.254/latest/meta-data/", "format": "text"}),
        ("websearch", {"query": "x"}),
        ("session_list", {}),
        ("session_read", {"session_id": victim.session_id}),
        ("session_search", {"query": "canary"}),
        ("session_info", {"session_id": victim.session_id}),
        ("background_output", {"task_id": victim.child_id, "full_session": True}),
        ("background_cancel", {"all": True}),
        ("call_omo_agent", {"session_id": victim.child_id, "prompt": "x", "subagent_type": "explore"}),
        ("look_at", {"file_path": str(victim.file), "goal": "read it"}),
        ("skill_mcp", {"mcp_name": "playwright", "tool_name": "x"}),
        ("lsp_symbols", {"filePath": str(victim.file), "scope": "document"}),
        ("lsp_diagnostics", {"filePath": str(victim.file)}),
        ("question", {"questions": []}),
        ("list", {"path": str(victim.file.parent)}),
        ("patch", {"patchText": "*** Begin Patch\n*** End Patch"}),
        ("apply_patch", {"patchText": "*** Begin Patch\n*** End Patch"}),
        ("monitor", {"command": "env"}),
        ("nosuchtool", {"url": with_password.partition("@")[2]}),
    ]
    return [Call(tool, arguments) for tool, arguments in tried]
