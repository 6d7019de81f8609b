"""What went wrong inside, as somebody outside may read it: no secrets, no addresses of ours, one bounded line. Pure."""

import re
from typing import Final

from nubabel_workers.domain.redaction import masked

_MAX_CHARS: Final = 300
_ADDRESS: Final = re.compile(
    r"\b[a-zA-Z][a-zA-Z0-9+.-]{0,20}://[^\s\"'<>)]+"  # with a scheme
    r"|\[[0-9a-fA-F:.]{2,45}\](?::\d{1,5})?"  # IPv6
    r"|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b"  # IPv4
    r"|\b[a-zA-Z][\w.-]{0,250}:\d{4,5}\b"  # a host and its port
    r"|\b[\w-]{1,60}(?:\.[\w-]{1,60}){0,5}\.(?:internal|local|lan|svc)\b"
)


def for_callers(text: str) -> str:
    """E.g. `APIError (status 400): no such model`."""
    line = " ".join(masked(_ADDRESS.sub("[address]", text)).split())
    return line if len(line) <= _MAX_CHARS else f"{line[: _MAX_CHARS - 1]}…"
