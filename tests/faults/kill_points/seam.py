"""Inside of a process of ours: each call through a port and each commit is traced, and one of them is the last.

The adapters' classes are wrapped before the process's own main function runs; the product knows nothing of it.
"""

import functools
import inspect
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sized
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, get_origin, get_type_hints

from nubabel_workers.adapters.storage.database import Scope
from tests.faults.kill_points.points import ADAPTERS, Moment, every_call, methods_of

FOUND, NOTHING, RAISED = "+", "-", "!"  # how a call ended: with something, with nothing to do, with an error
ORDER_BYTES = 160

_STATEMENTS = ("all", "one", "execute")


class SharedOrder(Protocol):
    """Memory that the test writes and this process reads before and after each call."""

    value: bytes


def order_text(call: str, moment: Moment, *, only_if_found: bool) -> bytes:
    return f"{call} {moment} {'found' if only_if_found else 'any'}".encode()


@dataclass
class _Call:
    """The port method that is being called, and how many commits it has made."""

    name: str
    commits: int = 0


_current: ContextVar[_Call | None] = ContextVar("current port call", default=None)


class Seam:
    """trace: a file open for appending; each line: process, call, moment, how it ended."""

    def __init__(self, process: str, trace: int, order: SharedOrder) -> None:
        self._process = process
        self._trace = trace
        self._order = order

    def install(self) -> None:
        for name, (adapter, _) in ADAPTERS.items():
            for method in methods_of(adapter):
                self._wrap(adapter, method, f"{name}.{method}")
        for statement in _STATEMENTS:
            real = getattr(Scope, statement)
            setattr(Scope, statement, self._statement(real))

    def reached(self, call: str, moment: Moment, ended: str = "") -> None:
        """Write it down; if this is the ordered end, die as by `kill -9`, nothing flushed, nothing closed."""
        os.write(self._trace, f"{self._process} {call} {moment} {ended}\n".encode())
        order = self._order.value
        if not order:
            return
        if order == order_text(call, moment, only_if_found=False) or (
            ended != NOTHING and order == order_text(call, moment, only_if_found=True)
        ):
            self._order.value = b""
            os.kill(os.getpid(), signal.SIGKILL)

    def _wrap(self, adapter: type, method: str, call: str) -> None:
        real = getattr(adapter, method)
        if inspect.iscoroutinefunction(real):
            wrapped: Any = self._coroutine(real, call)
        elif get_origin(get_type_hints(real).get("return")) in {AsyncIterator, AsyncGenerator}:
            wrapped = self._stream(real, call)
        elif call in every_call():
            wrapped = self._function(real, call)
        else:
            return
        setattr(adapter, method, functools.wraps(real)(wrapped))

    def _coroutine(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        async def traced(*args: Any, **kwargs: Any) -> Any:
            if _current.get() is not None:  # an adapter that calls itself or another: one call through a port
                return await real(*args, **kwargs)
            self.reached(name, Moment.BEFORE)
            token = _current.set(_Call(name))
            ended = RAISED
            try:
                result = await real(*args, **kwargs)
                ended = _found(result)
            finally:
                _current.reset(token)
                if not isinstance(sys.exc_info()[1], GeneratorExit):
                    self.reached(name, Moment.AFTER, ended)
            return result

        return traced

    def _function(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def traced(*args: Any, **kwargs: Any) -> Any:
            if _current.get() is not None:
                return real(*args, **kwargs)
            self.reached(name, Moment.BEFORE)
            result = real(*args, **kwargs)
            self.reached(name, Moment.AFTER, FOUND)
            return result

        return traced

    def _stream(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Each item is a call: asked for, and come in without having been looked at."""

        async def traced(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async with aclosing(real(*args, **kwargs)) as items:
                while True:
                    self.reached(name, Moment.BEFORE)
                    token = _current.set(_Call(name))
                    try:
                        item = await anext(items)
                    except StopAsyncIteration:
                        return
                    finally:
                        _current.reset(token)
                    self.reached(name, Moment.AFTER, _found(item))
                    yield item

        return traced

    def _statement(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """A commit. The only one of a port's method is that method's own point; outside of a port it gets its own."""

        @functools.wraps(real)
        async def traced(*args: Any, **kwargs: Any) -> Any:
            call = _current.get()
            if call is not None:
                call.commits += 1
                if call.commits > 1:
                    self.reached(f"{call.name}#{call.commits}", Moment.BEFORE)
                return await real(*args, **kwargs)
            caller = f"database.{sys._getframe(1).f_code.co_qualname}"
            self.reached(caller, Moment.BEFORE)
            result = await real(*args, **kwargs)
            self.reached(caller, Moment.AFTER, _found(result))
            return result

        return traced


def _found(result: object) -> str:
    """Whether a call came back with something to do. None says nothing: most effects return it."""
    is_count = isinstance(result, int | float) and not isinstance(result, bool)
    return NOTHING if (is_count or isinstance(result, Sized)) and not result else FOUND
