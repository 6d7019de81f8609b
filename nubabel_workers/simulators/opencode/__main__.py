"""`python -m nubabel_workers.simulators.opencode`: one simulated OpenCode server as a process."""

import argparse
import asyncio
import contextlib
import os
import signal

from pydantic import SecretStr

from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import simulator
from nubabel_workers.simulators.opencode.vitals import BridgeAccess, ServersMemory, SimulatedMemory

_PASSWORD_VARIABLE = "OPENCODE_SERVER_PASSWORD"  # noqa: S105  # the name of it, as the real server has it


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="opencode-simulator", description="A stand-in for an OpenCode server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, told in the ready line")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before an answer begins")
    parser.add_argument("--tokens", type=int, default=0, help="words of an answer; 0: the echo")
    parser.add_argument("--gap", type=float, default=0.0, help="seconds between two words")
    parser.add_argument("--username", default="opencode")
    parser.add_argument("--password", help=f"default: the environment's {_PASSWORD_VARIABLE}, else none")
    parser.add_argument("--directory", default="/srv/opencode", help="where sessions live that name no directory")
    parser.add_argument(
        "--one-directory",
        action="store_true",
        help="make none for organizations, as without our plugin",
    )
    parser.add_argument("--plugin", choices=("oh-my-opencode", "none"), default="oh-my-opencode")
    parser.add_argument("--model", action="append", help="provider/model; several: repeat it")
    parser.add_argument("--keep-sessions", type=int, help="forget the oldest idle sessions beyond this many")
    parser.add_argument(
        "--real-memory", action="store_true", help="tell the memory of this process, and leak for real when told to"
    )
    parser.add_argument("--tell-every", type=float, default=15.0, help="seconds between two reports of memory")
    return parser.parse_args()


def _config(arguments: argparse.Namespace) -> SimulatorConfig:
    password = arguments.password or os.environ.get(_PASSWORD_VARIABLE)
    return SimulatorConfig(
        delay_s=arguments.delay,
        tokens=arguments.tokens,
        gap_s=arguments.gap,
        username=arguments.username,
        password=SecretStr(password) if password else None,
        directory=arguments.directory,
        directories=not arguments.one_directory,
        plugin=arguments.plugin,
        models=tuple(arguments.model or ("stub/echo",)),
        keep_sessions=arguments.keep_sessions,
    )


def _bridge(every_s: float) -> BridgeAccess | None:
    """The key leaves the environment, as in the real server. None: nobody is told how it is doing."""
    key = os.environ.pop("NUBABEL_BRIDGE_KEY", None)
    if key is None:
        return None
    url, instance = os.environ["NUBABEL_BRIDGE_URL"], os.environ["NUBABEL_BRIDGE_INSTANCE"]
    return BridgeAccess(url, instance, SecretStr(key), every_s=every_s)


def _memory(*, real: bool) -> ServersMemory:
    if not real:
        return SimulatedMemory()
    from nubabel_workers.simulators.opencode.process_memory import ProcessMemory  # noqa: PLC0415 - needs psutil

    return ProcessMemory()


async def _serve(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    memory, bridge = _memory(real=arguments.real_memory), _bridge(arguments.tell_every)
    async with contextlib.AsyncExitStack() as running:
        server = await running.enter_async_context(
            simulator(_config(arguments), host=arguments.host, port=arguments.port, memory=memory)
        )
        if bridge is not None:
            await running.enter_async_context(server.bridged(bridge))
        print(f"opencode server listening on {server.url}", flush=True)  # noqa: T201  # the ready line
        await stopped.wait()


def main() -> None:
    arguments = _arguments()
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415  # not on every platform

        uvloop.run(_serve(arguments))
        return
    asyncio.run(_serve(arguments))


if __name__ == "__main__":
    main()
