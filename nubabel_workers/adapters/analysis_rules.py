"""Reads the rules of the request analysis: those of the package, and an operator's file on top of them."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from nubabel_workers.domain.analysis import SISYPHUS, Rules, parse_rules
from nubabel_workers.domain.errors import InvalidInputError

# libyaml's, a tenth of the time, where PyYAML was built with it.
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_rules(operators_file: Path | None = None, *, main_agent: str = SISYPHUS) -> Rules:
    """Rules ready for use. Raises InvalidInputError naming the place that does not fit."""
    if operators_file is None:
        return _packaged_rules(main_agent)
    return parse_rules(_packaged(), _read(operators_file), main_agent=main_agent)


@cache
def _packaged_rules(main_agent: str) -> Rules:
    return parse_rules(_packaged(), main_agent=main_agent)


@cache
def _packaged() -> Mapping[str, Any]:
    text = resources.files("nubabel_workers.domain").joinpath("analysis_rules.yaml").read_text("utf-8")
    return _parse(text, "analysis_rules.yaml")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"analysis rules {path.name} cannot be read: {error}") from error
    return _parse(text, path.name)


def _parse(text: str, name: str) -> Mapping[str, Any]:
    try:
        parsed = yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe one
    except yaml.YAMLError as error:
        raise InvalidInputError(f"analysis rules {name} are not YAML: {error}") from error
    if not isinstance(parsed, Mapping):
        raise InvalidInputError(f"analysis rules {name} must be a mapping, see the packaged file")
    return parsed
