"""Celery messages, protocol 2: how ours are written, and what of other people's is let through. Pure.

Source: https://docs.celeryq.dev/en/stable/internals/protocol.html
"""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

_TEXT_HEADERS = ("lang", "root_id", "parent_id", "origin", "kwargsrepr")
_MAX_HEADER_CHARS = 200
_LONGEST_COUNTDOWN = timedelta(seconds=60)  # longer waits belong into PostgreSQL; in memory they are fetched twice
_MANY_RETRIES = 1_000_000
_PARTS = 3  # positional arguments, keyword arguments, embedded


def task_headers(task: str, task_id: str, *, argsrepr: str) -> dict[str, Any]:
    """argsrepr: what logs and Flower show instead of the arguments."""
    return {
        "lang": "py",
        "task": task,
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "eta": None,
        "expires": None,
        "timelimit": [None, None],
        "argsrepr": argsrepr,
        "kwargsrepr": "{}",
        "origin": "nubabel",
        "ignore_result": True,
    }


def compose_message(
    queue: str, task: str, argument: Any, *, task_id: str, delivery_tag: str, shown: str = "(...)"
) -> bytes:
    """A whole message for `LPUSH queue`, with one JSON argument. shown: what logs and Flower show instead of it."""
    body = json.dumps([[argument], {}, {}])
    envelope = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": task_headers(task, task_id, argsrepr=shown),
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": delivery_tag,
        },
    }
    return json.dumps(envelope).encode()


def plain_headers(headers: Mapping[str, Any], *, now: datetime | None = None) -> dict[str, Any]:
    """The headers that a task may have, and nothing else; raises ValueError without a usable task and id.

    What is left out: `expires` (no message vanishes unseen: hints do no harm, submissions have their own deadline), an
    `eta` that is over or further away than a retry's, and everything of groups, chords and stamps.
    """
    task, task_id = headers.get("task"), headers.get("id")
    if not isinstance(task, str) or not isinstance(task_id, str) or not task_id:
        raise ValueError("task and id must be texts")
    plain: dict[str, Any] = {"task": task, "id": task_id[:_MAX_HEADER_CHARS], "expires": None}
    for name in _TEXT_HEADERS:
        value = headers.get(name)
        plain[name] = value[:_MAX_HEADER_CHARS] if isinstance(value, str) else None
    retries = headers.get("retries")
    plain["retries"] = retries if isinstance(retries, int) and 0 <= retries < _MANY_RETRIES else 0
    plain["argsrepr"] = str(headers.get("argsrepr") or "")[:_MAX_HEADER_CHARS]
    plain["eta"] = _countdown(headers.get("eta"), now or datetime.now(UTC))
    return plain


def check_content(content: Any) -> None:
    """Raise ValueError for a decoded body that is not [arguments, keyword arguments, embedded]."""
    if not isinstance(content, (list, tuple)) or len(content) != _PARTS:
        raise ValueError("the body is not [arguments, keyword arguments, embedded]")
    arguments, keywords, embedded = content
    if not (isinstance(arguments, (list, tuple)) and isinstance(keywords, dict)):
        raise ValueError("the arguments are not a list and an object")  # noqa: TRY004  # a wrong value, not a wrong call
    if not isinstance(embedded or {}, dict):
        raise ValueError("the embedded part is not an object")  # noqa: TRY004  # the same
    if embedded and any(embedded.values()):
        raise ValueError("links, chains and chords are not supported")


def _countdown(eta: Any, now: datetime) -> str | None:
    """Celery drops a message whose eta it cannot convert, such as one of the year 1: what is over is left out."""
    try:
        due = datetime.fromisoformat(eta)
    except (TypeError, ValueError):
        return None
    due = due if due.tzinfo else due.replace(tzinfo=UTC)
    return due.isoformat() if now < due <= now + _LONGEST_COUNTDOWN else None
