"""A process that makes tool calls; on demand it is killed at one call to the ledger."""

import asyncio
import functools
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from typing import Any

from config.settings import load_settings
from nubabel_workers.adapters.storage.tool_calls import PostgresToolCalls
from nubabel_workers.bootstrap import open_connections, open_services, open_tool_calls
from nubabel_workers.domain.tool_calls import ToolRequest


def die_at(method: str, moment: str) -> None:
    """As by `kill -9`, before that call or after it, nothing closed."""
    real = getattr(PostgresToolCalls, method)

    @functools.wraps(real)
    async def last(*args: Any, **kwargs: Any) -> Any:
        if moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        await real(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(PostgresToolCalls, method, last)


async def main(request: dict[str, Any]) -> None:
    """Ready, it says so; a line on standard input lets it begin."""
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(open_services(load_settings(), application_name="tests calling"))
        tools = open_tool_calls(services, open_connections(services, stack), stack)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        outcome = await tools.invoke.run(ToolRequest(**request))
        told = {"ok": outcome.ok, "content": outcome.content, "code": outcome.error.code if outcome.error else None}
        sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    if sys.argv[2:]:
        die_at(sys.argv[2], sys.argv[3])
    asyncio.run(main(json.loads(sys.argv[1])))
