"""Event streams: frames encoded once, joined per burst, written by one coroutine per reader."""

import asyncio
import functools
from collections.abc import Sequence

import orjson
from aiohttp import web

from nubabel_workers.simulators.opencode.identifiers import IdSource
from nubabel_workers.simulators.opencode.state import Json, SimulatedSession

_MAX_BUFFERED_BYTES = 256 * 1024 * 1024
_FRAME_END = b"\n\n"


class Reader:
    """One connection to /event (a directory) or /global/event (None)."""

    def __init__(self, directory: str | None) -> None:
        self.directory = directory
        self.closed = False
        self._frames: list[bytes] = []
        self._buffered = 0
        self._wake = asyncio.Event()

    def add(self, frames: bytes) -> None:
        self._frames.append(frames)
        self._buffered += len(frames)
        if self._buffered > _MAX_BUFFERED_BYTES:
            self.close()
        self._wake.set()

    def close(self) -> None:
        self.closed = True
        self._wake.set()

    async def write_to(self, response: web.StreamResponse) -> None:
        """Write what is added, in bursts, until closed or disconnected."""
        while not self.closed:
            await self._wake.wait()
            self._wake.clear()
            frames, self._frames, self._buffered = self._frames, [], 0
            if frames:
                await response.write(b"".join(frames))


class Streams:
    """All readers. Publishing costs nothing while nobody reads."""

    def __init__(self, ids: IdSource) -> None:
        self.readers: set[Reader] = set()
        self.frames = 0
        self.muted = False
        self.delay_s = 0.0
        self._ids = ids

    def publish(self, session: SimulatedSession, kind: str, properties: Json, *, stored: bool = False) -> None:
        """stored: a change of the database, which the global stream tells a second time as `sync`."""
        if stored:
            session.sequence += 1
        self.frames += 2 if stored else 1
        if not self.readers or self.muted:
            return
        body = orjson.dumps(properties)
        event_id = self._ids.new("evt").encode()
        payload = b'{"id":"%b","type":"%b","properties":%b}' % (event_id, kind.encode(), body)
        sync = _sync(session, event_id, kind.encode(), body) if stored else b""
        self._deliver(session.directory, payload, sync)

    def publish_deltas(self, session: SimulatedSession, message_id: str, part_id: str, words: Sequence[str]) -> None:
        """One `message.part.delta` per word."""
        self.frames += len(words)
        if not self.readers or self.muted:
            return
        template = _delta_template(tuple(words))
        ids = orjson.dumps({"sessionID": session.id, "messageID": message_id, "partID": part_id, "field": "text"})
        head = b"%012x" % self._ids.head()
        for reader in self.readers:
            if reader.directory not in {None, session.directory}:
                continue
            before, after = _envelope(session.directory, is_global=reader.directory is None)
            block = template.replace(b"\x01", before + b'{"id":"evt_' + head)
            block = block.replace(b"\x02", b'","type":"message.part.delta","properties":' + ids[:-1] + b',"delta":')
            self._hand(reader, block.replace(b"\x03", b"}}" + after + _FRAME_END))

    def tell_all(self, kind: str, properties: Json) -> None:
        """An event of no session; every reader gets it."""
        payload = orjson.dumps({"id": self._ids.new("evt"), "type": kind, "properties": properties})
        for reader in self.readers:
            self.tell(reader, payload)

    def tell(self, reader: Reader, payload: bytes) -> None:
        if not self.muted:
            self._hand(
                reader, b'data: {"payload":%b}\n\n' % payload if reader.directory is None else b"data: %b\n\n" % payload
            )

    def connected(self) -> bytes:
        return orjson.dumps({"id": self._ids.new("evt"), "type": "server.connected", "properties": {}})

    def disconnect(self) -> None:
        for reader in self.readers:
            reader.close()

    def _deliver(self, directory: str, payload: bytes, sync: bytes) -> None:
        for reader in self.readers:
            if reader.directory not in {None, directory}:
                continue
            before, after = _envelope(directory, is_global=reader.directory is None)
            frames = before + payload + after + _FRAME_END
            if sync and reader.directory is None:
                frames += before + sync + after + _FRAME_END
            self._hand(reader, frames)

    def _hand(self, reader: Reader, frames: bytes) -> None:
        if self.delay_s:
            asyncio.get_running_loop().call_later(self.delay_s, reader.add, frames)
        else:
            reader.add(frames)


def _sync(session: SimulatedSession, event_id: bytes, kind: bytes, body: bytes) -> bytes:
    head = b'{"type":"sync","syncEvent":{"id":"%b","type":"%b.1","seq":%d' % (event_id, kind, session.sequence)
    return b'%b,"aggregateID":"%b","data":%b},"id":"%b"}' % (head, session.id.encode(), body, event_id)


@functools.lru_cache(maxsize=1024)
def _envelope(directory: str, *, is_global: bool) -> tuple[bytes, bytes]:
    if not is_global:
        return b"data: ", b""
    return b'data: {"directory":%b,"project":"global","payload":' % orjson.dumps(directory), b"}"


@functools.lru_cache(maxsize=64)
def _delta_template(words: tuple[str, ...]) -> bytes:
    """Every delta frame of an answer. Control characters, which JSON never contains raw, stand for what differs from
    run to run.
    """
    return b"".join(b"\x01%014d\x02%b\x03" % (n, orjson.dumps(word)) for n, word in enumerate(words))
