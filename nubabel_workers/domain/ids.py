"""Names of the things this system stores. Every id is `<prefix>_<26 characters>`, sortable by time of creation."""

import hashlib
from collections.abc import Iterable
from typing import NewType

OrganizationId = NewType("OrganizationId", str)
WorkspaceId = NewType("WorkspaceId", str)
SessionId = NewType("SessionId", str)
ExecutionId = NewType("ExecutionId", str)
NotificationId = NewType("NotificationId", str)
InboundEventId = NewType("InboundEventId", str)
DeadLetterId = NewType("DeadLetterId", str)
InstanceId = NewType("InstanceId", str)
ServiceTokenId = NewType("ServiceTokenId", str)
ToolConnectionId = NewType("ToolConnectionId", str)

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
RANDOM_BYTES = 10  # 80 random bits beside 48 bits of milliseconds, as in ULID (https://github.com/ulid/spec)


def compose_id(prefix: str, unix_ms: int, entropy: bytes) -> str:
    """Pure: the same input gives the same id. entropy: RANDOM_BYTES random bytes."""
    return _written(prefix, (unix_ms & ((1 << 48) - 1)) << 80 | int.from_bytes(entropy[:RANDOM_BYTES], "big"))


def derived_id(prefix: str, parts: Iterable[str]) -> str:
    """The same parts give the same id, everywhere; it tells nothing about a time."""
    digest = hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogatepass")).digest()
    return _written(prefix, int.from_bytes(digest[:16], "big"))


def _written(prefix: str, number: int) -> str:
    """number: 128 bits."""
    digits = [_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"
