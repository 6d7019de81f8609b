"""What surrounds every request: problems, bounds, ids, headers, log lines."""

import asyncio
import gzip
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from structlog.testing import capture_logs

from tests.fakes.front_door import FrontDoor
from tests.unit.gateway.conftest import client_of

PROMPT = {"prompt": "Hello"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/executions/", 404, "not_found"),
        ("DELETE", "/v1/executions", 405, "method_not_allowed"),
        ("GET", "/v1/executions", 422, "invalid_request"),
    ],
)
async def test_every_error_is_a_problem(
    http: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await http.request(method, path)

    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["type"] == f"urn:nubabel:problem:{code.replace('_', '-')}"
    assert problem["instance"] == path
    assert problem["correlation_id"] == answer.headers["x-correlation-id"]
    assert problem["title"]
    assert problem["detail"]


async def test_a_wrong_method_is_told_the_right_ones(http: httpx.AsyncClient) -> None:
    assert "POST" in (await http.put("/v1/executions", json=PROMPT)).headers["allow"]


async def test_a_crash_shows_its_correlation_id_and_nothing_of_our_insides(
    door: FrontDoor, http: httpx.AsyncClient
) -> None:
    door.executions.error = RuntimeError("password=hunter2")

    with capture_logs() as logs:
        answer = await http.post("/v1/executions", json=PROMPT, headers={"x-correlation-id": "upstream-4711"})

    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "hunter2" not in answer.text
    assert answer.json()["correlation_id"] == "upstream-4711"
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["http.request_crashed"]


@pytest.mark.parametrize(
    "header",
    ["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Organization-ID", "X-User-ID"],
)
@pytest.mark.parametrize("values", [("k1", "k2"), ("k1", "k1")], ids=["two values", "one value twice"])
async def test_a_header_of_one_value_that_comes_twice_is_refused_before_anything_is_done(
    door: FrontDoor, header: str, values: tuple[str, str]
) -> None:
    own = {"authorization": f"Bearer {door.token()}", "content-type": "application/json"}
    once = [(name, value) for name, value in own.items() if name != header.lower()]
    async with client_of(door) as http:
        answer = await http.post(
            "/v1/executions", content=b'{"prompt": "Hello"}', headers=[*once, *((header, value) for value in values)]
        )

    assert (answer.status_code, answer.json()["code"]) == (400, "repeated_header")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == f"the header {header} was sent more than once: send it once, with one value"
    assert not door.executions.rows


async def test_a_header_that_is_a_list_may_come_in_several_lines(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/executions", json=PROMPT, headers=[("prefer", "wait=0"), ("prefer", "respond-async")])

    assert answer.status_code == 202


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_a_body_without_the_json_media_type_is_told_which_header_to_send(
    http: httpx.AsyncClient, media_type: str | None
) -> None:
    headers = {"content-type": media_type} if media_type else {}
    answer = await http.post("/v1/executions", content=b'{"prompt": "Hello"}', headers=headers)

    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_request")
    assert "Content-Type: application/json" in problem["detail"]
    assert problem["errors"][0]["message"] == problem["detail"]


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"5"])
async def test_a_body_that_is_no_object_is_named_so(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post(
        "/v1/executions", content=body, headers={"content-type": "application/json; charset=utf-8"}
    )

    assert (answer.status_code, answer.json()["detail"]) == (422, "the body must be a JSON object")


@pytest.mark.parametrize("body", [b"{", b"\xff", b"nul", b'{"prompt": "a"'])
async def test_a_body_that_is_no_json_is_named_so(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post("/v1/executions", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_json")


async def test_a_compressed_body_is_told_that_it_is_not_read(http: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = await http.post("/v1/executions", content=gzip.compress(b'{"prompt": "Hello"}'), headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_json")
    assert "compressed" in answer.json()["detail"]


async def test_deeply_nested_json_is_refused_not_crashed_on(http: httpx.AsyncClient) -> None:
    body = b'{"prompt": "x", "metadata": {"a": ' + b"[" * 2000 + b"]" * 2000 + b"}}"

    answer = await http.post("/v1/executions", content=body, headers={"content-type": "application/json"})

    assert answer.status_code in {400, 422}


async def test_a_body_of_another_kind_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/executions", content=b"prompt=x", headers={"content-type": "text/plain"})

    assert answer.status_code == 422


async def test_a_body_that_announces_to_be_too_large_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/executions", content=b"x" * 5000)

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert answer.headers["connection"] == "close"


async def test_a_body_that_turns_out_too_large_is_refused(door: FrontDoor, http: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000

    answer = await http.post("/v1/executions", content=endless())

    assert answer.status_code == 413
    assert door.executions.rows == {}


async def test_a_body_that_does_not_arrive_is_not_waited_for(http: httpx.AsyncClient) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    answer = await http.post("/v1/executions", content=stalled())

    assert (answer.status_code, answer.json()["code"]) == (408, "body_too_slow")


@pytest.mark.parametrize(
    ("given", "kept"), [("upstream-4711", True), ("short", False), ("x" * 200, False), ("a b c d e f g", False)]
)
async def test_a_correlation_id_is_taken_over_when_it_is_one(http: httpx.AsyncClient, given: str, kept: bool) -> None:
    answer = await http.get("/health", headers={"x-correlation-id": given})

    assert (answer.headers["x-correlation-id"] == given) is kept
    assert answer.headers["x-correlation-id"]


async def test_every_answer_has_the_security_headers_and_none_of_the_server(http: httpx.AsyncClient) -> None:
    for path in ("/health", "/nothing", "/v1/executions"):
        headers = (await http.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers


async def test_the_documentation_page_needs_nothing_but_the_gateway(http: httpx.AsyncClient) -> None:
    page = await http.get("/docs")
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    answers = [await http.get(asset) for asset in assets if not asset.startswith("data:")]

    assert page.status_code == 200
    assert "https:" not in page.headers["content-security-policy"]
    assert {asset for asset in assets if asset.startswith("http")} == set()
    assert len(answers) == 2
    assert all(answer.status_code == 200 and len(answer.content) > 10_000 for answer in answers)


async def test_a_request_is_one_log_line_with_its_route(door: FrontDoor) -> None:
    async with client_of(door, token=door.token()) as http:
        with capture_logs() as logs:
            await http.get("/v1/executions/exe_00000000000000000000000000")

    (line,) = [line for line in logs if line["event"] == "http.request"]
    assert (line["method"], line["route"], line["status"]) == ("GET", "/v1/executions/{execution_id}", 404)
