"""What a search for sensitive data finds in a text."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum


class SensitiveKind(StrEnum):
    """The words of placeholders, of the timeline and of refusals."""

    KEY = "key"
    PASSWORD = "password"  # noqa: S105 - a kind
    CARD = "card number"
    MAIL = "mail address"
    KOREAN_ID = "resident registration number"
    NATIONAL_ID = "national id"


class OutOfTimeError(Exception):
    """There was no time left to look through all of it."""


Patience = Callable[[], None]  # called every now and then by whoever looks; raises OutOfTimeError


def endless() -> None:
    """Patience for texts whose length was limited before."""


@dataclass(frozen=True)
class Finding:
    """text[start:end] is of that kind. canonical: the same value gives the same one, however it is written."""

    start: int
    end: int
    kind: SensitiveKind
    canonical: str = field(repr=False)
