"""Whether arguments that a model wrote fit the schema that a server published. Both are outside text. Pure.

JSON Schema 2020-12, which MCP's tools use: https://json-schema.org/draft/2020-12
"""

import functools
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from referencing import Registry

_MAX_REFERENCES: Final = 2_000  # followed in one check
_SHOWN_CHARS: Final = 400
_REFERENCES: Final = ("$ref", "$dynamicRef")
# Regular expressions of a stranger can take for ever; the server looks at them itself.
_LEFT_TO_THE_SERVER: Final = ("pattern", "patternProperties", "unevaluatedProperties")
_references_left: ContextVar[Iterator[int]] = ContextVar("references that the check under way may still follow")


class UnusableSchemaError(Exception):
    """Nothing can be said by this schema: the server has to judge the arguments itself."""


def objection(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> str | None:
    """What to change, in one sentence; None when they fit. Raises UnusableSchemaError."""
    _references_left.set(iter(range(_MAX_REFERENCES)))
    try:
        # The empty registry: a reference to another document must not be fetched.
        checker = _checker()(dict(schema), registry=Registry())
        error = best_match(checker.iter_errors(dict(arguments)))
    except Exception as error:  # noqa: BLE001 - a schema that is none makes the library fail in any way
        raise UnusableSchemaError(type(error).__name__) from None
    return _sentence(error) if error is not None else None


@functools.cache
def _checker() -> Any:
    """A class, which takes two milliseconds to make."""
    rules = dict.fromkeys(_LEFT_TO_THE_SERVER, _nothing_to_say) | {"additionalProperties": _additional}
    rules |= {keyword: _followed(keyword) for keyword in _REFERENCES}
    return extend(Draft202012Validator, rules)  # type: ignore[no-untyped-call]


def _followed(keyword: str) -> Any:
    rule = Draft202012Validator.VALIDATORS[keyword]

    def follow(validator: Validator, target: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if next(_references_left.get(), None) is None:
            raise UnusableSchemaError
        yield from rule(validator, target, instance, schema) or ()

    return follow


def _nothing_to_say(*_: Any) -> tuple[()]:
    return ()


def _additional(validator: Validator, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """Where names are told by regular expressions it is the server that knows which are too many."""
    if "patternProperties" not in schema:
        yield from Draft202012Validator.VALIDATORS["additionalProperties"](validator, value, instance, schema) or ()


def _sentence(error: ValidationError) -> str:
    where = ".".join(str(part) for part in error.absolute_path)
    told = error.message if len(error.message) <= _SHOWN_CHARS else f"{error.message[:_SHOWN_CHARS]}…"
    return f"{where}: {told}" if where else told
