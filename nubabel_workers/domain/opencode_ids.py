"""Ids of OpenCode's own format, derived instead of drawn: a repeat of a prompt must carry the same ones.

Format (measured on opencode 1.18.33): prefix, `_`, 12 hex digits of `(unix_ms << 12) + n`, 14 base-62 characters.
A message id is a key of the whole server, so everything that tells two prompts apart belongs into its seed.
"""

import hashlib
from dataclasses import dataclass

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_HEAD_BITS = 48
_TAIL_LENGTH = 14


@dataclass(frozen=True, slots=True)
class PromptIds:
    """The ids of one prompt: its message and its parts, in order."""

    message_id: str
    part_ids: tuple[str, ...]


def opencode_id(prefix: str, unix_ms: int, seed: str, n: int = 1) -> str:
    """Same input, same id. prefix: ses, msg or prt. n: distinguishes ids of one millisecond in the sort order.

    unix_ms: a stored time of creation, never the time of a retry.
    """
    head = ((unix_ms << 12) + n) & ((1 << _HEAD_BITS) - 1)
    if prefix == "ses":  # sessions sort newest first
        head ^= (1 << _HEAD_BITS) - 1
    digest = hashlib.sha256(seed.encode()).digest()
    return f"{prefix}_{head:012x}" + "".join(_BASE62[byte % 62] for byte in digest[:_TAIL_LENGTH])


def prompt_ids(
    organization_id: str, opencode_session_id: str, execution_id: str, *, created_ms: int, parts: int = 1
) -> PromptIds:
    """The ids under which every attempt of an execution posts its prompt. created_ms: of the execution."""
    seed = f"{organization_id}\x00{opencode_session_id}\x00{execution_id}"
    return PromptIds(
        message_id=opencode_id("msg", created_ms, seed),
        part_ids=tuple(opencode_id("prt", created_ms, f"{seed}\x00{n}", n=n) for n in range(1, parts + 1)),
    )
