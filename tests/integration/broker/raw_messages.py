"""Queue items as a careless, foreign or hostile producer writes them, by name: every row that stops a stock worker."""

import base64
import json
import pickle
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nubabel_workers.domain.dead_letters import DeadLetterReason as Reason

QUEUE = "orchestration"
TASK = "orchestration.dispatch"


def envelope(content: Any = None, **changes: Any) -> dict[str, Any]:
    """A good message for dispatch, with a marker as its id; `changes` replace top-level fields."""
    task_id = str(uuid.uuid4())
    body = json.dumps([["from-test"], {}, {}] if content is None else content)
    return {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": TASK, "id": task_id, "retries": 0},
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
        **changes,
    }


def good(row_id: str, *, task: str = TASK, queue: str = QUEUE) -> bytes:
    message = envelope([[row_id], {}, {}])
    message["headers"]["task"] = task
    message["properties"]["delivery_info"]["routing_key"] = queue
    return json.dumps(message).encode()


def carrying(content: Any, *, task: str = "orchestration.submit", queue: str = QUEUE) -> bytes:
    message = envelope([[content], {}, {}])
    message["headers"]["task"] = task
    message["properties"]["delivery_info"]["routing_key"] = queue
    return json.dumps(message).encode()


def with_properties(raw: bytes, **properties: Any) -> bytes:
    """The same message, about whose delivery its producer says something else."""
    message = json.loads(raw)
    message["properties"].update(properties)
    return json.dumps(message).encode()


def _with_header(name: str, value: Any) -> dict[str, Any]:
    message = envelope()
    message["headers"][name] = value
    return message


def _without_header(name: str) -> dict[str, Any]:
    message = envelope()
    del message["headers"][name]
    return message


def _without(name: str) -> dict[str, Any]:
    message = envelope()
    del message[name]
    return message


def _with_property(name: str, value: Any) -> dict[str, Any]:
    message = envelope()
    message["properties"][name] = value
    return message


def _without_property(name: str) -> dict[str, Any]:
    message = envelope()
    del message["properties"][name]
    return message


def _body(raw: bytes, **changes: Any) -> dict[str, Any]:
    return envelope(**{"body": base64.b64encode(raw).decode(), **changes})


def _bomb() -> dict[str, Any]:
    """Small, and a thousand times larger once it is unpacked."""
    message = _body(zlib.compress(bytes(16 * 1024 * 1024)))
    message["headers"]["compression"] = "application/x-gzip"
    return message


@dataclass(frozen=True)
class BadMessage:
    """reason: what the dead letter must say."""

    make: Callable[[], bytes | dict[str, Any]]
    reason: Reason

    def raw(self) -> bytes:
        made = self.make()
        return made if isinstance(made, bytes) else json.dumps(made).encode()


