"""Slack's limits as the local Slack keeps them: sizes always, rates when switched on.

Sizes beyond those of the documentation (edits in bytes, all blocks together) are the ones that other projects report.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from nubabel_workers.simulators.slack.model import ApiError, Json

MAX_TEXT_CHARS: Final = 40_000
MAX_UPDATE_TEXT_BYTES: Final = 4_000
MAX_MARKDOWN_CHARS: Final = 12_000
MAX_BLOCKS_CHARS: Final = 13_000
MAX_BLOCKS: Final = 50
MAX_SECTION_CHARS: Final = 3_000
MAX_METADATA_BYTES: Final = 4_000
MAX_ACTIONS: Final = 25  # elements of an actions block
MAX_LABEL_CHARS: Final = 75
MAX_ACTION_ID_CHARS: Final = 255
MAX_VALUE_CHARS: Final = 2_000


@dataclass(frozen=True, slots=True)
class RateLimits:
    """None: unlimited. Windows are real time."""

    posts_per_channel_per_s: float | None = None
    reads_per_minute: float | None = None  # conversations.replies, per workspace
    max_messages_per_read: int = 1_000  # 15 for distributed apps outside the Marketplace


class RateLimiter:
    """One call per interval and key. Refused calls do not count."""

    def __init__(self) -> None:
        self._free_at: dict[tuple[str, ...], float] = {}

    def take(self, key: tuple[str, ...], per_s: float | None) -> float | None:
        """None when allowed, else the seconds to wait."""
        if per_s is None:
            return None
        now = time.monotonic()
        free_at = self._free_at.get(key, now)
        if free_at > now:
            return free_at - now
        self._free_at[key] = now + 1 / per_s
        return None


class RateLimitedCall(Exception):  # noqa: N818 - an answer, not a fault
    """Becomes HTTP 429 with Retry-After in whole seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"retry after {wait_s} s")
        self.retry_after_s = max(1, math.ceil(wait_s))


def check_post(args: Mapping[str, Any]) -> tuple[str, list[Json]]:
    """Text and blocks of a post, or the error that Slack would give."""
    text, blocks = args.get("text") or "", _blocks(args)
    markdown_text = args.get("markdown_text")
    if markdown_text is not None:
        if text or blocks:
            raise ApiError("markdown_text_conflict")
        blocks = [{"type": "markdown", "text": str(markdown_text)}]
    if not text and not blocks:
        raise ApiError("no_text")
    if len(json.dumps(args.get("metadata") or {}).encode()) > MAX_METADATA_BYTES:
        raise ApiError("metadata_too_large")
    _check_blocks(blocks)
    return str(text)[:MAX_TEXT_CHARS], blocks


def check_update(args: Mapping[str, Any]) -> tuple[str, list[Json]]:
    text, blocks = str(args.get("text") or ""), _blocks(args)
    if not text and not blocks:
        raise ApiError("no_text")
    if len(text.encode()) > MAX_UPDATE_TEXT_BYTES:
        raise ApiError("msg_too_long")
    _check_blocks(blocks)
    return text, blocks


def _blocks(args: Mapping[str, Any]) -> list[Json]:
    blocks = args.get("blocks") or []
    if isinstance(blocks, str):
        try:
            blocks = json.loads(blocks)
        except ValueError:
            raise ApiError("invalid_blocks_format") from None
    if not isinstance(blocks, list) or not all(isinstance(block, dict) and "type" in block for block in blocks):
        raise ApiError("invalid_blocks")
    return blocks


def _check_blocks(blocks: list[Json]) -> None:
    sizes = [_block_chars(block) for block in blocks]
    if len(blocks) > MAX_BLOCKS:
        raise ApiError("invalid_blocks")
    if sum(sizes) > MAX_BLOCKS_CHARS:
        raise ApiError("msg_blocks_too_long")
    if not all(_is_fit(element) for block in blocks if block["type"] == "actions" for element in _elements(block)):
        raise ApiError("invalid_blocks")
    markdown = sum(size for block, size in zip(blocks, sizes, strict=True) if block["type"] == "markdown")
    longest_section = max((n for block, n in zip(blocks, sizes, strict=True) if block["type"] == "section"), default=0)
    if markdown > MAX_MARKDOWN_CHARS or longest_section > MAX_SECTION_CHARS:
        raise ApiError("invalid_blocks")


def _elements(block: Json) -> list[Any]:
    elements = block.get("elements")
    if not isinstance(elements, list) or not 1 <= len(elements) <= MAX_ACTIONS:
        raise ApiError("invalid_blocks")
    return elements


def _is_fit(element: Any) -> bool:
    """Source: https://docs.slack.dev/reference/block-kit/block-elements/button-element/"""
    if not isinstance(element, dict) or element.get("type") != "button":
        return False
    label = element.get("text")
    return (
        isinstance(label, dict)
        and label.get("type") == "plain_text"
        and 0 < len(str(label.get("text", ""))) <= MAX_LABEL_CHARS
        and len(str(element.get("action_id", ""))) <= MAX_ACTION_ID_CHARS
        and len(str(element.get("value", ""))) <= MAX_VALUE_CHARS
    )


def _block_chars(block: Json) -> int:
    text = block.get("text")
    if block["type"] == "markdown" and not isinstance(text, str):
        raise ApiError("invalid_blocks")
    inner = text.get("text") if isinstance(text, dict) else text
    return len(inner) if isinstance(inner, str) else 0
