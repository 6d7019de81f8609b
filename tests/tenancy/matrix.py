"""How often which door was tried, with the other's id at which position, by which method, and how the audit log saw it:
the suite's own account.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum

import pytest

PROPERTY = "tenancy attempt"
Cell = tuple[str, str, str]  # door, position, method
Tried = tuple[str, str, str, str]  # a cell, and how it was seen


class Seen(StrEnum):
    """What an attempt leaves in the audit log."""

    AUDITED = "audited"
    # What is named is looked up together with the caller's organization: it means the caller's own thing, or nothing.
    NOT_NAMED = "cannot be named"
    NO_ID = "no id arrives"  # what the other's id has become on its way has not the form of one: nobody looks for it
    NO_CALLER = "unknown caller"  # refused before anything is read: the log has it, whoever it was
    NOT_READ = "not read"  # the field stands for nothing that is looked up
    STOPPED_BEFORE = "stopped before us"  # by the OpenCode server or its plugin: we never hear of it


def family(door: str) -> str:
    """Which kind of way in."""
    if re.match("[A-Z]+ /", door) is None:
        return door.partition(":")[0] if ":" in door else door.partition(" ")[0]
    if door.endswith(("/events", "/stream")):
        return "event streams"
    if "/mcp/" in door:
        return "tools"
    return "callbacks" if "/api/sidecar/" in door or "/internal/" in door else "HTTP"


def note(request: pytest.FixtureRequest, cell: Cell, seen: Seen) -> None:
    """Of the test that is running; reports carry it to the process that prints."""
    request.node.user_properties.append((PROPERTY, (*cell, str(seen))))


def tried(reports: Iterable[object]) -> Counter[Tried]:
    return Counter(
        tuple(value)
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in getattr(report, "user_properties", ())
        if name == PROPERTY
    )


def table(attempts: Counter[Tried]) -> Iterator[str]:
    rows: dict[tuple[str, str, str], list[str]] = {}
    for (door, position, method, seen), times in sorted(attempts.items()):
        rows.setdefault((door, position, seen), []).append(f"{method} {times}")
    for (door, position, seen), counted in rows.items():
        yield f"{door:<57} {position:<34} {seen:<17} {', '.join(counted)}"
    doors = {door for door, _, _, _ in attempts}
    positions = {(door, position) for door, position, _, _ in attempts}
    cells = {tuple(one[:3]) for one in attempts}
    by_seen: Counter[str] = Counter()
    for one, times in attempts.items():
        by_seen[one[3]] += times
    yield f"{attempts.total()} attempts: {len(doors)} doors, {len(positions)} positions, {len(cells)} with methods"
    yield ", ".join(f"{times} {seen}" for seen, times in by_seen.most_common())
