"""Memory of a simulated server, and how it tells Nubabel of it: what the plugin in the real server's image does."""

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
import structlog
from pydantic import SecretStr

from nubabel_workers.domain.callback_signature import (
    INSTANCE_HEADER,
    NONCE_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    SignedCall,
    signature_of,
)

log = structlog.get_logger(__name__)

VITALS_PATH = "/api/sidecar/server"
_FRESH_BYTES = 600_000_000  # a server with one directory, measured on opencode 1.18.33
_CALL_S = 5.0


@dataclass(frozen=True, slots=True)
class BridgeAccess:
    """What the plugin reads from its environment. every_s: between two reports."""

    url: str
    instance: str
    key: SecretStr = field(repr=False)
    every_s: float = 15.0


class ServersMemory(Protocol):
    """process: a name of its own after each start."""

    process: str

    @property
    def resident_bytes(self) -> int: ...

    def restart(self) -> None: ...

    def leak(self, bytes_per_s: float) -> None: ...


class SimulatedMemory:
    """Of one process after the other. Grows by what the fault `leak_bytes_per_s` says."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.restart()

    def restart(self) -> None:
        self.process = secrets.token_urlsafe(12)
        self._bytes, self._per_s, self._since = float(_FRESH_BYTES), 0.0, self._now()

    def leak(self, bytes_per_s: float) -> None:
        self._bytes, self._since = float(self.resident_bytes), self._now()
        self._per_s = bytes_per_s

    @property
    def resident_bytes(self) -> int:
        return int(self._bytes + self._per_s * (self._now() - self._since))


async def tell_memory(memory: ServersMemory, access: BridgeAccess, *, is_up: Callable[[], bool]) -> None:
    """Until cancelled. A report that does not arrive is followed by the next one."""
    timeout = aiohttp.ClientTimeout(total=_CALL_S)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        while True:
            if is_up():
                await _tell(http, memory, access)
            await asyncio.sleep(access.every_s)


async def _tell(http: aiohttp.ClientSession, memory: ServersMemory, access: BridgeAccess) -> None:
    body = json.dumps({"process": memory.process, "resident_bytes": memory.resident_bytes}).encode()
    timestamp, nonce = str(int(time.time())), secrets.token_urlsafe(18)
    call = SignedCall("POST", VITALS_PATH.encode(), body)
    headers = {
        "content-type": "application/json",
        INSTANCE_HEADER: access.instance,
        TIMESTAMP_HEADER: timestamp,
        NONCE_HEADER: nonce,
        SIGNATURE_HEADER: signature_of(call, access.key, timestamp=timestamp, nonce=nonce),
    }
    try:
        async with http.post(access.url + VITALS_PATH, data=body, headers=headers) as answer:
            await answer.read()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        log.info("simulator.memory_not_told", error=str(error) or type(error).__name__)
