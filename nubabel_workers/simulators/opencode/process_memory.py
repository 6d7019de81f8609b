"""Memory of this very process, for a simulated server that leaks for real. A module of its own, for it needs psutil."""

import asyncio
import secrets

import psutil

_STEP_S = 0.1


class ProcessMemory:
    """As SimulatedMemory. What it leaks is really allocated, and given back at a crash as far as Python does so."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._growing: asyncio.Task[None] | None = None
        self.restart()

    def restart(self) -> None:
        self.process = secrets.token_urlsafe(12)
        self._kept: list[bytearray] = []

    def leak(self, bytes_per_s: float) -> None:
        """From now on, instead of what was said before. Only where an event loop runs."""
        if self._growing is not None:
            self._growing.cancel()
        self._growing = asyncio.create_task(self._grow(int(bytes_per_s * _STEP_S))) if bytes_per_s > 0 else None

    @property
    def resident_bytes(self) -> int:
        return int(self._process.memory_info().rss)

    async def _grow(self, step_bytes: int) -> None:
        while True:
            self._kept.append(bytearray(b"\xff") * step_bytes)  # written to: what is only reserved is not resident
            await asyncio.sleep(_STEP_S)
