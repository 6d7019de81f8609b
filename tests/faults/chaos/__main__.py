"""`python -m tests.faults.chaos`: load, faults, quiet, a table.

Exits 1 when anything was lost, doubled or stuck, or when nothing came to the cap of its budget.
"""

import argparse
import asyncio
import logging
import sys
from contextlib import suppress
from pathlib import Path

import structlog
import uvloop

from tests.faults.chaos.ledger import Fate
from tests.faults.chaos.load import LoadOptions
from tests.faults.chaos.memory import MemoryLog, memory_table
from tests.faults.chaos.plan import FaultKind
from tests.faults.chaos.report import Result, table
from tests.faults.chaos.rig import Rig, RigOptions

_SAMPLE_EVERY_S = 5.0


def _kinds(names: str) -> tuple[FaultKind, ...]:
    return tuple(FaultKind(name.strip()) for name in names.split(","))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--duration", type=float, default=300, help="seconds of load")
    parser.add_argument("--seed", type=int, default=1, help="of load and plan")
    parser.add_argument("--rate", type=float, default=20, help="requests a second")
    parser.add_argument("--fault-every", type=float, default=3, help="seconds between two faults; 0: none")
    parser.add_argument("--only", type=_kinds, default=tuple(FaultKind), help="kinds of faults, separated by commas")
    parser.add_argument("--control", action="store_true", help="with one guard switched off: doubles have to show")
    parser.add_argument("--keep-logs", type=Path, help="copy the processes' logs into this folder")
    return parser.parse_args()


async def _run(arguments: argparse.Namespace) -> int:
    load = LoadOptions(seed=arguments.seed, duration_s=arguments.duration, rate=arguments.rate)
    options = RigOptions(load, fault_every_s=arguments.fault_every, kinds=arguments.only, control=arguments.control)
    memory = MemoryLog()
    async with Rig(options) as rig:
        sampling = asyncio.create_task(memory.follow(rig.stack, every_s=_SAMPLE_EVERY_S))
        result = await rig.run(rig.plan())
        sampling.cancel()
        with suppress(asyncio.CancelledError):
            await sampling
        if arguments.keep_logs is not None:
            _keep_logs(rig, arguments.keep_logs)
    print(f"\nseed {arguments.seed}, {arguments.rate:g} requests a second, a fault each {arguments.fault_every:g} s\n")
    if arguments.fault_every <= 0:
        print(f"{memory_table(memory.samples)}\n")
    print(table(result))
    return 0 if _as_expected(result, control=arguments.control) else 1


def _as_expected(result: Result, *, control: bool) -> bool:
    if control:
        return bool(result.count(Fate.TWICE) or result.count(Fate.LOST))
    return not result.broken and result.pauses > 0


def _keep_logs(rig: Rig, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for log in rig.stack.directory.glob("*.log"):
        (folder / log.name).write_bytes(log.read_bytes())


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    sys.exit(uvloop.run(_run(_arguments())))


if __name__ == "__main__":
    main()
