"""Values, texts and bytes that careless or hostile programs send."""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

# Not in UTF-8, not in PostgreSQL, not on one line, not small: what usually breaks somebody.
ODD_TEXTS = st.sampled_from(
    [
        "",
        " ",
        "\x00",
        "a\x00b",
        "\ud800",
        "\udfff tail",
        "\U0001f600",
        "\u202e\ufeff",
        "\r\n\r\nx: y",
        "'; DROP TABLE executions; --",
        "../../etc/passwd",
        "%00%ff",
        "{{7*7}}",
        "<!channel> <@U1|x> &lt;",
        "NaN",
        "x" * 70_000,
    ]
)
TEXTS = ODD_TEXTS | st.text(max_size=40) | st.text(st.characters(codec=None), max_size=20)
NUMBERS = st.integers() | st.floats() | st.sampled_from([float("inf"), 2**63, -(2**63), 2**1024, 1e308, -0.0])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=5)

_NOT_QUITE_JSON = st.sampled_from(
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"a":1,"a":2}',
        b"{'a': 1}",
        b'"\\ud800"',
        b'{"\\u0000": "\\u0000"}',
        b"[" * 5_000,
        b'{"a":' * 5_000,
        b"9" * 5_000,
        b"1e999999",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b"\xff\xfe\x00",
        b"\xed\xa0\x80",
        b"<html>no</html>",
    ]
)


def as_json(value: Any) -> bytes:
    """Lone surrogates as escapes, NaN and Infinity as Python writes them."""
    return json.dumps(value).encode()


RAW = _NOT_QUITE_JSON | st.binary(max_size=200) | VALUES.map(as_json)


ODD_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 2**31, 2**53 + 1, 2**64, -(2**64), 10**400, 1e300, float("inf"), float("nan")),
    *("", " ", "x", "\x00", "\ud800", "1e9", "-1", "x" * 5_000, "\U0001f600", "2026-01-01T00:00:00+99:00"),
    *([], [None], [[]], ["x"], {}, {"": {}}, {"__type__": "datetime", "__value__": 1}, {"a": [{"b": None}]}),
)


def each_spoiled(good: Any) -> Iterator[Any]:
    """The good value with each of its parts, one at a time, removed or replaced by each of the odd values."""
    yield from ODD_VALUES
    if isinstance(good, dict):
        for name in good:
            yield {other: value for other, value in good.items() if other != name}
            yield from ({**good, name: value} for value in each_spoiled(good[name]))
    elif isinstance(good, list):
        for at, item in enumerate(good):
            yield from ([*good[:at], value, *good[at + 1 :]] for value in each_spoiled(item))


@st.composite
def spoiled(draw: st.DrawFn, good: dict[str, Any]) -> dict[str, Any]:
    """A good JSON object with some of its values, at any depth, replaced, removed or added."""
    value: dict[str, Any] = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 3))):
        _spoil(draw, value)
    return value


def _spoil(draw: st.DrawFn, value: dict[str, Any]) -> None:
    while True:
        name = draw(st.sampled_from(sorted(value))) if value else ""
        below = value.get(name)
        if isinstance(below, list) and below and isinstance(below[0], dict):
            below = below[0]
        if not isinstance(below, dict) or draw(st.booleans()):
            break
        value = below
    match draw(st.sampled_from(["replace", "replace", "remove", "add"])):
        case "remove":
            value.pop(name, None)
        case "add":
            value[draw(TEXTS)] = draw(VALUES)
        case _:
            value[name] = deepcopy(draw(st.sampled_from(ODD_VALUES) | VALUES))
