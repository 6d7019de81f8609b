"""Reads the prices of models: those of the package, and an operator's file on top of them."""

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.prices import PriceTable, parse_prices


def load_prices(operators_file: Path | None = None) -> PriceTable:
    """Raises InvalidInputError naming the place that does not fit."""
    packaged = resources.files("nubabel_workers.domain").joinpath("model_prices.toml").read_text("utf-8")
    layers = [_parse(packaged, "model_prices.toml")]
    if operators_file is not None:
        layers.append(_read(operators_file))
    return parse_prices(*layers)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"prices {path.name} cannot be read: {error}") from error
    return _parse(text, path.name)


def _parse(text: str, name: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"prices {name} are not TOML: {error}") from error
