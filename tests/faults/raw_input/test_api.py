"""The HTTP API, described by its OpenAPI document: whatever is sent, answers are those that the document promises.

An endpoint that is added to the document is tested here without further ado.
"""

import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from http import HTTPStatus
from typing import Any

import pytest
import requests
import requests.auth
import schemathesis
from pydantic import SecretStr
from schemathesis import CheckFunction, GenerationMode, Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from nubabel_workers.gateway.app import api
from tests.fakes.callbacks import signed_headers
from tests.faults.raw_input.amount import cases
from tests.faults.raw_input.conftest import OPERATOR_TOKEN, SERVER, Web

pytestmark = pytest.mark.integration

_CHECKS = (
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)

# With the boundaries of every parameter, one after the other, before what is drawn at random; and without.
systematic = schemathesis.openapi.from_dict(api().openapi())
systematic.config.generation.update(modes=list(GenerationMode))
random = schemathesis.openapi.from_dict(api().openapi())
random.config.generation.update(modes=list(GenerationMode))
random.config.phases.coverage.enabled = False


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


class Caller(StrEnum):
    """Who sends a case."""

    NOBODY = "nobody"
    SERVICE = "service"
    OPERATOR = "operator"
    PLUGIN = "plugin"

    def authentication(self, web: Web) -> requests.auth.AuthBase | None:
        match self:
            case Caller.SERVICE:
                return Bearer(web.stores.service_token)
            case Caller.OPERATOR:
                return Bearer(OPERATOR_TOKEN.get_secret_value())
            case Caller.PLUGIN:
                return Signed(web.stores.callback_key)
        return None


class Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Signed(requests.auth.AuthBase):
    """Over what is sent in the end, as the plugin of an OpenCode server signs."""

    def __init__(self, key: SecretStr) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body or b""
        raw = body.encode() if isinstance(body, str) else body
        assert isinstance(raw, bytes)
        headers = signed_headers(request.path_url, raw, self._key, now_s=int(time.time()), instance=SERVER)
        headers.pop("content-type")
        request.headers.update(headers)
        return request


def owner_of(case: schemathesis.Case[Any]) -> Caller:
    if case.path.startswith("/v1/operator/"):
        return Caller.OPERATOR
    return Caller.PLUGIN if is_callback(case) else Caller.SERVICE


def is_callback(case: schemathesis.Case[Any]) -> bool:
    return case.method == "POST" and case.path.startswith(("/api/sidecar/", "/internal/"))


@pytest.mark.parametrize("caller_of", [owner_of], ids=["owner"])  # without a parameter all operations have one name
@systematic.parametrize()
@cases(10)
def test_every_answer_to_an_owner_is_as_documented(
    case: schemathesis.Case[Any],
    caller_of: Callable[[schemathesis.Case[Any]], Caller],
    web: Web,
    session: requests.Session,
) -> None:
    if "execution_id" in case.path_parameters:
        case.path_parameters["execution_id"] = web.stores.ended_execution
    if "session_id" in case.path_parameters:
        followed = case.path.endswith("/stream")
        case.path_parameters["session_id"] = web.stores.silent_session if followed else web.stores.ended_session
    if "dead_letter_id" in case.path_parameters:
        case.path_parameters["dead_letter_id"] = web.stores.dead_letter
    if is_callback(case) and isinstance(case.body, dict) and "session_id" in case.body:
        case.body["session_id"] = web.stores.ended_session

    check(case, caller_of(case), web, session)


@pytest.mark.parametrize("caller", Caller)
@random.parametrize()
@cases(6)
def test_every_answer_is_as_documented(
    case: schemathesis.Case[Any], caller: Caller, web: Web, session: requests.Session
) -> None:
    check(case, caller, web, session)


def check(case: schemathesis.Case[Any], caller: Caller, web: Web, session: requests.Session) -> None:
    response = case.call(base_url=web.url, session=session, auth=caller.authentication(web), timeout=10)

    case.validate_response(response, checks=list(_CHECKS), excluded_checks=_excluded(case))
    assert response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR or _is_honest(case, response)
    assert web.process.is_running
    assert web.crashes() == []


def _excluded(case: schemathesis.Case[Any]) -> list[CheckFunction]:
    """The schema of an event stream is that of its text; schemathesis takes it for that of an event."""
    return [response_schema_conformance] if case.path.endswith(("/events", "/stream")) else []


def _is_honest(case: schemathesis.Case[Any], response: Response) -> bool:
    """The one OpenCode server is away: readiness may say 503, the sidecar's calls that nothing came of them, and
    callbacks that it could not be asked about a session that nobody knows.
    """
    if is_callback(case):
        return bool(response.json()["code"] == "temporarily_unavailable")
    if case.path in {"/delegate", "/sessions/{session_id}/prompt"}:
        return bool("timeout after" in response.json()["output"])
    return case.path == "/ready" and response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
