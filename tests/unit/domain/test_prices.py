"""What models cost where OpenCode does not say."""

from dataclasses import replace

import pytest

from nubabel_workers.adapters.model_prices import load_prices
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.executions import Usage
from nubabel_workers.domain.prices import parse_prices

TABLE = parse_prices(
    {
        "models": {
            "acme/small": {"input": 1, "output": 2},
            "acme/*": {"input": 10, "output": 20, "cache_read": 1, "cache_write": 12.5},
            "acme/big-*": {"input": 100, "output": 200},
        }
    }
)
MILLION = 1_000_000


def cost(model: str, **tokens: int) -> tuple[float, bool]:
    used = TABLE.priced({model: replace(Usage(), **tokens)})[model]  # type: ignore[arg-type]
    return used.cost, used.cost_computed


@pytest.mark.parametrize(
    ("model", "tokens", "expected"),
    [
        pytest.param("acme/small", {"input_tokens": MILLION}, 1, id="input"),
        pytest.param("acme/small", {"output_tokens": MILLION}, 2, id="output"),
        pytest.param("acme/small", {"reasoning_tokens": MILLION}, 2, id="reasoning costs what output costs"),
        pytest.param("acme/small", {"cache_read_tokens": MILLION}, 1, id="cache without a price costs input"),
        pytest.param("acme/medium", {"cache_read_tokens": MILLION}, 1, id="cache read"),
        pytest.param("acme/medium", {"cache_write_tokens": MILLION}, 12.5, id="cache write"),
        pytest.param("acme/big-2026", {"input_tokens": MILLION}, 100, id="the longest beginning counts"),
    ],
)
def test_tokens_without_a_cost_are_priced_and_marked(model: str, tokens: dict[str, int], expected: float) -> None:
    assert cost(model, **tokens) == (expected, True)


def test_what_opencode_reported_is_left_as_it_is() -> None:
    reported = Usage(input_tokens=MILLION, cost=0.25)

    assert TABLE.priced({"acme/small": reported}) == {"acme/small": reported}


def test_a_model_without_a_price_costs_nothing_and_is_not_marked() -> None:
    assert cost("other/model", input_tokens=MILLION) == (0, False)


def test_a_later_layers_word_about_a_model_counts() -> None:
    table = parse_prices({"models": {"a/b": {"input": 1, "output": 1}}}, {"models": {"a/b": {"input": 7, "output": 7}}})

    assert table.priced({"a/b": Usage(input_tokens=MILLION)})["a/b"].cost == 7


def test_the_packaged_prices_are_readable() -> None:
    sonnet = load_prices().of("anthropic/claude-sonnet-4-5-20250929")

    assert sonnet is not None
    assert sonnet.output > sonnet.input > 0


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ({"model": {}}, "unknown table"),
        ({"models": []}, "must be a table"),
        ({"models": {"gpt": {"input": 1, "output": 1}}}, "provider/model"),
        ({"models": {"a/*b": {"input": 1, "output": 1}}}, "at the end"),
        ({"models": {"a/b": 3}}, "must be a table"),
        ({"models": {"a/b": {"input": 1}}}, "output is missing"),
        ({"models": {"a/b": {"input": -1, "output": 1}}}, "dollars per million"),
        ({"models": {"a/b": {"input": True, "output": 1}}}, "dollars per million"),
        ({"models": {"a/b": {"input": 1, "output": 1, "euro": 1}}}, "unknown field 'euro'"),
    ],
)
def test_what_does_not_fit_is_named(layer: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        parse_prices(layer)
