"""How much waits at the broker, read directly: Flower shows only queues that a live worker consumes."""

import time
from collections.abc import Mapping, Sequence

import redis.asyncio
from redis.exceptions import RedisError

from nubabel_workers.domain.errors import UnavailableError

_FETCHED = "unacked_index"  # kombu's: delivery tags of fetched, unfinished messages by the time of their fetch


class BrokerQueues:
    """Queue lengths. `ping` is for readiness checks. Both raise UnavailableError."""

    def __init__(self, broker: redis.asyncio.Redis, queues: Sequence[str]) -> None:
        self._broker = broker
        self._queues = tuple(queues)

    async def lengths(self) -> Mapping[str, int]:
        """Queue -> waiting messages; "unacknowledged" counts those that workers hold."""
        pipeline = self._broker.pipeline(transaction=False)
        for queue in self._queues:
            pipeline.llen(queue)
        pipeline.zcard(_FETCHED)
        try:
            counts = await pipeline.execute()
        except (RedisError, OSError) as error:
            raise UnavailableError("the broker cannot be reached") from error
        return dict(zip((*self._queues, "unacknowledged"), counts, strict=True))

    async def oldest_unacknowledged_s(self) -> float:
        """Age of the message that a worker has held longest; workers stamp them with their own clock."""
        try:
            oldest = await self._broker.zrange(_FETCHED, 0, 0, withscores=True)
        except (RedisError, OSError) as error:
            raise UnavailableError("the broker cannot be reached") from error
        return max(0.0, time.time() - float(oldest[0][1])) if oldest else 0.0

    async def ping(self) -> None:
        try:
            await self._broker.ping()
        except (RedisError, OSError) as error:
            raise UnavailableError("the broker cannot be reached") from error
