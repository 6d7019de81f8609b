"""Which question a request asks, for organizations that want the same answer again (off unless they say so). Pure."""

import hashlib
import json
import unicodedata
from dataclasses import dataclass
from datetime import datetime

from nubabel_workers.domain.executions import Execution


@dataclass(frozen=True)
class RememberedAnswer:
    """text: Markdown, as it was given then."""

    text: str
    execution_id: str
    answered_at: datetime


def question_of(execution: Execution) -> str | None:
    """Names the question: its words and what the caller decided, whatever the white space between words.

    None: what it asks depends on more than that (earlier turns, a thread, files), so no other answer fits.
    """
    if not execution.begins_session or execution.attachments or execution.wants_thread_context or execution.pauses:
        return None
    words = " ".join(unicodedata.normalize("NFC", execution.prompt).split())
    chosen = execution.overrides
    skills = sorted(chosen.skills) if chosen.skills is not None else None
    named = json.dumps([words, chosen.category, skills, chosen.agent, chosen.model])
    return hashlib.sha256(named.encode()).hexdigest()
