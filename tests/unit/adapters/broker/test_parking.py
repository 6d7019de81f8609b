import json
from typing import Any

import fakeredis
import pytest

from nubabel_workers.adapters.broker.parking import (
    Parking,
    dead_letter_from_json,
    dead_letter_to_json,
    describe,
)
from nubabel_workers.domain.dead_letters import DeadLetterReason, NewDeadLetter
from nubabel_workers.domain.errors import InvalidInputError, UnavailableError

LETTER = describe(
    DeadLetterReason.UNKNOWN_TASK,
    queue="orchestration",
    task="nobody.knows",
    error="KeyError: 'nobody.knows'",
    raw=b"raw",
    headers={"id": "1"},
)


class Database:
    def __init__(self, *, fails_with: Exception | None = None) -> None:
        self.kept: list[NewDeadLetter] = []
        self._error = fails_with

    def keep(self, letter: NewDeadLetter) -> None:
        if self._error:
            raise self._error
        self.kept.append(letter)


class BrokenBroker:
    def lpush(self, *_args: Any) -> None:
        raise ConnectionError("gone as well")


def parking(database: Database, broker: Any) -> tuple[Parking, list[tuple[str, str]]]:
    counted: list[tuple[str, str]] = []
    return (
        Parking(
            database.keep,
            broker,
            park_task="dead_letters.park",
            park_queue="dead-letter",
            on_parked=lambda reason, kept_in: counted.append((reason, kept_in)),
        ),
        counted,
    )


def test_a_message_is_kept_in_the_database() -> None:
    database, broker = Database(), fakeredis.FakeRedis()
    parked, counted = parking(database, broker)

    assert parked.park(LETTER)

    assert database.kept == [LETTER]
    assert counted == [("unknown-task", "database")]
    assert broker.llen("dead-letter") == 0


@pytest.mark.parametrize("error", [UnavailableError("away"), TimeoutError(), KeyError("x"), OSError(), ValueError()])
def test_when_the_database_fails_in_any_way_the_broker_keeps_it(error: Exception) -> None:
    broker = fakeredis.FakeRedis()
    parked, counted = parking(Database(fails_with=error), broker)

    assert parked.park(LETTER)

    (raw,) = broker.lrange("dead-letter", 0, -1)
    assert json.loads(raw)["headers"]["task"] == "dead_letters.park"
    assert counted == [("unknown-task", "broker")]


def test_when_both_fail_it_says_so_and_does_not_raise() -> None:
    parked, counted = parking(Database(fails_with=UnavailableError("away")), BrokenBroker())

    assert not parked.park(LETTER)

    assert counted == [("unknown-task", "log")]


def test_a_dead_letter_survives_the_way_through_the_broker() -> None:
    through = json.loads(json.dumps(dead_letter_to_json(LETTER)))

    assert dead_letter_from_json(through) == LETTER


@pytest.mark.parametrize("argument", [{}, {"queue": 1}, {**dead_letter_to_json(LETTER), "reason": "because"}])
def test_what_is_no_dead_letter_is_refused(argument: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        dead_letter_from_json(argument)


def test_a_description_holds_nothing_that_postgresql_refuses() -> None:
    letter = describe(
        DeadLetterReason.HANDLER_CRASH,
        queue="q\x00",
        task={"not": "a name"},
        error="\ud800" * 5000,
        raw="\x00" * 100_000,
        headers={"a": "\x00", "b": ["\ud800"]},
    )

    json.dumps(dead_letter_to_json(letter)).encode()
    assert "\x00" not in repr(letter)
    assert letter.task == ""
    assert len(letter.error) == 2000
