"""Numbers in full."""

from decimal import Decimal

import pytest

from nubabel_workers.domain.decimals import in_full


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0.00005, "0.00005"),
        (Decimal("0.000000001"), "0.000000001"),
        (1234567.25, "1234567.25"),
        (0.1 + 0.2, "0.3"),
        (100, "100"),
        (0.0, "0"),
    ],
)
def test_neither_rounded_nor_a_power_of_ten(number: float | Decimal, shown: str) -> None:
    assert in_full(number) == shown


@pytest.mark.parametrize(("number", "shown"), [(0.5, "0.5000"), (0.00005, "0.00005"), (3, "3.0000")])
def test_in_a_column_all_have_as_many_places_and_more_where_they_are_needed(number: float, shown: str) -> None:
    assert in_full(number, places=4) == shown
