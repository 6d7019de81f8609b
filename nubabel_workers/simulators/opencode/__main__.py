"""`python -m nubabel_workers.simulators.opencode`: one simulated OpenCode server as a process."""

import argparse
import asyncio
import contextlib
import os
import signal

from pydantic import SecretStr

from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import simulator

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
    parser.add_argument("--plugin", choices=("oh-my-opencode", "none"), default="oh-my-opencode")
    parser.add_argument("--model", action="append", help="provider/model; several: repeat it")
    parser.add_argument("--keep-sessions", type=int, help="forget the oldest idle sessions beyond this many")
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
        plugin=arguments.plugin,
        models=tuple(arguments.model or ("stub/echo",)),
        keep_sessions=arguments.keep_sessions,
    )


async def _serve(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with simulator(_config(arguments), host=arguments.host, port=arguments.port) as server:
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
