"""Log lines on a full disk, for a reader that is gone, and in pieces."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from config.log_target import LogTarget, lines_lost
from config.metrics import ProcessMetrics

FULL = Path("/dev/full")


class Disk(io.RawIOBase):
    """Takes room bytes, three at a time."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        assert isinstance(data, memoryview)
        if self.room == 0:
            raise OSError(28, "No space left on device")
        taken = bytes(data[: min(3, self.room)])
        self.content += taken
        self.room -= len(taken)
        return len(taken)


def test_a_line_is_written_whole_however_little_is_taken_at_once() -> None:
    disk = Disk(room=100)

    LogTarget(cast("BinaryIO", disk)).write(b"a line of some length")

    assert disk.content == b"a line of some length\n"


def test_lines_that_do_not_fit_are_counted_and_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    disk, before = Disk(room=4), lines_lost()
    target = LogTarget(cast("BinaryIO", disk))

    for line in (b"one", b"two", b"three"):
        target.write(line)
    disk.room = 100
    target.write(b"four")

    assert disk.content == b"one\nfour\n"
    assert lines_lost() - before == 2
    assert capsys.readouterr().err == "log lines are lost: [Errno 28] No space left on device\n"
    assert ProcessMetrics().registry.get_sample_value("nubabel_log_lines_lost_total") == lines_lost()


def test_nobody_reading_costs_lines_only() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    before = lines_lost()

    with os.fdopen(writer, "wb", buffering=0) as pipe:
        LogTarget(pipe).write(b"is anybody there?")

    assert lines_lost() - before == 1


@pytest.mark.skipif(not FULL.exists(), reason="NOT CHECKED: this system has no /dev/full")
def test_a_process_whose_output_is_full_ends_in_order() -> None:
    log = "from config.logging import configure_logging as c; c(process='x'); import structlog; structlog.get_logger()"

    with FULL.open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", f"{log}.info('hello')"], stdout=full, stderr=subprocess.PIPE, timeout=30, check=False
        )

    assert ended.returncode == 0
    assert ended.stderr.decode().splitlines() == ["log lines are lost: [Errno 28] No space left on device"]
