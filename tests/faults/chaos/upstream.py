"""An upstream service: submits over HTTP with an Idempotency-Key until it is accepted, takes webhooks, or polls."""

import asyncio
import json
import random
import time
from collections.abc import Coroutine, Sequence
from http import HTTPStatus
from typing import Any, Self

import aiohttp
from aiohttp import web

from nubabel_workers.embedded.stack_environment import HOST
from nubabel_workers.embedded.stack_tenants import Tenant
from tests.faults.chaos.book import Book
from tests.faults.chaos.ledger import Job, Saying, Told, Way

_TIMEOUT = aiohttp.ClientTimeout(total=5)
_AGAIN_S = (0.3, 1.5)
_POLL_S = 0.5
_SUBMITTED_TWICE = 0.1  # of the submissions: sent once more although they were accepted
_REFUSED_CALLBACKS = 0.05  # of the webhooks: answered with 503
_OVERSIZED_CHARS = 140_000  # the gateway takes 131,072
_SAYINGS = {"completed": Saying.ANSWER, "failed": Saying.APOLOGY}


class Upstream:
    """api_url: of the gateway, as its callers see it. Use as an async context manager."""

    def __init__(self, book: Book, *, port: int, seed: int) -> None:
        self.api_url = ""
        self._book = book
        self._port = port
        self._chance = random.Random(f"upstream {seed}")
        self._webhooks_seen: set[str] = set()
        self._working: set[asyncio.Task[None]] = set()
        self._asked_by: dict[int, Tenant] = {}

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/callback", self._take_webhook)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self._port).start()
        self._http = aiohttp.ClientSession(timeout=_TIMEOUT, connector=aiohttp.TCPConnector(limit=200))
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        await self._http.close()
        await self._runner.cleanup()

    def submit(self, tenant: Tenant, job: Job, text: str, *, session_key: str) -> None:
        body: dict[str, Any] = {"prompt": text, "session_key": session_key, "metadata": {"job": job.number}}
        if job.way is Way.WEBHOOK:
            body["callback_url"] = self._callback_url
        self._asked_by[job.number] = tenant
        self._go(self._until_accepted(tenant, job, body))

    def submit_batch(self, tenant: Tenant, asked: Sequence[tuple[Job, str]], *, cancel_rest: bool) -> None:
        """Texts of several jobs, each in a session of its own: one acceptance, one webhook."""
        for job, _ in asked:
            self._asked_by[job.number] = tenant
        body = {
            "requests": [
                {"prompt": text, "session_key": f"batch-{job.number}", "metadata": {"job": job.number}}
                for job, text in asked
            ],
            "on_failure": "cancel_rest" if cancel_rest else "report",
            "callback_url": self._callback_url,
        }
        self._go(self._until_batch_accepted(tenant, [job for job, _ in asked], body))

    @staticmethod
    def too_long(text: str) -> str:
        """What the gateway refuses for its size."""
        return text.ljust(_OVERSIZED_CHARS, "x")

    async def look_at(self, job: Job) -> None:
        """Note whether the API says that somebody still works on it."""
        tenant = self._asked_by.get(job.number)
        for execution_id in job.execution_ids if tenant is not None else ():
            status = await self._status(tenant, execution_id) if tenant is not None else None
            job.working = job.working or status not in _ENDED

    @property
    def _callback_url(self) -> str:
        return f"http://{HOST}:{self._port}/callback"

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _until_accepted(self, tenant: Tenant, job: Job, body: dict[str, Any]) -> None:
        while not await self._try_to_submit(tenant, job, body):  # noqa: ASYNC110  # the other side gives no event
            await asyncio.sleep(self._chance.uniform(*_AGAIN_S))
        if job.refused is None and self._chance.random() < _SUBMITTED_TWICE:
            await self._try_to_submit(tenant, job, body)
        if job.refused is None and job.way is Way.POLLING:
            await self._poll(tenant, job)

    async def _until_batch_accepted(self, tenant: Tenant, jobs: Sequence[Job], body: dict[str, Any]) -> None:
        while not await self._try_to_submit_batch(tenant, jobs, body):  # noqa: ASYNC110  # the other side gives no event
            await asyncio.sleep(self._chance.uniform(*_AGAIN_S))
        if self._chance.random() < _SUBMITTED_TWICE:
            await self._try_to_submit_batch(tenant, jobs, body)

    async def _try_to_submit(self, tenant: Tenant, job: Job, body: dict[str, Any]) -> bool:
        """Whether the gateway has accepted or refused it."""
        return await self._try_to_post(tenant, "/v1/executions", [job], body)

    async def _try_to_submit_batch(self, tenant: Tenant, jobs: Sequence[Job], body: dict[str, Any]) -> bool:
        return await self._try_to_post(tenant, "/v1/executions:batch", jobs, body)

    async def _try_to_post(self, tenant: Tenant, path: str, jobs: Sequence[Job], body: dict[str, Any]) -> bool:
        headers = _headers(tenant) | {"idempotency-key": f"job-{jobs[0].number}"}
        try:
            async with self._http.post(f"{self.api_url}{path}", json=body, headers=headers) as response:
                answer = await response.json(content_type=None)
                status = response.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            _note_not_accepted(jobs, type(error).__name__)
            return False
        if status == HTTPStatus.ACCEPTED:
            ids = [answer["id"]] if len(jobs) == 1 else [one["id"] for one in answer["executions"]]
            for job, execution_id in zip(jobs, ids, strict=True):
                job.execution_ids.add(execution_id)
                self._book.accept(job, time.monotonic())
            return True
        if status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS:
            for job in jobs:
                job.refused = f"{status} {answer.get('code', '')}"
                self._book.has_outcome[job.number].set()
            return True
        _note_not_accepted(jobs, f"HTTP {status}")
        return False

    async def _poll(self, tenant: Tenant, job: Job) -> None:
        execution_id = next(iter(job.execution_ids))
        while (status := await self._status(tenant, execution_id)) not in _ENDED:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        saying = _SAYINGS.get(status, Saying.REFUSAL)
        self._book.tell(Told(time.monotonic(), saying, job.thread, job.number))

    async def _status(self, tenant: Tenant, execution_id: str) -> str:
        """Empty: not readable now."""
        try:
            url = f"{self.api_url}/v1/executions/{execution_id}"
            async with self._http.get(url, headers=_headers(tenant)) as response:
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return ""
        return str(answer.get("status", ""))

    async def _take_webhook(self, request: web.Request) -> web.Response:
        if self._chance.random() < _REFUSED_CALLBACKS:
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE)
        told = json.loads(await request.read())
        webhook_id = request.headers["webhook-id"]
        again = webhook_id in self._webhooks_seen
        self._webhooks_seen.add(webhook_id)
        for outcome in told["data"].get("outcomes", [told["data"]]):
            number = int(outcome["metadata"]["job"])
            saying = Saying.REPEAT if again else _SAYINGS.get(outcome["status"], Saying.REFUSAL)
            self._book.tell(Told(time.monotonic(), saying, self._book.jobs[number].thread, number))
        return web.Response(status=HTTPStatus.NO_CONTENT)


_ENDED = frozenset({"completed", "failed", "rejected", "cancelled"})


def _note_not_accepted(jobs: Sequence[Job], why: str) -> None:
    for job in jobs:
        job.not_accepted = why


def _headers(tenant: Tenant) -> dict[str, str]:
    return {"authorization": f"Bearer {tenant.token.get_secret_value()}"}
