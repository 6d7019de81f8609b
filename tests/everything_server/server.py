"""`@modelcontextprotocol/server-everything` over streamable HTTP, pinned by the lock file beside this one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nubabel_workers.embedded.npm_packages import installed
from nubabel_workers.embedded.ports import free_port
from nubabel_workers.embedded.processes import ChildProcess
from nubabel_workers.embedded.stack_environment import HOST

_SOURCE = Path(__file__).parent
_PROGRAM = "@modelcontextprotocol/server-everything/dist/index.js"
_READY_LINE = "listening on port"
_START_TIMEOUT_S = 60.0


def install() -> Path:
    """The `node_modules` with the server. Raises NotInstallableError."""
    return installed(_SOURCE, "everything-server", None, "--ignore-scripts") / "node_modules"


@contextmanager
def everything_server(directory: Path) -> Iterator[str]:
    """Install it if needed and run it until the block ends; gives the URL of its endpoint. It asks for no credentials.

    directory: for its log. Raises NotInstallableError.
    """
    program = install() / _PROGRAM
    port = free_port()
    process = ChildProcess(
        [shutil.which("node") or "node", program, "streamableHttp"],
        cwd=directory,
        log_path=directory / "everything-server.log",
        env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory), "PORT": str(port)},
    )
    try:
        process.wait_until(lambda: _READY_LINE in process.log_tail(), timeout_s=_START_TIMEOUT_S)
        yield f"http://{HOST}:{port}/mcp"
    finally:
        process.stop()
