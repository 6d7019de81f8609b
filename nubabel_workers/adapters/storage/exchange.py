"""One statement in one round trip, over libpq as psycopg wraps it (`psycopg.pq`).

psycopg's cursors and pipelines do the same by more general means and for more CPU: they read a statement's text and
describe its columns each time, and take an exchange apart into commands that are waited for one by one.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import psycopg
from psycopg.abc import AdaptContext
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

Params = Mapping[str, Any]

_PLACEHOLDER = re.compile(r"%\((\w+)\)s|%%")
_MANY_STATEMENTS = 1024  # more than this project has
_TEXT_OID = 25
_SUSPICIOUS_S = 0.05  # a statement that takes so long may have a plan for a smaller table
_SUSPICIOUS_ALONE_S = 0.01  # one that others wait for
# A plan is kept for so long at least, twice as long each time: what is slow for another reason stays as it is.
_KEEP_PLAN_S, _LONGEST_KEPT_S = 2.0, 60.0


class AnswerLostError(psycopg.OperationalError):
    """PostgreSQL gave no answer in time: the connection is dropped, what became of the statement is unknown."""


class Answer(NamedTuple):
    """rows: what the statement returned. touched: how many rows it returned or changed."""

    rows: list[dict[str, Any]]
    touched: int


class Within(NamedTuple):
    """What a statement runs within.

    organization_id: whose rows it sees. lock: one at a time of those with the same one, over all processes, each seeing
    what the one before has changed. walks: it follows an index and stops early, whatever the planner knows of a table.
    """

    organization_id: str | None = None
    lock: str | None = None
    walks: bool = False


class _Statement(NamedTuple):
    """text: as PostgreSQL wants it; names: of its parameters $1, $2 and so on."""

    text: bytes
    names: tuple[str, ...]


class _Prepared:
    """A statement that the server knows by name. columns: of what it returns, once that was seen.

    good_until: before that, by the event loop's clock, its plan is not doubted.
    """

    def __init__(self, name: bytes, good_until: float) -> None:
        self.name = name
        self.good_until = good_until
        self.columns: tuple[str, ...] | None = None

    def row(self, values: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(self.columns or (), values, strict=True))


_Key = tuple[bytes, tuple[int, ...]]
_SCOPE = _Statement(b"SELECT set_config('nubabel.organization_id', $1, true)", ("organization_id",))
# The lock is had before the statement that follows begins, hence before what it reads is chosen. Others wait for that
# one: it goes by indexes also where it was planned while a table was small (a claim took 50 ms instead of 9, with a
# hundred thousand rows in a table that was empty at first), and is planned once, not six times.
_BY_INDEXES = (
    b"set_config('enable_seqscan', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true), "
    b"set_config('jit', 'off', true)"
)
_LOCK = _Statement(b"SELECT " + _BY_INDEXES + b", pg_advisory_xact_lock(hashtextextended($1, 0))", ("lock",))

# For a statement that finds the first few of what waits, in the order of an index, and stops there. Who has known the
# table while little waited expects so little that to read and sort all of it looks as good. What is off and needed all
# the same looks so dear, before PostgreSQL 18, that it would be compiled each time.
_WALK = _Statement(
    b"SELECT "
    + _BY_INDEXES
    + b", set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true)",
    (),
)


class Exchange:
    """Runs statements on one connection, one at a time; whoever has the connection from the pool has this too."""

    def __init__(self, pgconn: PGconn, context: AdaptContext, *, answer_within_s: float) -> None:
        self._pgconn = pgconn
        self._values = Transformer(context)
        self._answer_within_s = answer_within_s
        self._prepared: dict[_Key, _Prepared] = {}
        self._names = 0
        self._keep_s: dict[_Key, float] = {}  # of statements whose plan was doubted
        self._outdated: list[bytes] = []  # names that the server need not know any more

    async def run(self, statement: str, params: Params | None, within: Within) -> Answer:
        """Run one statement in a transaction of its own.

        What is sent before a sync is one transaction (PostgreSQL manual, "Pipelining"). A statement is prepared when it
        is met first, and taken for prepared only when the server has said so.
        """
        compiled = _compiled(statement, with_params=params is not None)
        given = [(params or {})[name] for name in compiled.names]
        dumped = self._values.dump_sequence(given, [PyFormat.AUTO] * len(given))
        types, formats = self._values.types or (), self._values.formats
        pgconn = self._pgconn
        pgconn.enter_pipeline_mode()
        preparing: dict[int, tuple[_Key, _Prepared]] = {}
        sent = self._forget_outdated()
        for before, value in ((_SCOPE, within.organization_id), (_LOCK, within.lock)):
            if value is not None:
                known, sent = self._known(before, (_TEXT_OID,), sent, preparing)
                pgconn.send_query_prepared(known.name, [value.encode()])
                sent += 1
        if within.walks:
            known, sent = self._known(_WALK, (), sent, preparing)
            pgconn.send_query_prepared(known.name, [])
            sent += 1
        if within.lock is not None:
            pgconn.send_flush_request()  # so that we hear when we have it
        prepared, sent = self._known(compiled, types, sent, preparing)
        pgconn.send_query_prepared(prepared.name, dumped, formats)
        pgconn.pipeline_sync()
        results, took_s = await self._results(sent + 1)
        for position, (key, new) in preparing.items():
            if results[position].status == ExecStatus.COMMAND_OK:
                self._prepared[key] = new
        pgconn.exit_pipeline_mode()
        _raise_first_error(results)
        if took_s > (_SUSPICIOUS_S if within.lock is None else _SUSPICIOUS_ALONE_S):
            self._doubt_plan((compiled.text, types))
        return self._read(results[sent], prepared)

    def _doubt_plan(self, key: _Key) -> None:
        """A statement that took long is prepared anew next time, though not again and again.

        PostgreSQL keeps a plan that it made while a table was small until somebody has analyzed the table, a minute
        or two after a flood began: until then a claim took a second instead of milliseconds.
        """
        prepared = self._prepared[key]
        if asyncio.get_running_loop().time() < prepared.good_until:
            return
        self._keep_s[key] = min(_LONGEST_KEPT_S, 2 * self._keep_s.get(key, _KEEP_PLAN_S))
        del self._prepared[key]
        self._outdated.append(prepared.name)

    def _forget_outdated(self) -> int:
        """How many commands were sent for it."""
        names, self._outdated = self._outdated, []
        for name in names:
            self._pgconn.send_query_params(b"DEALLOCATE " + name, None)
        return len(names)

    def _known(
        self, statement: _Statement, types: tuple[int, ...], sent: int, preparing: dict[int, tuple[_Key, _Prepared]]
    ) -> tuple[_Prepared, int]:
        """The statement as the server knows it, or will when it has read this far; and how much was sent by then."""
        key = (statement.text, types)
        prepared = self._prepared.get(key)
        if prepared is not None:
            return prepared, sent
        self._names += 1
        good_until = asyncio.get_running_loop().time() + self._keep_s.get(key, _KEEP_PLAN_S)
        prepared = _Prepared(b"s%d" % self._names, good_until)
        self._pgconn.send_prepare(prepared.name, statement.text, types)
        preparing[sent] = (key, prepared)
        return prepared, sent + 1

    def _read(self, result: PGresult, prepared: _Prepared) -> Answer:
        if result.status != ExecStatus.TUPLES_OK:
            return Answer([], result.command_tuples or 0)
        if prepared.columns is None:
            names = (result.fname(column) or b"" for column in range(result.nfields))
            prepared.columns = tuple(name.decode() for name in names)
        self._values.set_pgresult(result)
        rows = self._values.load_rows(0, result.ntuples, prepared.row)
        self._values.set_pgresult(None)
        return Answer(rows, result.ntuples)

    async def _results(self, count: int) -> tuple[list[PGresult], float]:
        """The results of the `count` commands that were sent, in their order; of the sync only an error. And for how
        long, in seconds, only the last of them was waited for: to wait for a lock is not the statement's slowness.

        Whatever else goes wrong meanwhile ends the connection. An error of a command is certain even so; a connection
        that breaks after the last of them leaves open whether the transaction was committed.
        """
        results: list[PGresult] = []
        clock = asyncio.get_running_loop().time
        waiting = _Waiting(self._pgconn, self._answer_within_s)
        since = clock()
        try:
            while self._pgconn.flush():
                await waiting.until_ready(writable=True)
            had = 0
            while not self._has_all(results):
                if had < len(results) < count:
                    had, since = len(results), clock()
                await waiting.until_ready()
        except BaseException as error:
            waiting.end()
            self._pgconn.finish()
            if isinstance(error, psycopg.OperationalError):
                _raise_first_error(results[:count])
            raise
        waiting.end()
        return results, clock() - since

    def _has_all(self, results: list[PGresult]) -> bool:
        """Take over what has arrived; whether that includes the answer to the sync."""
        while not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                if self._pgconn.status == ConnStatus.BAD:
                    raise psycopg.OperationalError("the connection was lost")
            elif result.status == ExecStatus.PIPELINE_SYNC:
                return True
            else:
                results.append(result)
        return False


class _Waiting:
    """Waits for a connection's socket, all in all no longer than limit_s."""

    def __init__(self, pgconn: PGconn, limit_s: float) -> None:
        self._pgconn = pgconn
        self._socket = pgconn.socket
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._socket, self._wake)
        self._timer = self._loop.call_later(limit_s, self._give_up)

    async def until_ready(self, *, writable: bool = False) -> None:
        """Return when there is something to read, or when more can be written."""
        if writable:
            self._loop.add_writer(self._socket, self._wake)
        try:
            await self._ready
        finally:
            if writable:
                self._loop.remove_writer(self._socket)
        self._ready = self._loop.create_future()
        self._pgconn.consume_input()

    def end(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._socket)

    def _wake(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    def _give_up(self) -> None:
        if not self._ready.done():
            self._ready.set_exception(AnswerLostError("no answer from the server in time"))


@lru_cache(maxsize=_MANY_STATEMENTS)
def _compiled(statement: str, *, with_params: bool) -> _Statement:
    """From `%(name)s` to `$1`. Without parameters a statement stays as it is."""
    if not with_params:
        return _Statement(statement.encode(), ())
    numbers: dict[str, int] = {}

    def place(found: re.Match[str]) -> str:
        name = found[1]
        return f"${numbers.setdefault(name, len(numbers) + 1)}" if name else "%"

    text = _PLACEHOLDER.sub(place, statement)
    return _Statement(text.encode(), tuple(numbers))


def _raise_first_error(results: Sequence[PGresult]) -> None:
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise error_from_result(result)
