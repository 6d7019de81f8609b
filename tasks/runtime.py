"""One event loop per worker process, in a thread of its own: how Celery's threads reach the async services."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

import structlog
import uvloop

T = TypeVar("T")
S = TypeVar("S")

_CANCEL_GRACE_S = 2.0  # what a cancelled coroutine may take to write down what happened

log = structlog.get_logger(__name__)


class LoopThread:
    """Runs coroutines for callers in other threads, from its creation until close()."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="event-loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], *, timeout_s: float) -> T:
        """The coroutine's result. After timeout_s it is cancelled and TimeoutError raised.

        The cancelled coroutine gets a moment to end, so that nothing of it goes on while the caller believes it over.
        What is bound to the log context of the calling thread is bound in the coroutine as well.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("this is the event loop's own thread: await instead")
        future = asyncio.run_coroutine_threadsafe(_limited(work, timeout_s), self._loop)
        try:
            return future.result(timeout_s + _CANCEL_GRACE_S)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise

    def submit(self, work: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """Start a coroutine that runs as long as it likes."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Cancel what still runs, stop the loop, end the thread."""
        self.submit(self._cancel_all()).result(timeout_s)
        self.call_soon(self._loop.stop)
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    @staticmethod
    async def _cancel_all() -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                log.warning("runtime.task_failed_at_shutdown", error=f"{type(outcome).__name__}: {outcome}")
        await asyncio.get_running_loop().shutdown_asyncgens()


async def _limited(work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    async with asyncio.timeout(timeout_s):
        return await work


class WorkerRuntime(Generic[S]):
    """The services of one worker process and the loop they live on.

    open_services: opens and closes them; entered and left by one and the same coroutine.
    """

    def __init__(self, open_services: Callable[[], AbstractAsyncContextManager[S]]) -> None:
        self._open_services = open_services
        self._opened: concurrent.futures.Future[S] = concurrent.futures.Future()
        self._closing = asyncio.Event()
        self._loop: LoopThread | None = None
        self._holder: concurrent.futures.Future[None] | None = None

    def start(self, *, timeout_s: float = 30.0) -> None:
        """Open the services; raises what opening them raises."""
        self._loop = LoopThread()
        self._holder = self._loop.submit(self._hold())
        self._opened.result(timeout_s)

    def run(self, work: Callable[[S], Coroutine[Any, Any, T]], *, timeout_s: float) -> T:
        """work(services), from another thread, within timeout_s seconds (else TimeoutError)."""
        if self._loop is None:
            raise RuntimeError("the worker's services are not open")
        return self._loop.run(work(self._opened.result(0)), timeout_s=timeout_s)

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Close the services and the loop."""
        loop, self._loop = self._loop, None
        if loop is None or self._holder is None:
            return
        loop.call_soon(self._closing.set)
        concurrent.futures.wait([self._holder], timeout_s)
        loop.close(timeout_s=timeout_s)

    async def _hold(self) -> None:
        try:
            async with self._open_services() as services:
                self._opened.set_result(services)
                await self._closing.wait()
        except Exception as error:
            if self._opened.done():
                log.exception("runtime.closing_failed")
            else:
                self._opened.set_exception(error)
