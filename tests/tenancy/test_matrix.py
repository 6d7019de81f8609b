"""The suite cannot shrink unnoticed: so many different attempts there are at each kind of door, and no fewer."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.opencode_plugin.attempts import (
    AGENT,
    SUB_AGENT,
    Victim,
    attempts,
    attempts_with_hidden_tools,
    cell_of,
)
from tests.tenancy import (
    test_broker,
    test_cache,
    test_command_line,
    test_directories,
    test_http,
    test_opencode,
    test_slack,
)
from tests.tenancy.matrix import Cell, Seen, Tried, family, table

# Different (door, position of the id, method). Who removes a door takes its cells off here.
AT_LEAST = {
    "HTTP": 214,
    "event streams": 14,
    "callbacks": 28,
    "tools": 24,
    "broker": 50,
    "Slack": 14,
    "cache": 15,
    "OpenCode": 8,
    "nubabel": 37,
    "agent tools": 74,
}


def cells() -> Iterator[Cell]:
    for tests in (test_http, test_broker, test_cache, test_slack, test_command_line, test_opencode, test_directories):
        yield from tests.CELLS
    nobody = Victim("ses_b", "ses_c", "org_b", Path("/b/note.txt"), "http://127.0.0.1:1", "p", Path("/home"), 1)
    offered = [call for calls in attempts(nobody).values() for call in calls]
    hidden = attempts_with_hidden_tools(nobody)
    for call in (*offered, *hidden):
        yield cell_of(call, AGENT)
    for call in (*(one for one in offered if one.tool != "task"), *hidden):
        yield cell_of(call, SUB_AGENT)


@pytest.mark.parametrize("kind", AT_LEAST)
def test_a_kind_of_door_is_tried_in_as_many_ways_as_before(kind: str) -> None:
    assert len({cell for cell in cells() if family(cell[0]) == kind}) >= AT_LEAST[kind]


def test_every_attempt_is_at_a_known_kind_of_door() -> None:
    assert {family(door) for door, _, _ in cells()} == AT_LEAST.keys()


def test_the_account_says_how_each_attempt_was_seen() -> None:
    tried: Counter[Tried] = Counter(
        {("GET /a", "path id", "as it is", Seen.AUDITED): 2, ("GET /a", "path id", "x", Seen.NO_ID): 1}
    )

    assert [" ".join(line.split()) for line in table(tried)] == [
        "GET /a path id audited as it is 2",
        "GET /a path id no id arrives x 1",
        "3 attempts: 1 doors, 1 positions, 2 with methods",
        "2 audited, 1 no id arrives",
    ]
