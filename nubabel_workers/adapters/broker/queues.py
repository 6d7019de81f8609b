"""How much waits at the broker, read directly: Flower shows only queues that a live worker consumes."""

from collections.abc import Mapping, Sequence

import redis.asyncio
from redis.exceptions import RedisError

from nubabel_workers.adapters.broker.priority_lists import priority_lists
from nubabel_workers.domain.errors import UnavailableError

_FETCHED = "unacked_index"  # kombu's: delivery tags of fetched, unfinished messages by the time of their fetch


class BrokerQueues:
    """Queue lengths. `ping` is for readiness checks. Both raise UnavailableError."""

    def __init__(self, broker: redis.asyncio.Redis, queues: Sequence[str]) -> None:
        self._broker = broker
        self._queues = tuple(queues)

    async def lengths(self) -> Mapping[str, int]:
        """Queue -> waiting messages of every priority; "unacknowledged" counts those that workers hold."""
        lists = [(queue, name) for queue in self._queues for name in (queue, *priority_lists(queue))]
        pipeline = self._broker.pipeline(transaction=False)
        for _, name in lists:
            pipeline.llen(name)
        pipeline.zcard(_FETCHED)
        try:
            *lengths, held = await pipeline.execute()
        except (RedisError, OSError) as error:
            raise UnavailableError("the broker cannot be reached") from error
        waiting = dict.fromkeys(self._queues, 0)
        for (queue, _), length in zip(lists, lengths, strict=True):
            waiting[queue] += length
        return {**waiting, "unacknowledged": held}

    async def ping(self) -> None:
        try:
            await self._broker.ping()
        except (RedisError, OSError) as error:
            raise UnavailableError("the broker cannot be reached") from error
