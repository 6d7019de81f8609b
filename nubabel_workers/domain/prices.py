"""What models cost, where OpenCode does not say: prices by name of model, and tokens times price. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.executions import Usage

_PER = 1_000_000
_ANY = "*"


@dataclass(frozen=True)
class ModelPrice:
    """US dollars per million tokens. cache_read, cache_write: None stands for the price of input.

    Reasoning costs what output costs, as OpenCode reckons itself.
    """

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None

    def cost_of(self, usage: Usage) -> float:
        cache_read = self.input if self.cache_read is None else self.cache_read
        cache_write = self.input if self.cache_write is None else self.cache_write
        total = (
            usage.input_tokens * self.input
            + (usage.output_tokens + usage.reasoning_tokens) * self.output
            + usage.cache_read_tokens * cache_read
            + usage.cache_write_tokens * cache_write
        )
        return total / _PER


@dataclass(frozen=True)
class PriceTable:
    """prices: "provider/model" -> price; a name that ends in * stands for all that begin like it."""

    prices: Mapping[str, ModelPrice]

    def of(self, model: str) -> ModelPrice | None:
        """The exact name's, else that of the longest beginning."""
        if model in self.prices:
            return self.prices[model]
        fitting = [name for name in self.prices if name.endswith(_ANY) and model.startswith(name.removesuffix(_ANY))]
        return self.prices[max(fitting, key=len)] if fitting else None

    def priced(self, by_model: Mapping[str, Usage]) -> dict[str, Usage]:
        """What OpenCode reported stays; where it reported tokens and no cost, the table's price counts, marked so."""
        return {model: self._priced(model, usage) for model, usage in by_model.items()}

    def _priced(self, model: str, usage: Usage) -> Usage:
        price = self.of(model) if usage.cost == 0 and usage.total_tokens > 0 else None
        return usage if price is None else replace(usage, cost=price.cost_of(usage), cost_computed=True)


def parse_prices(*layers: Mapping[str, Any]) -> PriceTable:
    """Each layer has the form of `model_prices.toml`; a later one's word about a model counts.

    Raises InvalidInputError that names the place.
    """
    prices: dict[str, ModelPrice] = {}
    for layer in layers:
        if unknown := sorted(set(layer) - {"models"}):
            raise InvalidInputError(f"prices: unknown table {unknown[0]!r}; there is: models")
        models = layer.get("models", {})
        if not isinstance(models, Mapping):
            raise InvalidInputError("prices: models must be a table")
        prices |= {name: _price(name, entry) for name, entry in models.items()}
    return PriceTable(prices)


def _price(name: str, entry: Any) -> ModelPrice:
    place = f"prices: models.{name!r}"
    if "/" not in name or _ANY in name.removesuffix(_ANY):
        raise InvalidInputError(f"{place}: a model is named provider/model, with * at the end at most")
    if not isinstance(entry, Mapping):
        raise InvalidInputError(f"{place} must be a table")
    known = [field.name for field in fields(ModelPrice)]
    if unknown := sorted(set(entry) - set(known)):
        raise InvalidInputError(f"{place}: unknown field {unknown[0]!r}; there are: {', '.join(known)}")
    for field, value in entry.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < _PER:
            raise InvalidInputError(f"{place}.{field} must be dollars per million tokens, 0 or more")
    if missing := [field for field in ("input", "output") if field not in entry]:
        raise InvalidInputError(f"{place}: {missing[0]} is missing")
    return ModelPrice(**{field: float(value) for field, value in entry.items()})
