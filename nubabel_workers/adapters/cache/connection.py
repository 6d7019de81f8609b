"""The cache (Redis or Valkey): everything in it may be wiped at any time, everything in it expires."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from nubabel_workers.domain.errors import UnavailableError

PREFIX = "nubabel:"


class _Pool(redis.BlockingConnectionPool):
    """Nobody waits for a connection that is free.

    asyncio's conditions before Python 3.13 lose a wake-up when the one who was woken is cancelled before it runs
    (python/cpython#112202): all others would go on waiting for as long as a socket may rest.
    """

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().get_connection(*args, **options)  # type: ignore[no-untyped-call] # not in the stubs
        except BaseException:
            async with self._condition:
                self._condition.notify()
            raise


def connect(url: str, *, timeout_s: float, max_connections: int, ca_file: str | None = None) -> "redis.Redis":
    """A client with time limits. Nothing is connected before the first command."""
    tls = {"ssl_ca_certs": ca_file, "ssl_cert_reqs": "required"} if ca_file and url.startswith("rediss://") else {}
    pool = _Pool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        socket_keepalive=True,
        health_check_interval=25,
        # A failed command is not repeated in here: what it was for is either lossy or looked up in PostgreSQL.
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        # With them redis-py gives out connections that the server has closed: after its restart each would fail once.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **tls,
    )
    return redis.Redis.from_pool(pool)


@contextmanager
def translated_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise UnavailableError("the cache cannot be reached") from error
