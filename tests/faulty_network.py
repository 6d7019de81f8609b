"""A TCP connection to a server that can be made to hang or break, without touching the server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, urlsplit, urlunsplit

_CHUNK = 65_536


class FaultyNetwork:
    """Passes bytes on to a unix socket, until it hangs (delivers nothing, as a stopped server does) or is cut."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self._broken = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Called for each new connection."""
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def close(self) -> None:
        self.cut()
        self._flows.set()
        await asyncio.gather(*self._connections)

    def hang(self) -> None:
        self._flows.clear()

    def heal(self) -> None:
        self._broken = False
        self._flows.set()

    def cut(self) -> None:
        """Break all connections, and refuse new ones until heal()."""
        self._broken = True
        for writer in self._writers:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._broken:
            writer.transport.abort()
            return
        server_reader, server_writer = await asyncio.open_unix_connection(self._target)
        both = {writer, server_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._pump(reader, server_writer), self._pump(server_reader, writer))
        finally:
            self._writers -= both

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(_CHUNK):
                await self._flows.wait()
                sink.write(data)
                await sink.drain()
        sink.close()


@asynccontextmanager
async def network_before(socket_path: str) -> AsyncIterator[FaultyNetwork]:
    network = FaultyNetwork(socket_path)
    server = await asyncio.start_server(network.connect, "127.0.0.1", 0)
    network.port = server.sockets[0].getsockname()[1]
    try:
        yield network
    finally:
        server.close()
        await network.close()


def socket_of(postgres_url: str) -> str:
    """Where the server of such a URL listens: tests' PostgreSQL has no TCP port."""
    (directory,) = parse_qs(urlsplit(postgres_url).query)["host"]
    return f"{directory}/.s.PGSQL.5432"


def through(network: FaultyNetwork, postgres_url: str, *, user: str | None = None) -> str:
    """The same database as that URL names, reached over the network."""
    parts = urlsplit(postgres_url)
    return urlunsplit(
        parts._replace(netloc=f"{user or parts.username}@127.0.0.1:{network.port}", query="sslmode=disable")
    )
