"""Earlier turns are told masked or not at all."""

import pytest

from nubabel_workers.domain.earlier_turns import EarlierTurns, Turn
from nubabel_workers.domain.findings import OutOfTimeError, Patience, SensitiveKind, endless
from nubabel_workers.domain.masked_turns import masked_turns
from nubabel_workers.domain.masking import Placeholders

CARD = "4111 1111 1111 1111"
PLACEHOLDERS = Placeholders(b"a key of the tests", "ses_1")


def conversation(count: int, *, unread: int = 0) -> EarlierTurns:
    return EarlierTurns([Turn(f"Q{number} {CARD}", f"A{number} {CARD}") for number in range(count)], unread)


def patience_of(calls: int) -> Patience:
    left = iter(range(calls))

    def patience() -> None:
        if next(left, None) is None:
            raise OutOfTimeError

    return patience


def test_all_are_masked_in_their_order_when_there_is_time() -> None:
    found, counts = masked_turns(conversation(4, unread=2), PLACEHOLDERS, endless)

    assert [turn.question[:2] for turn in found.turns] == ["Q0", "Q1", "Q2", "Q3"]
    assert found.unread == 2
    assert counts == {SensitiveKind.CARD: 8}


@pytest.mark.parametrize("calls", range(0, 400, 5))
def test_out_of_time_there_are_fewer_turns_and_none_unmasked(calls: int) -> None:
    found, counts = masked_turns(conversation(9, unread=2), PLACEHOLDERS, patience_of(calls))

    kept = [turn.question[:2] for turn in found.turns]
    assert kept in [[], ["Q8"], *(["Q0", *(f"Q{number}" for number in range(first, 9))] for first in range(1, 9))]
    assert found.unread == 2 + 9 - len(kept)
    assert not [turn for turn in found.turns if CARD in turn.question + turn.answer]
    assert sum(counts.values()) == 2 * len(kept)


def test_some_time_is_enough_for_some() -> None:
    lengths = {len(masked_turns(conversation(9), PLACEHOLDERS, patience_of(calls))[0].turns) for calls in range(600)}

    assert lengths == set(range(10))
