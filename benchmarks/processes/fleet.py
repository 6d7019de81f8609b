"""Process: several simulated OpenCode servers of different speed, which tell our web how much memory they have.

`open {delays_s, password}` -> urls, in that order; `bridge {url, keys, every_s}`, keys: [server's id, its callback key]
in the same order; `fault {server, values}`; `crash {server, down_s}`.
"""

from contextlib import AsyncExitStack

import uvloop
from pydantic import SecretStr

from benchmarks.processes.commands import Json, serve
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import RunningSimulator, simulator
from nubabel_workers.simulators.opencode.vitals import BridgeAccess


class _Fleet:
    def __init__(self, parts: AsyncExitStack) -> None:
        self._parts = parts
        self._servers: list[RunningSimulator] = []

    async def open(self, given: Json) -> list[str]:
        for delay_s in given["delays_s"]:
            config = SimulatorConfig(
                delay_s=delay_s, tokens=1, password=SecretStr(given["password"]), heartbeat_s=1.0, keep_sessions=500
            )
            self._servers.append(await self._parts.enter_async_context(simulator(config)))
        return [one.url for one in self._servers]

    async def bridge(self, given: Json) -> None:
        for server, (instance, key) in zip(self._servers, given["keys"], strict=True):
            access = BridgeAccess(given["url"], instance, SecretStr(key), every_s=given["every_s"])
            await self._parts.enter_async_context(server.bridged(access))

    async def fault(self, given: Json) -> None:
        self._servers[given["server"]].simulator.set_faults(**given["values"])

    async def crash(self, given: Json) -> None:
        self._servers[given["server"]].simulator.crash(down_s=given["down_s"])


async def main() -> None:
    async with AsyncExitStack() as parts:
        fleet = _Fleet(parts)
        await serve({"open": fleet.open, "bridge": fleet.bridge, "fault": fleet.fault, "crash": fleet.crash})


if __name__ == "__main__":
    uvloop.run(main())
