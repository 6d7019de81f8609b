"""Ids that a caller names and its organization does not have: nobody's, or another's. Which of the two, only operators
are told.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class IdKind(StrEnum):
    """What an id names, where callers can name it."""

    EXECUTION = "execution"
    BATCH = "batch"
    SESSION = "session"  # ours, or OpenCode's
    CONNECTION = "connection"


_FORMS: Mapping[IdKind, re.Pattern[str]] = {
    IdKind.EXECUTION: re.compile(r"exe_[0-9a-z]{26}"),
    IdKind.BATCH: re.compile(r"bat_[0-9a-z]{26}"),
    IdKind.SESSION: re.compile(r"ses_[0-9A-Za-z_-]{1,80}"),
    IdKind.CONNECTION: re.compile(r"mcp_[0-9a-z]{26}"),
}


def kind_of(name: str) -> IdKind | None:
    """None for what cannot be an id: a caller's own name for something, a provider."""
    return next((kind for kind, form in _FORMS.items() if form.fullmatch(name)), None)


@dataclass(frozen=True)
class Sought:
    """What was looked for in an organization and is not there. name: as the caller said it, an id or not."""

    organization_id: str
    name: str


@dataclass(frozen=True)
class Naming:
    """Who named it, and where. actor: as the audit log says it. door: an operation, a task, a command."""

    actor: str
    door: str
    sought: Sought
