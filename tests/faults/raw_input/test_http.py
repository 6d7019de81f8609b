"""HTTP beyond what OpenAPI describes: any path, method, header and body, and bytes that are no HTTP at all."""

import socket
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import quote, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nubabel_workers.gateway.app import api
from tests.faults.raw_input.amount import cases
from tests.faults.raw_input.conftest import Web
from tests.faults.raw_input.values import RAW, TEXTS

pytestmark = pytest.mark.integration

_SLACK = ("/slack/events", "/slack/install", "/slack/oauth_redirect")
_PATHS = sorted({getattr(route, "path", "/") for route in api().routes} | {*_SLACK, "/", "/nothing"})
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND")
_NAMES = (
    *("accept", "authorization", "content-type", "cookie", "idempotency-key", "last-event-id", "range"),
    *("traceparent", "x-correlation-id", "x-forwarded-for", "x-slack-request-timestamp", "x-slack-signature"),
)
_QUERIES = ("idempotency_key", "state", "link", "code", "error", "x")

texts = TEXTS.filter(lambda text: len(text) < 5_000)
in_urls = texts.map(lambda text: quote(text.encode("utf-8", "surrogatepass"), safe=""))
header_values = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60).map(
        lambda text: text.encode("latin-1").strip()
    ),
    st.sampled_from(
        [b"Bearer", b"Bearer nbt_", b"Basic eA==", b"application/json", b"multipart/form-data", b"text/html; charset=x"]
    ),
    st.just(b"x" * 9_000),
)


@st.composite
def requests(draw: st.DrawFn, url: str) -> httpx.Request:
    path = draw(st.sampled_from(_PATHS)).replace("{execution_id}", draw(in_urls) or "x")
    query = "&".join(f"{name}={draw(in_urls)}" for name in draw(st.lists(st.sampled_from(_QUERIES), max_size=3)))
    headers = draw(st.lists(st.tuples(st.sampled_from(_NAMES), header_values), max_size=4))
    return httpx.Request(
        draw(st.sampled_from(_METHODS)),
        f"{url}{path}?{query}",
        headers=[(name.encode(), value) for name, value in headers],
        content=draw(RAW),
    )


@given(data=st.data())
@cases(250)
def test_every_refusal_is_a_problem_document_without_our_insides(
    web: Web, browser: httpx.Client, data: st.DataObject
) -> None:
    request = data.draw(requests(web.url))

    response = browser.send(request)

    path = request.url.path
    assert response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR or (path, response.status_code) == ("/ready", 503)
    assert b"Traceback" not in response.content
    if response.status_code >= HTTPStatus.BAD_REQUEST and path != "/ready":
        assert _is_a_problem(response) or _is_no_http(response)
    assert web.process.is_running
    assert web.crashes() == []


def _is_a_problem(response: httpx.Response) -> bool:
    kind = response.headers["content-type"]
    if response.request.method == "HEAD":
        return bool(kind == "application/problem+json")
    return bool(kind == "application/problem+json" and response.json()["status"] == response.status_code)


def _is_no_http(response: httpx.Response) -> bool:
    """The server's own word, before any application is asked."""
    return response.status_code == HTTPStatus.BAD_REQUEST and response.text == "Invalid HTTP request received."


REQUEST_LINES = st.sampled_from(
    [
        b"GET /health HTTP/1.1\r\nhost: x\r\n",
        b"GET /health HTTP/9.9\r\n",
        b"POST /v1/executions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n",
        b"POST /v1/executions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n",
        b"POST /v1/executions HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n",
        b"POST /slack/events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n",
        b"POST /slack/events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n",
        b"GET http://[::1 HTTP/1.1\r\n",
        b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n",
        b"CONNECT x:1 HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n",
        b"\x16\x03\x01\x02\x00",
    ]
)


@given(head=REQUEST_LINES | st.binary(max_size=100), tail=st.binary(max_size=300))
@cases(100)
def test_bytes_that_are_no_http_disturb_nobody(web: Web, browser: httpx.Client, head: bytes, tail: bytes) -> None:
    where = urlsplit(web.url)
    answer = b""
    with socket.create_connection((str(where.hostname), where.port or 0), timeout=5) as raw, suppress(ConnectionError):
        raw.sendall(head + tail + b"\r\n\r\n")
        raw.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: raw.recv(65_536), b""))

    assert b"Traceback" not in answer
    assert b" 500 " not in answer.partition(b"\r\n")[0]
    assert browser.get(f"{web.url}/health").status_code == HTTPStatus.OK
    assert web.crashes() == []
