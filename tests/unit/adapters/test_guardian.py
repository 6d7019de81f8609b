"""Children end with their parent, however the parent ends."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nubabel_workers.adapters import guardian
from tests.waiting import wait_for

# A parent that starts one child through ChildProcess, prints the child's pid and then does what it is told.
_PARENT = """
import sys, time
from pathlib import Path
from nubabel_workers.embedded.processes import ChildProcess
child = ChildProcess([sys.executable, "-c", {child!r}], cwd=Path("/"), log_path=Path({log!r}))
child.wait_until(lambda: "ready" in child.log_tail(), timeout_s=10)
print(child.pid, flush=True)
{end}
"""
_POLITE = "import time; print('ready', flush=True); time.sleep(60)"
_DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"


def _is_alive(pid: int) -> bool:
    """A zombie that nobody waits for (a container without an init process) counts as dead."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _start_parent(directory: Path, *, child: str, end: str) -> tuple[subprocess.Popen[str], int]:
    program = _PARENT.format(child=child, log=str(directory / "child.log"), end=end)
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


@pytest.mark.parametrize("child", [_POLITE, _DEAF], ids=["polite", "deaf to SIGTERM"])
def test_a_child_ends_after_its_parent_was_killed(tmp_path: Path, child: str) -> None:
    parent, pid = _start_parent(tmp_path, child=child, end="time.sleep(60)")
    assert _is_alive(pid)

    parent.kill()
    parent.communicate()

    wait_for(lambda: not _is_alive(pid), what="the end of the child")


def test_a_child_ends_after_its_parent_forgot_to_stop_it(tmp_path: Path) -> None:
    parent, pid = _start_parent(tmp_path, child=_POLITE, end="")

    parent.communicate(timeout=20)

    wait_for(lambda: not _is_alive(pid), what="the end of the child")


def test_a_child_stays_when_the_thread_that_started_it_ends(tmp_path: Path) -> None:
    end = """
import threading
thread = threading.Thread(target=lambda: globals().update(second=ChildProcess(
    [sys.executable, "-c", "import time; time.sleep(60)"], cwd=Path("/"), log_path=Path("/dev/null"))))
thread.start(); thread.join(); time.sleep(0.3)
print(second.is_running, flush=True)
"""
    parent, _ = _start_parent(tmp_path, child=_POLITE, end=end)

    output, _ = parent.communicate(timeout=20)

    assert output.split() == ["True"]


def test_a_forgotten_pid_is_left_alone(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "import time; time.sleep(60)"]
    kept, ended = (subprocess.Popen(program, start_new_session=True) for _ in range(2))
    book = f"+{kept.pid} 15\n+{ended.pid} 15\n-{kept.pid} 0\n"

    subprocess.run([sys.executable, guardian.__file__], input=book, text=True, timeout=20, check=True)

    assert ended.wait(timeout=10) == -signal.SIGTERM
    assert kept.poll() is None
    kept.kill()
    kept.wait()
