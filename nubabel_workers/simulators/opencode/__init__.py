"""A stand-in for an OpenCode server that speaks its protocol as measured on 1.18.33, for demo, tests and load.

    async with simulator(SimulatorConfig(delay_s=1.0, tokens=200)) as server:
        ...  # server.url

As a process: `python -m nubabel_workers.simulators.opencode --port 4096`. The prompt's text decides what happens (see
`directives`), POST /_sim/faults what goes wrong, POST /_sim/crash kills it, GET /_sim/stats counts.
"""

from nubabel_workers.simulators.opencode.config import Faults, SimulatorConfig
from nubabel_workers.simulators.opencode.running import RunningSimulator, simulator
from nubabel_workers.simulators.opencode.server import OpenCodeSimulator

__all__ = ["Faults", "OpenCodeSimulator", "RunningSimulator", "SimulatorConfig", "simulator"]
