"""Prompts without what must not leave: each finding becomes a placeholder that tells its kind and never its value."""

import base64
import hmac
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from nubabel_workers.domain.findings import Finding, Patience, SensitiveKind, endless
from nubabel_workers.domain.sensitive_data import find

WAITS_FOR_MASKING: Final = "masking"  # the reason, in the row and the timeline
_MOST_READINGS: Final = 3  # two are enough for all that was generated; a text made to need more must not take longer
_TAG_CHARACTERS: Final = 4  # a million different ones: two values of one conversation hardly ever look the same


class MaskingPolicy(StrEnum):
    """What becomes of keys, card numbers, mail addresses and national ids in a prompt before it leaves."""

    OFF = "off"
    MASK = "mask"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Masked:
    """counts: how many findings of each kind were replaced."""

    text: str
    counts: Mapping[SensitiveKind, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Cleaning:
    """What it came to, for the timeline. masked: values that did not leave, by kind. unread: files that could not be
    looked through, by reason; held_back: those did not leave either. left_out: what else did not leave, since there was
    no time to look through it: how many of what.
    """

    masked: Mapping[str, int] = field(default_factory=dict)
    unread: Mapping[str, int] = field(default_factory=dict)
    held_back: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.masked or self.unread or self.left_out)

    def with_more(self, other: "Cleaning") -> "Cleaning":
        """Together with what became of texts that go along; what nobody could look through is this one's alone."""
        masked, left_out = (Counter(one) for one in (self.masked, self.left_out))
        return replace(self, masked=masked + Counter(other.masked), left_out=left_out + Counter(other.left_out))

    def as_dict(self) -> dict[str, Any]:
        unread = {"unread": dict(self.unread), "held_back": self.held_back} if self.unread else {}
        left_out = {"left_out": dict(self.left_out)} if self.left_out else {}
        return {"kinds": dict(self.masked), **unread, **left_out}


class Placeholders:
    """`[card number K7QD]`: in one conversation the same value always has the same one, whichever process makes it.

    The tag is keyed: card numbers and birth dates are few enough to try them all against one that is not.
    """

    def __init__(self, key: bytes, conversation_id: str) -> None:
        self._key = hmac.digest(key, conversation_id.encode(), "sha256")

    def placeholder(self, finding: Finding) -> str:
        digest = hmac.digest(self._key, f"{finding.kind}\0{finding.canonical}".encode(errors="replace"), "sha256")
        return f"[{finding.kind} {base64.b32encode(digest).decode()[:_TAG_CHARACTERS]}]"


def mask(text: str, placeholders: Placeholders, patience: Patience = endless) -> Masked:
    """Without findings the very same text comes back. Raises what patience does.

    Read again after each replacement: what is left of one that overlapped with another stands alone only then.
    """
    counts: Counter[SensitiveKind] = Counter()
    for _ in range(_MOST_READINGS):
        found = find(text, patience)
        if not found:
            break
        text = _replaced(text, found, placeholders)
        counts.update(one.kind for one in found)
    return Masked(text, counts)


def _replaced(text: str, found: Sequence[Finding], placeholders: Placeholders) -> str:
    parts: list[str] = []
    at = 0
    for one in found:
        parts += (text[at : one.start], placeholders.placeholder(one))
        at = one.end
    return "".join([*parts, text[at:]])
