"""Answers of the simulated server: JSON, refusals, and connections that drop."""

import secrets
from typing import Any

import orjson
from aiohttp import web

from nubabel_workers.simulators.opencode import wire_forms
from nubabel_workers.simulators.opencode.state import Json


class RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, body: Json) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


class GoneError(Exception):
    """The connection is to be dropped without an answer."""


def json_answer(data: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(data), status=status, content_type="application/json", headers=headers)


async def read_body(request: web.BaseRequest, *, bad: Json, status: int = 400) -> Json:
    """The JSON object in the body, {} without a body; anything else is refused with `bad`."""
    data = await request.read()
    try:
        body = orjson.loads(data or b"{}")
    except orjson.JSONDecodeError as error:
        raise RefusedError(status, bad) from error
    if not isinstance(body, dict):
        raise RefusedError(400, bad)
    return body


def server_error() -> Json:
    error = wire_forms.unknown_error("Unexpected server error. Check server logs for details.")
    error["data"]["ref"] = f"err_{secrets.token_hex(4)}"
    return error


def bad_request(message: str, kind: str) -> Json:
    return {"name": "BadRequest", "data": {"message": message, "kind": kind}}


def wrong_id(prefix: str, given: str, name: str) -> RefusedError:
    text = f'Expected a string starting with "{prefix}", got "{given}"\n  at ["{name}"]'
    return RefusedError(400, bad_request(text, "Params"))
