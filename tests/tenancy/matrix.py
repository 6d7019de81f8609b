"""How often which door was tried, with the other's id at which position, by which method: the suite's own account."""

from collections import Counter
from collections.abc import Iterable, Iterator

import pytest

PROPERTY = "tenancy attempt"
Tried = tuple[str, str, str]  # door, position, method


def note(request: pytest.FixtureRequest, door: str, position: str, method: str) -> None:
    """Of the test that is running; reports carry it to the process that prints."""
    request.node.user_properties.append((PROPERTY, (door, position, method)))


def tried(reports: Iterable[object]) -> Counter[Tried]:
    return Counter(
        tuple(value)
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in getattr(report, "user_properties", ())
        if name == PROPERTY
    )


def table(attempts: Counter[Tried]) -> Iterator[str]:
    methods: dict[tuple[str, str], list[str]] = {}
    for (door, position, method), times in sorted(attempts.items()):
        methods.setdefault((door, position), []).append(f"{method} {times}")
    doors = {door for door, _, _ in attempts}
    for (door, position), counted in methods.items():
        yield f"{door:<56} {position:<34} {', '.join(counted)}"
    kinds = {method for _, _, method in attempts}
    yield f"{attempts.total()} attempts: {len(doors)} doors, {len(methods)} positions, {len(kinds)} methods"
