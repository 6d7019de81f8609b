"""The deployment files as data."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from config.settings import Settings
from nubabel_workers.embedded.procfile import read_procfile

ROOT = Path(__file__).resolve().parents[3]
SETTING_NAMES = frozenset(f"NUBABEL_{name.upper()}" for name in Settings.model_fields)

_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?:(?P<operator>:[-?])(?P<word>[^}]*))?\}")


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return content


def environment_of(service: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """What the container sees when .env holds `given`: Compose's rules for ${...} and for names without a value."""
    seen = {}
    for name, value in service.get("environment", {}).items():
        if value is not None:
            seen[name] = interpolated(str(value), given)
        elif name in given:
            seen[name] = given[name]
    return seen


def interpolated(text: str, given: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        found = given.get(match["name"], "")
        if match["operator"] == ":?" and not found:
            raise AssertionError(f"{match['name']}: {match['word']}")
        return found or (match["word"] or "" if match["operator"] == ":-" else "")

    return _VARIABLE.sub(value, text)


def processes() -> dict[str, list[str]]:
    """Procfile: process -> its words, for the first copy."""
    return {name: command.replace("-${COPY:-1}", "").split() for name, command in read_procfile().items()}
