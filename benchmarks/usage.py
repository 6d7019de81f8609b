"""CPU and memory of processes, from /proc. Linux only."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

_PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_KIB = 1024
# Fields of /proc/<pid>/stat after the command's name, see proc_pid_stat(5).
_PARENT, _USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM = 1, 11, 12, 13, 14


def _stat(pid: int) -> list[str]:
    """Empty for a process that is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def families(roots: Mapping[str, int]) -> dict[str, list[int]]:
    """Each named process with all its descendants."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            children[int(stat[_PARENT])].append(int(entry.name))
    found = {}
    for name, root in roots.items():
        members = [root]
        for pid in members:
            members.extend(children[pid])
        found[name] = members
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time of all threads, and of children that ended and were waited for."""
    total = 0
    for pid in pids:
        if stat := _stat(pid):
            total += sum(int(stat[column]) for column in (_USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM))
    return total * _TICK_S


def memory_bytes(pids: Iterable[int]) -> int:
    """Proportional set size: pages that several processes share count once."""
    total = 0
    for pid in pids:
        try:
            lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) * _KIB for line in lines if line.startswith("Pss:"))
    return total
