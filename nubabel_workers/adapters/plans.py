"""Reads the plans: those of the package, and an operator's file on top of them."""

from pathlib import Path

from nubabel_workers.adapters.toml_layers import toml_layers
from nubabel_workers.domain.limits import Plans, parse_plans


def load_plans(operators_file: Path | None = None) -> Plans:
    """Raises InvalidInputError naming the place that does not fit."""
    return parse_plans(*toml_layers("plans.toml", operators_file, what="plans"))
