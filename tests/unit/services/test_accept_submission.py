"""Submissions through the broker: whose they are, what is refused, what a repeated delivery does."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from nubabel_workers.domain.dead_letters import DeadLetterReason
from nubabel_workers.domain.errors import TransientError, UnavailableError
from nubabel_workers.domain.submission import SIGNATURE_WINDOW_S, sign
from nubabel_workers.services.accept_submission import AcceptSubmission, Refused
from nubabel_workers.services.submit_execution import Submitted
from tests.fakes.clock import START
from tests.fakes.dead_letters import FakeDeadLetters
from tests.fakes.front_door import ACME, OTHER, FrontDoor

SECRET = "nbk_secret"
NOW = int(START.timestamp())
DELIVERY = "c0ffee"


@pytest.fixture
def door() -> FrontDoor:
    door = FrontDoor()
    door.tenants.add_submit_key("key_acme", ACME.id, SECRET)
    return door


@pytest.fixture
def dead_letters() -> FakeDeadLetters:
    return FakeDeadLetters()


def accepting(door: FrontDoor, dead_letters: FakeDeadLetters, trusted: str | None = None) -> AcceptSubmission:
    return AcceptSubmission(
        door.tenants,
        dead_letters.store(),
        door.submit,
        door.foreign_ids,
        door.clock,
        door.chance,
        trusted_organization_id=trusted,
    )


def signed(request: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "key_id": "key_acme",
        "secret": SecretStr(SECRET),
        "issued_at": NOW,
        "nonce": "n" * 16,
        **changes,
    }
    return sign(request or {"prompt": "Hello"}, **parts)


async def test_the_organization_comes_from_the_key(door: FrontDoor, dead_letters: FakeDeadLetters) -> None:
    outcome = await accepting(door, dead_letters).accept(signed(), delivery_id=DELIVERY)

    assert isinstance(outcome, Submitted)
    assert (door.executions.only().organization_id, door.executions.only().source) == (ACME.id, "broker")


async def test_the_same_delivery_again_is_the_same_execution(door: FrontDoor, dead_letters: FakeDeadLetters) -> None:
    accept = accepting(door, dead_letters).accept
    first = await accept(signed(), delivery_id=DELIVERY)
    second = await accept(signed(), delivery_id=DELIVERY)

    assert isinstance(first, Submitted)
    assert isinstance(second, Submitted)
    assert (second.execution_id, second.created) == (first.execution_id, False)
    assert dead_letters.added == []


async def test_a_later_version_waits_for_a_worker_that_reads_it_while_its_signature_counts(
    door: FrontDoor, dead_letters: FakeDeadLetters
) -> None:
    accept = accepting(door, dead_letters).accept
    later = signed() | {"version": 2, "request": {"question": "of a later release"}}

    with pytest.raises(TransientError, match="left to a newer worker"):
        await accept(later, delivery_id=DELIVERY)
    door.clock.advance(SIGNATURE_WINDOW_S + 1)
    outcome = await accept(later, delivery_id=DELIVERY)

    assert isinstance(outcome, Refused)
    assert outcome.code == "newer_version"
    (letter,) = dead_letters.added
    assert "version 2" in letter.error


@pytest.mark.parametrize("issued_at", [None, "now", True, 10**12])
async def test_a_later_version_of_unknown_age_is_refused(
    door: FrontDoor, dead_letters: FakeDeadLetters, issued_at: object
) -> None:
    raw = {"version": 99, "request": {}, "issued_at": issued_at}

    outcome = await accepting(door, dead_letters).accept(raw, delivery_id=DELIVERY)

    assert isinstance(outcome, Refused)


async def test_a_worker_that_died_before_storing_leaves_the_message_acceptable(
    door: FrontDoor, dead_letters: FakeDeadLetters
) -> None:
    accept = accepting(door, dead_letters).accept
    door.executions.error = UnavailableError("the database cannot be reached")
    with pytest.raises(UnavailableError):
        await accept(signed(), delivery_id=DELIVERY)
    door.executions.error = None

    outcome = await accept(signed(), delivery_id=DELIVERY)

    assert isinstance(outcome, Submitted)
    assert outcome.created


async def test_at_a_limit_a_submission_is_set_aside_with_the_reason(
    door: FrontDoor, dead_letters: FakeDeadLetters
) -> None:
    door.tenants.add_organization(replace(ACME, limits={"queued": 0}))

    outcome = await accepting(door, dead_letters).accept(signed(), delivery_id=DELIVERY)

    assert isinstance(outcome, Refused)
    assert outcome.code == "queued_reached"
    (letter,) = dead_letters.added
    assert (letter.organization_id, door.executions.rows) == (ACME.id, {})
    assert "limit" in letter.error


async def test_a_nonce_is_good_for_one_message(door: FrontDoor, dead_letters: FakeDeadLetters) -> None:
    accept = accepting(door, dead_letters).accept
    await accept(signed({"prompt": "Hello", "idempotency_key": "a"}), delivery_id=DELIVERY)

    outcome = await accept(signed({"prompt": "Hello", "idempotency_key": "b"}), delivery_id=DELIVERY)

    assert isinstance(outcome, Refused)
    assert outcome.code == "nonce_reused"
    assert len(door.executions.rows) == 1


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ({"request": {"prompt": "Hello"}}, "unsigned"),
        (signed(key_id="key_unknown"), "unknown_key"),
        (signed(secret=SecretStr("another")), "bad_signature"),
        (signed() | {"request": {"prompt": "Delete everything"}}, "bad_signature"),
        (signed(issued_at=NOW - 301), "signature_too_old"),
        (signed(issued_at=NOW + 301), "signature_too_old"),
        (signed() | {"issued_at": NOW + 1}, "bad_signature"),
        ({key: value for key, value in signed().items() if key != "signature"}, "invalid_submission"),
        (signed({"prompt": ""}), "invalid_submission"),
        (signed({"prompt": "x", "organization_id": OTHER.id}), "invalid_submission"),
        (signed() | {"organization_id": OTHER.id}, "invalid_submission"),
        (signed({"prompt": "x", "session_id": "ses_" + "0" * 26}), "session_not_found"),
        ("Hello", "invalid_submission"),
        (None, "invalid_submission"),
        ([], "invalid_submission"),
        ({}, "invalid_submission"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_refused_becomes_a_dead_letter_with_the_reason(
    door: FrontDoor, dead_letters: FakeDeadLetters, raw: Any, code: str
) -> None:
    outcome = await accepting(door, dead_letters).accept(raw, delivery_id=DELIVERY)

    (letter,) = dead_letters.added
    assert isinstance(outcome, Refused)
    assert outcome.code == code
    assert letter.reason is DeadLetterReason.REFUSED_SUBMISSION
    assert letter.error.startswith(f"{code}: ")
    assert letter.payload is not None
    assert door.executions.rows == {}


async def test_a_refusal_before_the_signature_fits_accuses_no_organization(
    door: FrontDoor, dead_letters: FakeDeadLetters
) -> None:
    accept = accepting(door, dead_letters).accept
    await accept(signed(secret=SecretStr("another")), delivery_id=DELIVERY)
    await accept(signed({"prompt": "x", "session_id": "ses_" + "0" * 26}), delivery_id=DELIVERY)

    assert [letter.organization_id for letter in dead_letters.added] == [None, ACME.id]


async def test_a_disabled_organizations_key_is_refused(door: FrontDoor, dead_letters: FakeDeadLetters) -> None:
    door.tenants.add_organization(replace(ACME, disabled_at=START))

    outcome = await accepting(door, dead_letters).accept(signed(), delivery_id=DELIVERY)

    assert isinstance(outcome, Refused)
    assert outcome.code == "organization_disabled"


async def test_a_trusted_brokers_unsigned_submissions_belong_to_its_organization(
    door: FrontDoor, dead_letters: FakeDeadLetters
) -> None:
    accept = accepting(door, dead_letters, trusted=OTHER.id).accept
    unsigned = {"request": {"prompt": "Hello"}}

    first = await accept(unsigned, delivery_id=DELIVERY)
    again = await accept(unsigned, delivery_id=DELIVERY)
    other = await accept(unsigned, delivery_id="another")

    assert isinstance(first, Submitted)
    assert isinstance(again, Submitted)
    assert isinstance(other, Submitted)
    assert again.execution_id == first.execution_id != other.execution_id
    assert {row.organization_id for row in door.executions.rows.values()} == {OTHER.id}


async def test_on_a_trusted_broker_a_signature_still_decides(door: FrontDoor, dead_letters: FakeDeadLetters) -> None:
    await accepting(door, dead_letters, trusted=OTHER.id).accept(signed(), delivery_id=DELIVERY)

    assert door.executions.only().organization_id == ACME.id


async def test_the_producers_trace_goes_on(door: FrontDoor, dead_letters: FakeDeadLetters) -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    await accepting(door, dead_letters).accept(
        signed({"prompt": "Hello", "traceparent": traceparent}), delivery_id=DELIVERY
    )

    assert door.executions.only().traceparent == traceparent