BAD_MESSAGES: dict[str, BadMessage] = {
    "unknown task": BadMessage(lambda: _with_header("task", "nobody.knows"), Reason.UNKNOWN_TASK),
    "task named by a number": BadMessage(lambda: _with_header("task", 7), Reason.HANDLER_CRASH),
    "task named by a list": BadMessage(lambda: _with_header("task", ["a"]), Reason.HANDLER_CRASH),
    "no task header": BadMessage(lambda: _without_header("task"), Reason.UNKNOWN_MESSAGE),
    "no headers": BadMessage(lambda: _without("headers"), Reason.UNKNOWN_MESSAGE),
    "headers are null": BadMessage(lambda: envelope(headers=None), Reason.UNKNOWN_MESSAGE),
    "headers are a list": BadMessage(lambda: envelope(headers=["task"]), Reason.BAD_ENVELOPE),
    "pickle": BadMessage(
        lambda: _body(
            pickle.dumps([["x"], {}, {}]),
            **{"content-type": "application/x-python-serialize", "content-encoding": "binary"},
        ),
        Reason.INVALID,
    ),
    "unknown content type": BadMessage(lambda: envelope(**{"content-type": "text/csv"}), Reason.INVALID),
    "yaml": BadMessage(lambda: envelope(**{"content-type": "application/x-yaml"}), Reason.INVALID),
    "no content type": BadMessage(lambda: _without("content-type"), Reason.HANDLER_CRASH),
    "body is not JSON": BadMessage(lambda: _body(b"{nonsense"), Reason.UNDECODABLE),
    "body is not UTF-8": BadMessage(lambda: _body(b"\xff\xfe[[]]"), Reason.UNDECODABLE),
    "unknown compression": BadMessage(lambda: _with_header("compression", "application/x-none"), Reason.BAD_ENVELOPE),
    "broken compression": BadMessage(lambda: _with_header("compression", "application/x-gzip"), Reason.BAD_ENVELOPE),
    "a bomb": BadMessage(_bomb, Reason.BAD_ENVELOPE),
    "body is an object": BadMessage(lambda: envelope({"a": 1}), Reason.HANDLER_CRASH),
    "body is a pair": BadMessage(lambda: envelope([["x"], {}]), Reason.HANDLER_CRASH),
    "body is a number": BadMessage(lambda: envelope(7), Reason.HANDLER_CRASH),
    "body is null": BadMessage(lambda: envelope(body=base64.b64encode(b"null").decode()), Reason.HANDLER_CRASH),
    "body is missing": BadMessage(lambda: _without("body"), Reason.HANDLER_CRASH),
    "body is empty": BadMessage(lambda: envelope(body=""), Reason.HANDLER_CRASH),
    "arguments are a number": BadMessage(lambda: envelope([7, {}, {}]), Reason.HANDLER_CRASH),
    "arguments are swapped": BadMessage(lambda: envelope([{"a": 1}, ["x"], {}]), Reason.HANDLER_CRASH),
    "no arguments": BadMessage(lambda: envelope([[], {}, {}]), Reason.BAD_ARGUMENTS),
    "two arguments": BadMessage(lambda: envelope([["a", "b"], {}, {}]), Reason.BAD_ARGUMENTS),
    "keyword argument": BadMessage(lambda: envelope([[], {"row_id": "a"}, {}]), Reason.BAD_ARGUMENTS),
    "argument is no id": BadMessage(lambda: envelope([[{"id": 1}], {}, {}]), Reason.BAD_ARGUMENTS),
    "argument is too long": BadMessage(lambda: envelope([["x" * 200], {}, {}]), Reason.BAD_ARGUMENTS),
    "embed is a list": BadMessage(lambda: envelope([["x"], {}, ["y"]]), Reason.HANDLER_CRASH),
    "no id": BadMessage(lambda: _without_header("id"), Reason.HANDLER_CRASH),
    "id is an object": BadMessage(lambda: _with_header("id", {"a": 1}), Reason.HANDLER_CRASH),
    "callbacks": BadMessage(lambda: envelope([["x"], {}, {"callbacks": [{"task": TASK}]}]), Reason.HANDLER_CRASH),
    "no delivery tag": BadMessage(lambda: _without_property("delivery_tag"), Reason.BAD_ENVELOPE),
    "delivery tag is a number": BadMessage(lambda: _with_property("delivery_tag", 1), Reason.BAD_ENVELOPE),
    "no delivery info": BadMessage(lambda: _without_property("delivery_info"), Reason.BAD_ENVELOPE),
    "delivery info is text": BadMessage(lambda: _with_property("delivery_info", "q"), Reason.BAD_ENVELOPE),
    "delivery info is empty": BadMessage(lambda: _with_property("delivery_info", {}), Reason.BAD_ENVELOPE),
    "no properties": BadMessage(lambda: _without("properties"), Reason.BAD_ENVELOPE),
    "unknown body encoding": BadMessage(lambda: _with_property("body_encoding", "rot13"), Reason.BAD_ENVELOPE),
    "body is not base64": BadMessage(lambda: envelope(body="A"), Reason.BAD_ENVELOPE),
    "body is an unquoted object": BadMessage(lambda: envelope(body={"a": 1}), Reason.BAD_ENVELOPE),
    "empty object": BadMessage(lambda: b"{}", Reason.BAD_ENVELOPE),
    "list": BadMessage(lambda: b"[]", Reason.BAD_ENVELOPE),
    "number": BadMessage(lambda: b"7", Reason.BAD_ENVELOPE),
    "null": BadMessage(lambda: b"null", Reason.BAD_ENVELOPE),
    "a value of an unknown type": BadMessage(
        lambda: _with_header("note", {"__type__": "nobody", "__value__": 1}), Reason.BAD_ENVELOPE
    ),
    "a value whose type is a list": BadMessage(
        lambda: _with_header("note", {"__type__": [], "__value__": 1}), Reason.BAD_ENVELOPE
    ),
    "a value that its type cannot be": BadMessage(
        lambda: _with_header("note", {"__type__": "datetime", "__value__": "soon"}), Reason.BAD_ENVELOPE
    ),
    "an argument of an unknown type": BadMessage(
        lambda: envelope([[{"__type__": "nobody", "__value__": 1}], {}, {}]), Reason.UNDECODABLE
    ),
    "byte order mark": BadMessage(lambda: b"\xef\xbb\xbf" + json.dumps(envelope()).encode(), Reason.BAD_ENVELOPE),
    "UTF-16": BadMessage(lambda: json.dumps(envelope()).encode("utf-16"), Reason.BAD_ENVELOPE),
    "a surrogate in its bytes": BadMessage(
        lambda: json.dumps(envelope()).encode().replace(b"utf-8", b"\xed\xa0\x80"), Reason.BAD_ENVELOPE
    ),
    "garbage bytes": BadMessage(lambda: b"\x00\xff\xfe garbage", Reason.BAD_ENVELOPE),
    "empty string": BadMessage(lambda: b"", Reason.BAD_ENVELOPE),
    "deep nesting": BadMessage(lambda: b"[" * 100_000, Reason.BAD_ENVELOPE),
}

# Odd, but good enough: these run.
TOLERATED: dict[str, Callable[[], dict[str, Any]]] = {
    "expired": lambda: _with_header("expires", "2020-01-01T00:00:00+00:00"),
    "expires nonsensically": lambda: _with_header("expires", {"a": 1}),
    "waits for years": lambda: _with_header("eta", "2099-01-01T00:00:00+00:00"),
    "waits for the year 1": lambda: _with_header("eta", "0001-01-01T00:00:00+14:00"),
    "waits for nonsense": lambda: _with_header("eta", 12),
    "unknown charset": lambda: envelope(**{"content-encoding": "klingon"}),
    "another language": lambda: _with_header("lang", "js"),
    "time limits": lambda: _with_header("timelimit", 7),
    "retries are text": lambda: _with_header("retries", "many"),
    "a group": lambda: _with_header("group", {"a": 1}),
    "stamps": lambda: _with_header("stamped_headers", 7),
    "no embedded part": lambda: envelope([["from-test"], {}, None]),
    "a plain body": lambda: {**_with_property("body_encoding", None), "body": '[["from-test"], {}, {}]'},
    "characters that base64 skips": lambda: envelope(body="!!!" + envelope()["body"]),
    "priority is text": lambda: _with_property("priority", "high"),
}
