"""`python -m nubabel_workers.gateway`: process `web`."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from config.settings import Settings
from nubabel_workers.bootstrap import open_services
from nubabel_workers.entry import run_process
from nubabel_workers.gateway.app import create_app
from nubabel_workers.gateway.configured_workspace import configured_workspace
from nubabel_workers.gateway.wiring import gateway_parts

_KEEP_ALIVE_S = 75  # longer than a load balancer's own, so that it is not we who close a connection in use
_GRACEFUL_S = 10  # requests are short; event streams are ended at once and resumed elsewhere


async def run(settings: Settings) -> None:
    async with (
        open_services(settings, application_name="nubabel-web") as services,
        gateway_parts(services) as parts,
        configured_workspace(services),
    ):
        await serve(create_app(parts), settings)


class _Server(uvicorn.Server):
    """Unlike uvicorn's own, it doesn't raise the signal once more at the end: our services still have to be closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


async def serve(app: FastAPI, settings: Settings) -> None:
    """Until a signal ends it; uvicorn then lets requests finish."""
    config = uvicorn.Config(
        app,
        host=settings.http_host,
        port=settings.http_port,
        lifespan="off",  # what the app uses is opened and closed around it
        log_config=None,  # led into our pipeline by config.logging
        access_log=False,  # gateway.request_context writes the one line per request
        server_header=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACEFUL_S,
    )
    await _Server(config).serve()


if __name__ == "__main__":
    sys.exit(run_process("web", run))
