"""Prompts with their ids: who keeps a prompt can send it again without asking twice, and look for it by its id."""

import base64
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from nubabel_workers.domain.opencode_ids import opencode_id
from nubabel_workers.domain.ports import PromptPart


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A file that goes with a prompt, inside of the request."""

    data: bytes = field(repr=False)
    mime_type: str
    filename: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is sent to a session. The same prompt sent again replaces the message instead of adding one.

    A message's id is a key of the whole server: never send one prompt to two sessions.
    """

    message_id: str
    parts: tuple[PromptPart, ...] = field(repr=False)


def new_prompt(text: str, *, files: Sequence[PromptFile] = ()) -> Prompt:
    """A prompt under ids of its own."""
    now_ms, seed = time.time_ns() // 1_000_000, secrets.token_hex(16)
    ids = [opencode_id("prt", now_ms, f"{seed}.{n}", n=n) for n in range(1, len(files) + 2)]
    parts = [PromptPart(ids[0], text=text)]
    for part_id, file in zip(ids[1:], files, strict=True):
        url = f"data:{file.mime_type};base64,{base64.b64encode(file.data).decode('ascii')}"
        parts.append(PromptPart(part_id, file_url=url, mime_type=file.mime_type, filename=file.filename))
    return Prompt(opencode_id("msg", now_ms, seed), tuple(parts))


def as_prompt(prompt: Prompt | str) -> Prompt:
    return new_prompt(prompt) if isinstance(prompt, str) else prompt
