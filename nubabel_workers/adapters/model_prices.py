"""Reads the prices of models: those of the package, and an operator's file on top of them."""

from pathlib import Path

from nubabel_workers.adapters.toml_layers import toml_layers
from nubabel_workers.domain.prices import PriceTable, parse_prices


def load_prices(operators_file: Path | None = None) -> PriceTable:
    """Raises InvalidInputError naming the place that does not fit."""
    return parse_prices(*toml_layers("model_prices.toml", operators_file, what="prices"))
