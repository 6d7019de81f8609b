"""The plugin of the pipeline's one server, as our web hears it: every call signed, over HTTP."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
from pydantic import SecretStr

from nubabel_workers.domain.credentials import callback_key_text
from tests.fakes.callbacks import signed_headers
from tests.integration.gateway.conftest import Gateway, served
from tests.integration.pipeline.conftest import Pipeline

KEY = callback_key_text(b"k" * 32)


class Plugin:
    """Of the server ins_1."""

    def __init__(self, pipeline: Pipeline, gateway: Gateway, http: httpx.AsyncClient) -> None:
        self.pipeline = pipeline
        self._gateway = gateway
        self._http = http

    async def session(self) -> str:
        row = await self.pipeline.one("SELECT opencode_session_id FROM executions ORDER BY position DESC")
        return str(row["opencode_session_id"])

    async def says(self, path: str, body: Any, key: SecretStr = KEY, **changes: str) -> httpx.Response:
        raw = orjson.dumps(body)
        headers = signed_headers(path, raw, key, now_s=int(time.time()), **changes)
        return await self._http.post(self._gateway.url + path, content=raw, headers=headers)

    async def ended(self, kind: str = "session.idle") -> int:
        """How many executions are looked at for it."""
        session = await self.session()
        answer = await self.says(f"/api/sidecar/sessions/{session}/update", {"type": kind, "session_id": session})
        assert answer.status_code == 202, answer.text
        return int(answer.json()["accepted"])

    async def progress(self, *items: dict[str, Any]) -> int:
        session = await self.session()
        named = [{"session_id": session, **item} for item in items]
        answer = await self.says(f"/api/sidecar/sessions/{session}/progress", {"items": named})
        assert answer.status_code == 202, answer.text
        return int(answer.json()["accepted"])


@asynccontextmanager
async def calling(pipeline: Pipeline) -> AsyncIterator[Plugin]:
    """With our web, until the block ends."""
    await pipeline.services.instances.add_callback_key("ins_1", KEY, actor="tests")
    async with served(pipeline.services) as gateway, httpx.AsyncClient(trust_env=False, timeout=10) as http:
        yield Plugin(pipeline, gateway, http)
