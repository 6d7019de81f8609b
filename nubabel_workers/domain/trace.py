"""W3C Trace Context, level 1: the `traceparent` value that follows a request across processes and rows.

What works on a row follows its trace; calls that leave meanwhile carry it (`outgoing_headers`), so that whoever is
called can hang its own spans under ours. A row's span is the step of ours that its calls belong to.

Source: https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Self

TRACE_ID_BYTES = 16
SPAN_ID_BYTES = 8
TRACEPARENT: Final = "traceparent"  # name of the header, and of the key in MCP's `_meta`

_SAMPLED = 0x01
_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
)


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where in a trace something happens. trace_id: 32 hex digits; span_id: 16, the step that caused this one."""

    trace_id: str
    span_id: str
    sampled: bool = True

    @classmethod
    def new(cls, entropy: bytes) -> Self:
        """Start a trace. entropy: TRACE_ID_BYTES + SPAN_ID_BYTES random bytes."""
        return cls(_id(entropy[:TRACE_ID_BYTES], TRACE_ID_BYTES), _id(entropy[TRACE_ID_BYTES:], SPAN_ID_BYTES))

    @classmethod
    def parse(cls, traceparent: str | None) -> Self | None:
        """None for a missing or malformed value: the caller starts a new trace, as the standard asks for."""
        match = _TRACEPARENT.match(traceparent or "")
        if match is None or traceparent is None:
            return None
        rest = traceparent[match.end() :]
        version = match["version"]
        if version == "ff" or (version == "00" and rest) or (rest and not rest.startswith("-")):
            return None
        if set(match["trace"]) == {"0"} or set(match["span"]) == {"0"}:
            return None
        return cls(match["trace"], match["span"], bool(int(match["flags"], 16) & _SAMPLED))

    def child(self, entropy: bytes) -> Self:
        """The same trace, one step further. entropy: SPAN_ID_BYTES random bytes."""
        return type(self)(self.trace_id, _id(entropy, SPAN_ID_BYTES), self.sampled)

    def __str__(self) -> str:
        """The traceparent value."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"


_followed: ContextVar[TraceContext | None] = ContextVar("followed_trace", default=None)


@contextmanager
def following(traceparent: str) -> Iterator[TraceContext | None]:
    """Calls from inside the block, and from tasks that begin there, carry it; what is no traceparent is not carried."""
    trace = TraceContext.parse(traceparent)
    token = _followed.set(trace)
    try:
        yield trace
    finally:
        _followed.reset(token)


def outgoing_headers() -> dict[str, str]:
    """For a call to the outside. Empty where no request is worked on."""
    trace = _followed.get()
    return {} if trace is None else {TRACEPARENT: str(trace)}


def trace_id_of(traceparent: str) -> str | None:
    """What log lines carry; None for what is no traceparent."""
    context = TraceContext.parse(traceparent)
    return None if context is None else context.trace_id


def _id(entropy: bytes, length: int) -> str:
    if len(entropy) < length:
        raise ValueError(f"{length} random bytes are needed, {len(entropy)} were given")
    chosen = entropy[:length]
    return (chosen if any(chosen) else b"\x01".rjust(length, b"\x00")).hex()  # all zeros is not a valid id
