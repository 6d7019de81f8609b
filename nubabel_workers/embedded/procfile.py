"""The Procfile says which processes there are; the embedded system runs exactly those."""

import re
from pathlib import Path

PROCFILE = Path(__file__).resolve().parents[2] / "Procfile"

_LINE = re.compile(r"(?P<name>[A-Za-z0-9_-]+):\s*(?P<command>\S.*)")


def read_procfile(path: Path = PROCFILE) -> dict[str, str]:
    """Process name -> shell command, in the file's order."""
    commands: dict[str, str] = {}
    for line in path.read_text().splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match is None:
            raise ValueError(f"{path}: not a process: {stripped}")
        commands[match["name"]] = match["command"]
    return commands
