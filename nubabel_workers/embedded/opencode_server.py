"""A real `opencode serve` from npm, isolated from the user's own: for contract tests and `OPENCODE=real`.

The pinned release comes from `opencode-server/package-lock.json` of the checkout.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
from pydantic import SecretStr

from nubabel_workers.adapters.opencode.wire import DEFAULT_USERNAME, basic_authorization
from nubabel_workers.embedded.npm_packages import installed
from nubabel_workers.embedded.ports import free_port
from nubabel_workers.embedded.processes import ChildProcess
from nubabel_workers.embedded.server_memory import ServerMemory, memory_of_process

MODEL = "stub/echo"
CONTEXT_TOKENS = 100_000
SOURCE = Path(__file__).resolve().parents[2] / "opencode-server"
_HOST = "127.0.0.1"
_START_TIMEOUT_S = 60.0
_NOWHERE = "http://127.0.0.1:9"  # discard: nothing listens there
_READY_LINE = "opencode server listening on"


def install(cache_dir: Path | None = None) -> Path:
    """Install the pinned OpenCode and return its executable; see npm_packages.installed."""
    return installed(SOURCE, "opencode", cache_dir) / "node_modules" / ".bin" / "opencode"


def install_plugins(cache_dir: Path | None = None) -> Path:
    """The same for what the deployed server loads, half a gigabyte; returns its `node_modules`. As the image does, it
    runs no scripts: they fetch binaries for features that are off.
    """
    return installed(SOURCE / "config", "opencode-config", cache_dir, "--ignore-scripts") / "node_modules"


class RealOpenCode:
    """One server process with its own home directory. URL, password and data survive kill() and start()."""

    def __init__(self, executable: Path, data_dir: Path, *, llm_url: str, port: int | None = None) -> None:
        """llm_url: base URL of the stub LLM, without `/v1`."""
        self.username = DEFAULT_USERNAME
        self.password = SecretStr(secrets.token_urlsafe(24))
        self.home = data_dir.resolve() / "home"
        self.directory = data_dir.resolve() / "work"  # where sessions live that name no directory
        self.log_path = data_dir.resolve() / "opencode.log"
        self.url = f"http://{_HOST}:{port or free_port()}"
        self._executable = executable
        self._data_dir = data_dir.resolve()
        self._llm_url = llm_url
        self._process: ChildProcess | None = None

    @property
    def process(self) -> ChildProcess:
        if self._process is None:
            raise RuntimeError("opencode is not running")
        return self._process

    def memory(self) -> ServerMemory | None:
        """None: it does not run."""
        return memory_of_process(self._process.pid) if self._process is not None else None

    async def start(self, *, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Start and wait until it answers. It must not be asked before its ready line: such requests hang for ever."""
        if self._process is not None and self._process.is_running:
            raise RuntimeError("opencode is already running")
        await asyncio.to_thread(self._start, timeout_s)
        async with httpx.AsyncClient(trust_env=False, timeout=timeout_s) as http:
            authorization = basic_authorization(self.username, self.password)
            headers = {"authorization": authorization.get_secret_value()} if authorization else {}
            (await http.get(f"{self.url}/global/health", headers=headers)).raise_for_status()

    async def stop(self) -> None:
        if self._process is not None:
            await asyncio.to_thread(self._process.stop)
            self._process = None

    async def kill(self) -> None:
        """SIGKILL, as a crash would; start() finds what it left."""
        await asyncio.to_thread(self.process.kill)
        self._process = None

    async def wipe(self) -> None:
        """Delete what it has stored, as a lost volume would. Only while it is stopped."""
        await asyncio.to_thread(shutil.rmtree, self.home / ".local" / "share" / "opencode")

    def _start(self, timeout_s: float) -> None:
        for directory in (self.home, self.directory):
            directory.mkdir(parents=True, exist_ok=True)
        process = ChildProcess(
            self._command(),
            cwd=self.directory,
            log_path=self.log_path,
            env=self._environment(),
        )
        self._process = process
        try:
            process.wait_until(lambda: _READY_LINE in process.log_tail(), timeout_s=timeout_s)
        except BaseException:
            process.kill()
            self._process = None
            raise

    def _command(self) -> list[Path | str]:
        return [self._executable, "serve", "--hostname", _HOST, "--port", self._port]

    def _environment(self) -> dict[str, str]:
        config_path = self._data_dir / "opencode.json"
        config_path.write_text(json.dumps(_config(self._llm_url), indent=2))
        return {**isolated_environment(self.home, config_path, self.password), "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1"}

    @property
    def _port(self) -> str:
        return self.url.rpartition(":")[2]


