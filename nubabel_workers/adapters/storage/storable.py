"""Text as PostgreSQL can hold it: without U+0000 and lone surrogates, which models and other people's APIs produce."""

import json
import re
from typing import Any

_ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")  # not the six characters \u0000 of a text about them


def storable_text(text: str) -> str:
    if "\x00" in text:
        text = text.replace("\x00", "")
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def storable(value: Any) -> Any:
    """A parameter, or each of an array's."""
    if isinstance(value, str):
        return storable_text(value)
    return [storable(one) for one in value] if isinstance(value, list) else value


def storable_json(value: Any) -> bytes:
    """For json and jsonb columns; psycopg calls it for every Jsonb parameter."""
    text = json.dumps(value, ensure_ascii=False)
    if "\\u0000" in text:
        text = _ESCAPED_NUL.sub(r"\1", text)
    return text.encode("utf-8", "replace")
