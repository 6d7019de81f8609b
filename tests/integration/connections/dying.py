"""A process that gets or renews access to a connection and is killed at one call to its store."""

import asyncio
import functools
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from typing import Any

from config.settings import load_settings
from nubabel_workers.adapters.storage.connection_credentials import PostgresConnectionCredentials
from nubabel_workers.bootstrap import open_connections, open_services


def die_at(method: str, moment: str) -> None:
    """As by `kill -9`, before that call or after it, nothing closed."""
    real = getattr(PostgresConnectionCredentials, method)

    @functools.wraps(real)
    async def last(*args: Any, **kwargs: Any) -> Any:
        if moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        await real(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(PostgresConnectionCredentials, method, last)


async def main(work: str, arguments: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(open_services(load_settings(), application_name="tests dying"))
        connections = open_connections(services, stack)
        if work == "complete":
            await connections.authorize.complete(**arguments)
        else:
            await connections.access.access(**arguments)


if __name__ == "__main__":
    die_at(sys.argv[1], sys.argv[2])
    asyncio.run(main(sys.argv[3], json.loads(sys.argv[4])))
