"""Whom a caller says it acts for: in headers, in the body, in several places. All must agree with its token. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ORGANIZATION_HEADER = "X-Organization-ID"
USER_HEADER = "X-User-ID"

_ORGANIZATION_NAMES = ("organization_id", "organizationId")
_USER_NAMES = ("user_id", "userId")


@dataclass(frozen=True)
class Mismatch:
    """what: "organization" or "user". place: which claim disagrees; its value may be anything and is not kept."""

    what: str
    place: str


@dataclass(frozen=True)
class Claims:
    """What was said, as place -> value, e.g. "header X-User-ID" or "body.metadata.user_id"."""

    organizations: Mapping[str, str]
    users: Mapping[str, str]

    @classmethod
    def of(
        cls, *, organization: str | None, user: str | None, parts: Mapping[str, Mapping[str, Any] | None]
    ) -> "Claims":
        """organization, user: the headers' values. parts: place -> what the body says there."""
        return cls(
            _header(ORGANIZATION_HEADER, organization) | _named(_ORGANIZATION_NAMES, parts),
            _header(USER_HEADER, user) | _named(_USER_NAMES, parts),
        )

    def mismatch(self, organization_id: str) -> Mismatch | None:
        """The first claim that is not the token's organization, or another user than the one named first."""
        for place, value in self.organizations.items():
            if value != organization_id:
                return Mismatch("organization", place)
        for place, value in self.users.items():
            if value != self.user_id:
                return Mismatch("user", place)
        return None

    @property
    def user_id(self) -> str | None:
        return next(iter(self.users.values()), None)


def _header(name: str, value: str | None) -> dict[str, str]:
    return {} if value is None else {f"header {name}": value}


def _named(names: tuple[str, ...], parts: Mapping[str, Mapping[str, Any] | None]) -> dict[str, str]:
    return {
        f"{place}.{name}": str(value)
        for place, part in parts.items()
        for name in names
        if (value := (part or {}).get(name)) is not None
    }
