"""A connection to PostgreSQL that never waits longer than our own clock allows."""

import asyncio
from contextlib import suppress
from typing import ClassVar

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import RV, PQGen
from psycopg.rows import DictRow
from psycopg.waiting import wait_async

from nubabel_workers.adapters.storage.exchange import Answer, AnswerLostError, Exchange, Params, Within

_LOOK_EVERY_S = 0.1  # psycopg's own interval


class BoundedConnection(AsyncConnection[DictRow]):
    """Drops a connection whose server does not answer, instead of waiting for it.

    PostgreSQL ends slow statements by itself (statement_timeout), but not while it is stopped, starved or cut off by
    the network. psycopg would then wait for ever; when cancelled, it asks the same server to cancel and waits for that.
    A server that lives notices that we are gone, by client_connection_check_interval.
    """

    answer_within_s: ClassVar[float]
    _exchange: Exchange | None = None

    async def run(self, statement: str, params: Params | None, within: Within) -> Answer:
        """Run one statement in a transaction of its own."""
        if self._exchange is None:  # not before the pool has configured the connection
            self._exchange = Exchange(self.pgconn, self, answer_within_s=self.answer_within_s)
        return await self._exchange.run(statement, params, within)

    async def wait(self, gen: PQGen[RV], interval: float = _LOOK_EVERY_S, timeout: float | None = None) -> RV:  # noqa: ASYNC109  # psycopg's signature
        try:
            async with asyncio.timeout(timeout or self.answer_within_s):
                return await wait_async(gen, self.pgconn.socket, interval=interval)
        except TimeoutError:
            self._give_up(gen)
            raise AnswerLostError("no answer from the server in time") from None
        except asyncio.CancelledError:
            self._give_up(gen)
            raise

    def _give_up(self, gen: PQGen[RV]) -> None:
        """Also ends what was to follow on this connection: left to the garbage collector it would complain."""
        self.pgconn.finish()
        with suppress(psycopg.Error, RuntimeError):
            gen.close()


def bounded_connection(answer_within_s: float) -> type[BoundedConnection]:
    """The class of connections with that limit, in seconds: a pool is given a class."""
    return type("BoundedConnection", (BoundedConnection,), {"answer_within_s": answer_within_s})
