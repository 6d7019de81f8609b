"""Earlier turns without what must not leave. A long conversation may be more than there is time for."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from nubabel_workers.domain.earlier_turns import EarlierTurns, Turn
from nubabel_workers.domain.findings import OutOfTimeError, Patience, SensitiveKind
from nubabel_workers.domain.masking import Placeholders, mask


def masked_turns(
    earlier: EarlierTurns, placeholders: Placeholders, patience: Patience
) -> tuple[EarlierTurns, Mapping[SensitiveKind, int]]:
    """With how many findings of each kind were replaced. When patience ends, what is not masked yet counts as unread.

    In the order of what one would miss most: the newest, the first, then the others from the newest on.
    """
    turns = earlier.turns
    masked: dict[int, Turn] = {}
    counts: Counter[SensitiveKind] = Counter()
    try:
        for number in _most_missed_first(len(turns)):
            patience()
            question = mask(turns[number].question, placeholders, patience)
            answer = mask(turns[number].answer, placeholders, patience)
            masked[number] = Turn(question.text, answer.text)
            counts.update(question.counts)
            counts.update(answer.counts)
    except OutOfTimeError:
        pass  # told are those that are masked
    told = [masked[number] for number in sorted(masked)]
    return replace(earlier, turns=told, unread=earlier.unread + len(turns) - len(told)), counts


def _most_missed_first(count: int) -> list[int]:
    newest, *others = reversed(range(count))
    return [newest, *others[-1:], *others[:-1]]
