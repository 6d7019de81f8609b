"""Arguments against the schema of a server that nobody vouches for."""

from typing import Any

import pytest

from nubabel_workers.domain.tool_arguments import UnusableSchemaError, objection

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}}},
    "required": ["title"],
    "additionalProperties": False,
    "$defs": {"tag": {"type": "string"}},
}


def test_arguments_that_fit_pass() -> None:
    assert objection(SCHEMA, {"title": "A", "tags": ["x", "y"]}) is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "'title' is a required property"),
        ({"title": 7}, "title: 7 is not of type 'string'"),
        ({"title": "A", "tags": ["x", 1]}, "tags.1: 1 is not of type 'string'"),
        ({"title": "A", "colour": "red"}, "'colour' was unexpected"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(arguments: dict[str, Any], told: str) -> None:
    assert told in str(objection(SCHEMA, arguments))


def test_a_long_value_is_not_told_in_full() -> None:
    assert len(str(objection(SCHEMA, {"title": ["x" * 10_000]}))) < 500


def test_regular_expressions_of_a_server_are_never_run() -> None:
    takes_for_ever = {
        "properties": {"title": {"pattern": "^(a+)+$"}},
        "patternProperties": {"^(t+)+x$": {"type": "string"}},
        "additionalProperties": False,
        "unevaluatedProperties": False,
    }

    assert objection(takes_for_ever, {"title": "a" * 60 + "!", "t" * 60: 1}) is None


def test_a_reference_to_another_document_is_not_fetched() -> None:
    with pytest.raises(UnusableSchemaError):
        objection({"$ref": "http://127.0.0.1:9/schema"}, {})


@pytest.mark.parametrize("schema", [{"type": 5}, {"properties": 3}, {"$ref": "#"}, {"$ref": "#/nowhere"}])
def test_a_schema_that_is_none_leaves_the_judgement_to_the_server(schema: dict[str, Any]) -> None:
    with pytest.raises(UnusableSchemaError):
        objection(schema, {"title": "A"})


def test_references_that_double_at_each_step_are_given_up() -> None:
    levels = {f"l{n}": {"allOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(60)}

    with pytest.raises(UnusableSchemaError):
        objection({"$ref": "#/$defs/l0", "$defs": levels | {"l60": {}}}, {})
