"""Names of the things this system stores. Every id is `<prefix>_<26 characters>`, sortable by time of creation."""

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
    number = (unix_ms & ((1 << 48) - 1)) << 80 | int.from_bytes(entropy[:RANDOM_BYTES], "big")
    digits = [_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"
