"""Memory of a simulated server, and events that it holds up."""

from nubabel_workers.simulators.opencode.server import OpenCodeSimulator
from nubabel_workers.simulators.opencode.vitals import SimulatedMemory


async def test_it_leaks_on_command_and_until_it_is_told_to_stop() -> None:
    now = [0.0]
    memory = SimulatedMemory(lambda: now[0])
    fresh = memory.resident_bytes

    memory.leak(100)
    now[0] = 10
    leaked = memory.resident_bytes - fresh
    memory.leak(0)
    now[0] = 20

    assert (leaked, memory.resident_bytes - fresh) == (1000, 1000)


async def test_a_crash_gives_all_of_it_back_to_a_process_of_another_name() -> None:
    simulated = OpenCodeSimulator()
    simulated.set_faults(leak_bytes_per_s=1e12)
    before = simulated.memory.process, simulated.memory.resident_bytes

    simulated.crash()

    assert simulated.memory.process != before[0]
    assert simulated.memory.resident_bytes < before[1]
    assert simulated.engine.faults.leak_bytes_per_s == 0
