"""Ids that we choose for messages and parts on OpenCode: derived, so that every repeat of a submit has the same.

A message id is a key of the whole OpenCode server (measured on 1.18.33): the organization and the OpenCode session are
part of what it is derived from, so that no other session's message can ever be hit.
"""

import hashlib

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_HEAD_BITS = 48
_TAIL_CHARACTERS = 14


def opencode_id(prefix: str, unix_ms: int, seed: str, n: int = 1) -> str:
    """`<prefix>_` + 12 hex digits of time + 14 characters of the seed's hash: the format of OpenCode's own ids.

    unix_ms: a stored creation time, never the time of a retry. n: counts ids of the same millisecond, from 1.
    """
    head = ((unix_ms << 12) + n) & ((1 << _HEAD_BITS) - 1)
    digest = hashlib.sha256(seed.encode()).digest()
    return f"{prefix}_{head:012x}" + "".join(_BASE62[byte % 62] for byte in digest[:_TAIL_CHARACTERS])


def message_id(organization_id: str, opencode_session_id: str, execution_id: str, created_ms: int) -> str:
    return opencode_id("msg", created_ms, f"{organization_id}/{opencode_session_id}/{execution_id}")


def part_id(message: str, created_ms: int, number: int) -> str:
    """number: place of the part in its message, from 1."""
    return opencode_id("prt", created_ms, f"{message}/{number}", number)
