"""Ids of OpenCode's own format, derived instead of drawn: a repeat of a prompt must carry the same ones.

Format (measured on opencode 1.18.33): prefix, `_`, 12 hex digits of `(unix_ms << 12) + n`, 14 base-62 characters.
A message id is a key of the whole server, so everything that tells two prompts apart belongs into its seed.
"""

import hashlib
import re
from dataclasses import dataclass

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_HEAD_BITS = 48
_TAIL_LENGTH = 14
# Longer ones work in some of the server's routes only.
_TAIL = re.compile(r"[A-Za-z0-9._-]{1,120}")


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


def is_opencode_id(prefix: str, value: str) -> bool:
    """Whether the server may be asked for it. prefix: ses, msg, prt, per or que.

    Wider than the format, as the server is: clients may choose the ids of their messages.
    """
    return value.startswith(prefix) and _TAIL.fullmatch(value.removeprefix(prefix)) is not None


def prompt_ids(
    organization_id: str, opencode_session_id: str, execution_id: str, *, created_ms: int, parts: int = 1
) -> PromptIds:
    """The ids under which every attempt of an execution posts its prompt. created_ms: of the execution."""
    seed = f"{organization_id}\x00{opencode_session_id}\x00{execution_id}"
    return PromptIds(
        message_id=opencode_id("msg", created_ms, seed),
        part_ids=tuple(opencode_id("prt", created_ms, f"{seed}\x00{n}", n=n) for n in range(1, parts + 1)),
    )
