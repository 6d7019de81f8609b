"""The embedded servers keep their data across stop and crash, and leave nothing running."""

import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
import redis

from nubabel_workers.embedded.postgres import EmbeddedPostgres
from nubabel_workers.embedded.processes import ChildProcess, ProcessFailedError, ProcessSpec, Supervisor
from nubabel_workers.embedded.valkey import EmbeddedValkey
from tests.waiting import wait_for

pytestmark = pytest.mark.integration


def test_valkey_keeps_its_url_and_its_data_over_a_restart(short_dir: Path) -> None:
    valkey = EmbeddedValkey(short_dir)
    with valkey:
        url = valkey.broker_url
        with redis.Redis.from_url(url) as client:
            client.set("kept", "yes")

    with valkey, redis.Redis.from_url(url) as client:
        assert valkey.broker_url == url
        assert client.get("kept") == b"yes"


def test_valkey_refuses_to_evict_and_writes_an_append_only_file(short_dir: Path) -> None:
    with EmbeddedValkey(short_dir) as valkey, redis.Redis.from_url(valkey.broker_url, decode_responses=True) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_a_killed_valkey_starts_again_on_its_port(short_dir: Path) -> None:
    with EmbeddedValkey(short_dir) as valkey:
        url = valkey.broker_url
        valkey.kill()
        valkey.start()

        with redis.Redis.from_url(url) as client:
            assert client.ping()


def test_postgres_recovers_committed_rows_after_a_kill(short_dir: Path) -> None:
    with EmbeddedPostgres(short_dir / "pg") as postgres:
        url = postgres.ensure_database("nubabel")
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept (word text)")
            connection.execute("INSERT INTO kept VALUES ('한글')")

        postgres.kill()
        postgres.start()

        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT upper(word) FROM kept").fetchall() == [("한글",)]
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    postgres.destroy()
    assert not (short_dir / "pg").exists()


def test_postgres_lets_a_second_role_in_by_its_name(short_dir: Path) -> None:
    with EmbeddedPostgres(short_dir / "pg", durable=False) as postgres:
        postgres.ensure_database("nubabel")
        with psycopg.connect(postgres.url("nubabel")) as connection:
            connection.execute("CREATE ROLE nubabel_tenant LOGIN")

        with psycopg.connect(postgres.url("nubabel", user="nubabel_tenant")) as connection:
            assert connection.execute("SELECT current_user").fetchone() == ("nubabel_tenant",)


def test_postgres_works_below_a_path_too_long_for_a_socket(short_dir: Path) -> None:
    postgres = EmbeddedPostgres(short_dir / ("x" * 120), durable=False)

    with postgres, psycopg.connect(postgres.url()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)

    postgres.destroy()


def test_a_process_that_ends_early_is_reported_with_its_last_words(short_dir: Path) -> None:
    process = ChildProcess(
        [sys.executable, "-c", "print('no such port'); raise SystemExit(3)"],
        cwd=short_dir,
        log_path=short_dir / "log",
    )

    with pytest.raises(ProcessFailedError, match=r"ended with 3:\nno such port"):
        process.wait_until(lambda: False, timeout_s=10)


def test_a_process_that_ignores_its_stop_signal_is_killed(short_dir: Path) -> None:
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    process = ChildProcess([sys.executable, "-c", program], cwd=short_dir, log_path=short_dir / "log")
    process.wait_until(lambda: "deaf" in process.log_tail(), timeout_s=10)

    process.stop(grace_s=0.1)

    assert process.returncode == -9


def test_the_supervisor_starts_a_dead_process_again_and_passes_its_output_on(short_dir: Path) -> None:
    lines: list[tuple[str, str]] = []
    exits: list[int] = []
    program = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)"

    with Supervisor(
        short_dir,
        on_line=lambda name, line: lines.append((name, line)),
        on_exit=lambda _name, code, _wait_s: exits.append(code),
    ) as supervisor:
        first = supervisor.start(ProcessSpec("sleeper", (sys.executable, "-c", program)))
        wait_for(lambda: len(lines) == 1)
        first.kill()
        wait_for(lambda: len(lines) == 2)
        second = supervisor.process("sleeper")
        assert second.pid != first.pid

    assert exits == [-9]
    assert lines == [("sleeper", f"pid {first.pid}"), ("sleeper", f"pid {second.pid}")]
    assert not second.is_running


def test_the_supervisor_stops_all_its_processes_at_the_same_time(short_dir: Path) -> None:
    with Supervisor(short_dir) as supervisor:
        processes = [
            supervisor.start(ProcessSpec(name, (sys.executable, "-c", "import time; time.sleep(60)")))
            for name in ("one", "two", "three")
        ]
        threads_before = threading.active_count()
        started = time.monotonic()
        supervisor.stop_all()

    assert time.monotonic() - started < 5
    assert not any(process.is_running for process in processes)
    assert threading.active_count() == threads_before - len(processes)


def test_the_last_lines_of_a_stopped_process_are_passed_on_however_slowly_they_are_read(short_dir: Path) -> None:
    said: list[str] = []
    stopped = threading.Event()

    def read(_name: str, line: str) -> None:
        said.append(line)
        stopped.wait(10)

    code = "import time; print(*range(500), sep='\\n', flush=True); time.sleep(60)"
    with Supervisor(short_dir, on_line=read) as supervisor:
        process = supervisor.start(ProcessSpec("talker", (sys.executable, "-c", code), revive=False))
        wait_for(lambda: said, timeout_s=10)
        process.stop()
        stopped.set()

    assert said == [str(number) for number in range(500)]
