"""Numbers as people read them: in full, so that a small amount of money is neither rounded up nor a power of ten."""

from decimal import Decimal

_STORED_PLACES = 9  # of money in the database; what a sum of floats has beyond them is noise


def in_full(number: float | Decimal, *, places: int = 0) -> str:
    """`0.00005`, `1234567.25`, `3`. places: digits after the point that are there in any case."""
    whole, _, fraction = f"{number:.{_STORED_PLACES}f}".partition(".")
    shown = fraction.rstrip("0").ljust(places, "0")
    return f"{whole}.{shown}" if shown else whole
