"""The published documents tell the truth: fresh, valid, and what the application does."""

import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from pydantic import SecretStr

from nubabel_workers.domain.submission import SubmitRequest, sign
from nubabel_workers.gateway.schemas import published_schemas
from tests.fakes.front_door import FrontDoor

FOLDER = Path(__file__).parents[3] / "docs" / "schemas"


@pytest.mark.parametrize("name", list(published_schemas()))
def test_published_schema_is_fresh(name: str) -> None:
    published = (FOLDER / name).read_text(encoding="utf-8")

    assert published == published_schemas()[name], "run: python -m nubabel_workers.gateway.schemas docs/schemas"


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(published_schemas()["openapi.json"])
    return document


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, found) for path, methods in document["paths"].items() for method, found in methods.items()]


def test_every_reference_of_the_document_leads_somewhere(openapi: dict[str, Any]) -> None:
    text = json.dumps(openapi)
    references = {part.split('"')[0] for part in text.split('"$ref": "')[1:]}

    for reference in references:
        target: Any = openapi
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


def test_every_error_of_every_route_is_a_problem(openapi: dict[str, Any]) -> None:
    for method, path, operation in operations(openapi):
        for status, response in operation["responses"].items():
            if int(status) >= 400 and path != "/ready" and operation["tags"] != ["sidecar"]:
                assert list(response["content"]) == ["application/problem+json"], (method, path, status)


def test_an_error_of_the_sidecars_form_has_that_form_or_is_a_problem_of_what_surrounds_it(
    openapi: dict[str, Any],
) -> None:
    forms = {"application/json": "SidecarAnswer", "application/problem+json": "Problem"}
    for method, path, operation in operations(openapi):
        for status, response in operation["responses"].items():
            if int(status) >= 400 and operation["tags"] == ["sidecar"]:
                for kind, content in response["content"].items():
                    assert content["schema"]["$ref"].endswith(f"/{forms[kind]}"), (method, path, status)
                assert "application/json" in response["content"] or status in {"408", "413"}, (method, path, status)


def test_the_bridge_wants_a_token(openapi: dict[str, Any]) -> None:
    for method, path, operation in operations(openapi):
        if operation["tags"] in (["bridge"], ["sidecar"]):
            assert operation["security"] == [{"ServiceToken": []}], (method, path)
            assert {"401", "403", "503"} <= set(operation["responses"])


def test_every_route_of_the_api_wants_a_token(openapi: dict[str, Any]) -> None:
    for method, path, operation in operations(openapi):
        if path.startswith("/v1/"):
            operators = path.startswith("/v1/operator/")
            assert operation["security"] == [{"OperatorToken" if operators else "ServiceToken": []}], (method, path)
            assert {"401", "503"} <= set(operation["responses"])
            assert operators or "403" in operation["responses"]


def schema_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}", "components": document["components"]}


def test_the_examples_fit_their_schemas(openapi: dict[str, Any]) -> None:
    for name, schema in openapi["components"]["schemas"].items():
        examples = [*schema.get("examples", []), *([schema["example"]] if "example" in schema else [])]
        for example in examples:
            jsonschema.validate(example, schema_of(openapi, name))


async def test_what_the_application_answers_fits_the_document(
    door: FrontDoor, http: httpx.AsyncClient, openapi: dict[str, Any]
) -> None:
    submitted = await http.post("/v1/executions", json={"prompt": "Hello"}, headers={"idempotency-key": "k"})
    path = submitted.headers["location"]

    jsonschema.validate(submitted.json(), schema_of(openapi, "SubmittedView"))
    jsonschema.validate((await http.get(path)).json(), schema_of(openapi, "ExecutionView"))
    jsonschema.validate((await http.get(f"{path}/timeline")).json(), schema_of(openapi, "Timeline"))
    jsonschema.validate((await http.get("/ready")).json(), schema_of(openapi, "ReadyView"))
    jsonschema.validate((await http.post("/v1/executions", json={})).json(), schema_of(openapi, "Problem"))
    found = await http.get("/v1/executions", params={"idempotency_key": "k"})
    jsonschema.validate(found.json(), schema_of(openapi, "ExecutionList"))


def test_a_signed_submission_fits_the_published_schema() -> None:
    schema = json.loads(published_schemas()["submit.schema.json"])
    request = SubmitRequest(prompt="Hello", skills=["git-master"]).model_dump(exclude_none=True)
    signed = sign(request, key_id="key_1", secret=SecretStr("s"), issued_at=1_795_224_041, nonce="n" * 16)

    jsonschema.validate(signed, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(signed | {"organization_id": "org_1"}, schema)
