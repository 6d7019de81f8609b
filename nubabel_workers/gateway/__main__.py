"""`python -m nubabel_workers.gateway`: process `web`."""

import asyncio
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
import uvicorn
from fastapi import FastAPI

from config.settings import Settings, SettingsError
from nubabel_workers.bootstrap import Services, open_services
from nubabel_workers.domain.errors import NubabelError, PermanentError
from nubabel_workers.entry import run_process
from nubabel_workers.gateway.app import create_app, create_private_app
from nubabel_workers.gateway.configured_workspace import configured_workspace
from nubabel_workers.gateway.wiring import gateway_parts
from nubabel_workers.services.check_sidecar import sidecar_organization

_KEEP_ALIVE_S = 75  # longer than a load balancer's own, so that it is not we who close a connection in use
_EVERY_ADDRESS = "::"
_SIDECAR_CHECK_S = 5.0
GRACEFUL_S = 10  # requests are short; event streams and waits are ended at once and resumed elsewhere

log = structlog.get_logger(__name__)


async def run(settings: Settings) -> None:
    async with (
        open_services(settings, application_name="nubabel-web") as services,
        gateway_parts(services) as parts,
        configured_workspace(services),
    ):
        await _tell_unserved_sidecar(services)
        await serve(create_app(parts), settings)


async def _tell_unserved_sidecar(services: Services) -> None:
    """No reason not to start, nor not to be ready: all other organizations are served as ever. The doctor fails."""
    organization_id = services.settings.sidecar_organization
    if organization_id is None:
        return
    try:
        async with asyncio.timeout(_SIDECAR_CHECK_S):
            await sidecar_organization(services.tenants, organization_id)
    except PermanentError as error:
        log.error("sidecar.nobody_served", error=str(error))  # noqa: TRY400 - no bug, no traceback
    except (NubabelError, TimeoutError) as error:
        log.warning("sidecar.not_checked", error=str(error))


class _Server(uvicorn.Server):
    """Signals are `serve`'s: unlike uvicorn, it doesn't raise them once more at the end; services are to be closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: FastAPI, settings: Settings) -> None:
    """Until a signal ends it; uvicorn then lets requests finish.

    Raises SettingsError where one of its addresses cannot be listened on; the other is not served without it.
    """
    servers = [_server(app, settings.http_host, settings.http_port)]
    if settings.sidecar_listen is not None and settings.sidecar_organization is not None:
        host, _, port = settings.sidecar_listen.rpartition(":")
        private = create_private_app(app, settings.sidecar_organization)
        servers.append(_server(private, host.strip("[]"), int(port)))
    _stop_by_signal(servers, app.state.stopping)
    ends = await asyncio.gather(*(_listen(server, servers) for server in servers), return_exceptions=True)
    for error in filter(None, ends):
        raise error


async def _listen(server: _Server, servers: Sequence[_Server]) -> None:
    """However it ends, the others end with it."""
    try:
        await server.serve()
    except SystemExit:
        # uvicorn has said why; let out of its task, it would end the loop under the other server, which then hangs.
        where = f"{server.config.host}:{server.config.port}"
        raise SettingsError(f"NUBABEL_HTTP_PORT or NUBABEL_SIDECAR_LISTEN: {where} cannot be listened on") from None
    finally:
        for other in servers:
            other.should_exit = True


def _stop_by_signal(servers: Sequence[_Server], stopping: asyncio.Event) -> None:
    def stop(number: signal.Signals) -> None:
        stopping.set()
        for server in servers:
            server.handle_exit(number, None)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)


def _server(app: FastAPI, host: str, port: int) -> _Server:
    config = uvicorn.Config(
        app,
        host="" if host == _EVERY_ADDRESS else host,  # asyncio would take "::" for IPv6 alone
        port=port,
        lifespan="off",  # what the app uses is opened and closed around it
        log_config=None,  # led into our pipeline by config.logging
        access_log=False,  # gateway.request_context writes the one line per request
        server_header=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACEFUL_S,
    )
    return _Server(config)


if __name__ == "__main__":
    sys.exit(run_process("web", run))
