"""Reads the plans: those of the package, and an operator's file on top of them."""

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.limits import Plans, parse_plans


def load_plans(operators_file: Path | None = None) -> Plans:
    """Raises InvalidInputError naming the place that does not fit."""
    packaged = resources.files("nubabel_workers.domain").joinpath("plans.toml").read_text("utf-8")
    layers = [_parse(packaged, "plans.toml")]
    if operators_file is not None:
        try:
            layers.append(_parse(operators_file.read_text("utf-8"), operators_file.name))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"plans {operators_file.name} cannot be read: {error}") from error
    return parse_plans(*layers)


def _parse(text: str, name: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"plans {name} are not TOML: {error}") from error
