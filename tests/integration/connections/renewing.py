"""One of several processes that need the same connection's access at once: renews, prints what it got."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack

from config.settings import load_settings
from nubabel_workers.bootstrap import open_connections, open_services


async def main(organization_id: str, connection_id: str, at_once: int) -> None:
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(open_services(load_settings(), application_name="tests renewing"))
        connections = open_connections(services, stack)
        print("ready", flush=True)  # noqa: T201 - the test waits for it
        await asyncio.to_thread(sys.stdin.readline)  # until the test says go
        got = await asyncio.gather(*(connections.access.access(organization_id, connection_id) for _ in range(at_once)))
        print(json.dumps([(one.revision, one.headers["Authorization"]) for one in got]), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