class DeployedOpenCode(RealOpenCode):
    """The server as its image has it: started by `opencode-server/start`, with oh-my-opencode and our plugin, without a
    way to a registry. Only the model is the stub.
    """

    def __init__(
        self,
        executable: Path,
        plugins: Path,
        data_dir: Path,
        *,
        llm_url: str,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """executable, plugins: of install() and install_plugins(). environment: NUBABEL_BRIDGE_URL and the like."""
        super().__init__(executable, data_dir, llm_url=llm_url)
        self.directory = self.home / "work"
        self._plugins = plugins
        self._extra = environment
        self._root = self._data_dir / "opt"

    def _start(self, timeout_s: float) -> None:
        if not self._root.exists():
            self._assemble()
        super()._start(timeout_s)

    def _assemble(self) -> None:
        """What the Dockerfile copies, with links to the installed packages."""
        shutil.copytree(SOURCE, self._root, ignore=shutil.ignore_patterns("node_modules", "tests", "Dockerfile"))
        (self._root / "node_modules").symlink_to(self._executable.parents[1])
        (self._root / "config" / "node_modules").symlink_to(self._plugins)

    def _command(self) -> list[Path | str]:
        return [self._root / "start"]

    def _environment(self) -> dict[str, str]:
        config_path = self._data_dir / "stub.json"
        config_path.write_text(json.dumps(_stub_provider(self._llm_url)))
        return {
            **isolated_environment(self.home, config_path, self.password),
            "OPENCODE_HOST": _HOST,
            "PORT": self._port,
            "OPENCODE_MODEL": MODEL,
            "OMO_DISABLE_POSTHOG": "1",
            "OMO_SEND_ANONYMOUS_TELEMETRY": "0",
            "npm_config_registry": _NOWHERE,
            "HTTPS_PROXY": _NOWHERE,
            "HTTP_PROXY": _NOWHERE,
            "NO_PROXY": _HOST,
            **self._extra,
        }


def _config(llm_url: str) -> dict[str, Any]:
    """Everything is asked of the stub LLM, nothing is asked of a person."""
    return {
        "model": MODEL,
        "small_model": MODEL,
        "autoupdate": False,
        "share": "disabled",
        "permission": {
            "question": "deny",
            "doom_loop": "deny",
            "external_directory": "deny",
            "read": {"*": "allow", "*.env": "deny", "*.env.*": "deny"},
        },
        **_stub_provider(llm_url),
    }


def _stub_provider(llm_url: str) -> dict[str, Any]:
    return {
        "enabled_providers": ["stub"],
        "provider": {
            "stub": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "Stub",
                "options": {"baseURL": f"{llm_url}/v1", "apiKey": "none"},
                "models": {
                    "echo": {
                        "name": "Echo",
                        "limit": {"context": CONTEXT_TOKENS, "output": 4096},
                        "cost": {"input": 1, "output": 2},
                    }
                },
            }
        },
    }


def isolated_environment(home: Path, config_path: Path, password: SecretStr) -> dict[str, str]:
    """The whole environment: the user's own configuration, keys and proxies stay outside."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_DATA_HOME": str(home / ".local" / "share"),
        "XDG_STATE_HOME": str(home / ".local" / "state"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "TMPDIR": str(home),
        "OPENCODE_CONFIG": str(config_path),
        "OPENCODE_SERVER_PASSWORD": password.get_secret_value(),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "OPENCODE_DISABLE_CLAUDE_CODE": "1",
    }


@contextlib.asynccontextmanager
async def deployed_opencode(
    data_dir: Path,
    *,
    llm_url: str,
    environment: Mapping[str, str] = MappingProxyType({}),
    cache_dir: Path | None = None,
) -> AsyncIterator[DeployedOpenCode]:
    """As real_opencode, for the server as it is deployed."""
    executable = await asyncio.to_thread(install, cache_dir)
    plugins = await asyncio.to_thread(install_plugins, cache_dir)
    server = DeployedOpenCode(executable, plugins, data_dir, llm_url=llm_url, environment=environment)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def real_opencode(
    data_dir: Path, *, llm_url: str, port: int | None = None, cache_dir: Path | None = None
) -> AsyncIterator[RealOpenCode]:
    """Install if needed, run until the block ends. Raises NotInstallableError where there is no Node.js."""
    executable = await asyncio.to_thread(install, cache_dir)
    server = RealOpenCode(executable, data_dir, llm_url=llm_url, port=port)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
