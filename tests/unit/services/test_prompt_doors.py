"""The doors by which a prompt leaves this system, all of them: each is handed what was masked, and nothing else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import nubabel_workers

_PACKAGE = Path(nubabel_workers.__file__).parent
# What is made of words for somebody outside: a part of a prompt for OpenCode, a call of another orchestrator.
_LEAVING = frozenset({"PromptPart", "Call"})
# Other programs' own tools, which know no organization: the client of OpenCode, and what the tests run against.
_NOT_THE_SERVICE = ("opencode/", "client/", "simulators/", "adapters/opencode/")

_DOORS = {
    "services/submit_prompt.py": "OpenCode: first prompts, follow-ups, thread, earlier turns, each request of a batch",
    "services/call_orchestrator.py": "another orchestrator: the same, without files",
}


def test_prompts_leave_by_these_doors_only() -> None:
    makes = {
        name
        for path in _PACKAGE.rglob("*.py")
        if (name := _name(path)) and _LEAVING & set(_calls(ast.parse(_read(path))))
    }

    assert makes == _DOORS.keys()


def test_at_each_door_stands_the_masking() -> None:
    for door in _DOORS:
        tree = ast.parse(_read(_PACKAGE / door))
        assert "MaskPrompt" in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        # The stored prompt is read to find out the language it is in, and for nothing else.
        assert set(_uses_of_prompt(tree)) <= {"language_of"}


def _name(path: Path) -> str:
    name = path.relative_to(_PACKAGE).as_posix()
    return "" if name.startswith(_NOT_THE_SERVICE) else name


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def _uses_of_prompt(tree: ast.AST) -> Iterator[str]:
    """Which function each `….prompt` is an argument of; what is none is told as such."""
    arguments = {
        id(argument): node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        for argument in node.args
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "prompt":
            yield arguments.get(id(node), f"line {node.lineno}")
