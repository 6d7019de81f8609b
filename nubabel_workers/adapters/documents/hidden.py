"""What stands in a document beside its words: attributes, names, comments, what is about it.

Nearly all of it is for programs, and would be noise to whoever reads the words. Told is what must not leave unseen.
"""

import re
from collections.abc import Iterable
from decimal import Decimal

from nubabel_workers.domain.sensitive_data import find

_MAY_TELL = re.compile(r"[@\d]")  # there is nothing to find without one of these
_SHORTEST = 6
_SCIENTIFIC = re.compile(r"-?\d(?:\.\d+)?E\+?\d{1,2}", re.IGNORECASE)


def told(values: Iterable[str]) -> str:
    """The values with something that is looked for, each once and on a line of its own."""
    distinct = {in_full(value) for value in values if len(value) >= _SHORTEST and _MAY_TELL.search(value)}
    if not find("\n".join(distinct)):
        return ""
    return "\n".join(sorted(value for value in distinct if find(value)))


def in_full(number: str) -> str:
    """4.1E3 as 4100, which is what people are shown; anything else as it is."""
    return format(Decimal(number), "f") if _SCIENTIFIC.fullmatch(number) else number
