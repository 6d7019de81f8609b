"""Rows of single paths: session mappings, progress to a client."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import aiohttp
import httpx

from benchmarks.figures import Report, percentile
from benchmarks.sizes import Sizes
from benchmarks.system import OpenCodeElsewhere, System
from nubabel_workers.adapters.opencode import wire

_MS = 1000.0
_AIM_LOOKUP_MS = 10.0
_AIM_SSE_MS = 100.0
_STREAM_S = 30.0


async def measure_lookups(system: System, sizes: Sizes, report: Report) -> None:
    """Of sessions that earlier rows left behind: from Redis, and from PostgreSQL when Redis has forgotten them."""
    services = system.stack.services
    rows = await services.database.system().all(
        "SELECT id, organization_id FROM sessions WHERE opencode_session_id IS NOT NULL LIMIT %(limit)s",
        {"limit": sizes.lookups},
    )
    times: dict[str, list[float]] = {"Redis": [], "PostgreSQL": []}
    for row in rows:
        started = time.perf_counter()
        found = await services.mappings.find(row["organization_id"], row["id"])
        times["Redis"].append(time.perf_counter() - started)
        await services.mappings.forget(row["organization_id"], row["id"])
        started = time.perf_counter()
        again = await services.mappings.find(row["organization_id"], row["id"])
        times["PostgreSQL"].append(time.perf_counter() - started)
        if found is None or found != again:
            report.problems.append(f"lookup: {row['id']} has no mapping, or two")
    for store, taken in times.items():
        p95 = percentile(taken, 0.95)
        value = None if p95 is None else p95 * _MS
        report.add("lookup", f"session mapping from {store}, p95", value, "ms", aim=_AIM_LOOKUP_MS)


async def measure_sse(system: System, sizes: Sizes, report: Report) -> None:
    """Each word of a slow answer: when a reader directly at OpenCode has it, and when our client has it."""
    tenant = system.stack.tenants[0]
    at_opencode: dict[str, float] = {}
    at_client: dict[str, float] = {}
    reading = asyncio.create_task(_read_opencode(system.server, at_opencode))
    try:
        async with asyncio.timeout(_STREAM_S), system.stack.client(tenant) as client:
            await _read_client(client, sizes.streamed_words, at_client)
    except TimeoutError:
        report.problems.append("sse: the stream had no end")
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
    # What was said before the listener knew that somebody watches comes late, or never: progress may be lost.
    late = [at_client[word] - at_opencode[word] for word in at_client if word in at_opencode]
    share = len(late) / sizes.streamed_words
    p95 = percentile(late, 0.95)
    value = None if p95 is None else p95 * _MS
    report.add("sse", "OpenCode's event to our client, p95", value, "ms", aim=_AIM_SSE_MS)
    report.add("sse", "words of the answer that reached the client", 100 * share, "%")


async def _read_opencode(server: OpenCodeElsewhere, seen: dict[str, float]) -> None:
    authorization = wire.basic_authorization(server.username, server.password)
    headers = {"authorization": authorization.get_secret_value()} if authorization else {}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as http,
        http.get(server.url + wire.EVENT_STREAM_PATH, headers=headers) as response,
    ):
        async for line in response.content:
            if b"message.part.delta" in line:
                event = json.loads(line.removeprefix(b"data:"))
                seen.setdefault(event["payload"]["properties"]["delta"], time.monotonic())


async def _read_client(client: httpx.AsyncClient, words: int, seen: dict[str, float]) -> None:
    submitted = await client.post(
        "/v1/executions", json={"prompt": f"Count, please. [[tokens={words}]] [[gap=0.02]] [[delay=0.5]]"}
    )
    submitted.raise_for_status()
    async with client.stream("GET", f"/v1/executions/{submitted.json()['id']}/events") as response:
        async for name, data in _events(response):
            if name == "text":
                for word in data["text"].split():
                    seen.setdefault(f"{word} ", time.monotonic())
            elif name == "done":
                return


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, dict[str, str]]]:
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            yield name, json.loads(line.removeprefix("data:"))
