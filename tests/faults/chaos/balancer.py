"""What stands before several gateways in production: a TCP balancer that passes over those that are not there."""

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from nubabel_workers.embedded.stack_environment import HOST

_CHUNK = 65_536


class Balancer:
    """Takes turns over the ports. A gateway that is stopped takes the connection and keeps it waiting, as ever."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._turn = itertools.count()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.url = f"http://{HOST}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            backend = await self._connect()
            if backend is not None:
                async with asyncio.TaskGroup() as both_ways:
                    both_ways.create_task(_pump(reader, backend[1]))
                    both_ways.create_task(_pump(backend[0], writer))
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        first = next(self._turn)
        for step in range(len(self._ports)):
            with suppress(OSError):
                return await asyncio.open_connection(HOST, self._ports[(first + step) % len(self._ports)])
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until either side ends."""
    with suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.close()
