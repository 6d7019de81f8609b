"""A plain client of the broker, for what does not go through Celery: hints and parked messages."""

from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def connect(
    url: str, *, timeout_s: float, connect_timeout_s: float, ca_file: Path | None = None, again: int = 0
) -> "redis.Redis":
    """Nothing is connected before the first command, and every wait is limited (seconds).

    again: how often a command is repeated at once when its connection turns out to be lost, as an old one is after the
    broker was restarted. What timed out is not repeated.
    """
    tls = {"ssl_ca_certs": str(ca_file), "ssl_cert_reqs": "required"} if ca_file and url.startswith("rediss://") else {}
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=connect_timeout_s,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), again, supported_errors=(redis.ConnectionError,)),
        **tls,
    )
