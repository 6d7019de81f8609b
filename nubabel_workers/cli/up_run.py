"""What `nubabel up` does: run the whole system on this machine, say where everything is, show the logs."""

import asyncio
import os
import sys
import time
from itertools import cycle
from pathlib import Path
from secrets import token_bytes

from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from config.settings import PREFIX
from nubabel_workers.domain.credentials import ENTROPY_BYTES, operator_setting, operator_token_text
from nubabel_workers.embedded.shell_settings import ShellSettings, shell_settings
from nubabel_workers.embedded.stack import Stack, StackOptions
from nubabel_workers.embedded.stack_environment import FLOWER_USER
from nubabel_workers.embedded.stack_opencode import OpenCodeAccess, OpenCodeKind

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")
_NAME_WIDTH = 21
_OPERATOR_TOKENS = f"{PREFIX}OPERATOR_TOKENS"
_COMMAND = Path(sys.executable).with_name("nubabel")


class LogView:
    """Prints the processes' lines, each behind its process's name. Called from several threads."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._free = cycle(_COLOURS)
        self._colours: dict[str, str] = {}

    def show(self, name: str, line: str) -> None:
        if name not in self._colours:
            self._colours[name] = next(self._free)
        prefix = Text(f"{name:<{_NAME_WIDTH}}", style=self._colours[name])
        self._console.print(prefix.append_text(Text.from_ansi(line, style="default")))


async def up(opencode: OpenCodeKind, console: Console) -> int:
    """Runs until it is cancelled. Raises SettingsError: a setting of the shell does not fit."""
    began = time.monotonic()
    console.print("Starting …")
    shell = shell_settings(os.environ)
    _print_shell_settings(shell, console)
    operator_token = operator_token_text(token_bytes(ENTROPY_BYTES))
    settings = {
        "log_format": "console" if sys.stdout.isatty() else "json",
        **shell.taken,
        "operator_tokens": _operator_tokens(operator_token),
    }
    logs = LogView(console)
    async with Stack(StackOptions(opencode=opencode, settings=settings), on_line=logs.show) as stack:
        console.print(
            f"\n[bold]Everything runs[/bold] (ready after {time.monotonic() - began:.1f} s). Ctrl-C stops it."
        )
        _print_addresses(stack, operator_token, console)
        await asyncio.Event().wait()
    return 0


def _operator_tokens(own: SecretStr) -> str:
    """Beside one that is told on the terminal, those of the shell."""
    return ",".join(filter(None, (operator_setting("up", own), os.environ.get(_OPERATOR_TOKENS))))


def _print_shell_settings(shell: ShellSettings, console: Console) -> None:
    taken = [f"{PREFIX}{name.upper()}" for name in shell.taken]
    for what, names in (
        ("Settings of your shell that count here", taken),
        ("Not used, everything here has its own", shell.left_aside),
        ("No settings of this version", shell.unknown),
    ):
        if names:
            console.print(f"{what}: {', '.join(names)}", markup=False)


def _login(server: OpenCodeAccess) -> str:
    password = server.password.get_secret_value() if server.password is not None else "none"
    return f"user {server.username}, password {password}"


def _print_addresses(stack: Stack, operator_token: SecretStr, console: Console) -> None:
    tenant = stack.tenants[0]
    flower_login = f"user {FLOWER_USER}, password {stack.secrets.flower_password}"
    rows = [
        ("Local Slack", f"{stack.slack.base_url}/  write to @nubabel there"),
        ("Flower", f"{stack.flower_url}  {flower_login}"),
        ("API", f"{stack.api_url}/docs"),
        ("Readiness", f"{stack.api_url}/ready"),
        ("Metrics", f"{stack.api_url}/metrics  web"),
        *(("", f"{url}  {process}") for process, url in stack.processes.metrics_urls.items()),
        *(("OpenCode", f"{server.url}  {_login(server)}") for server in stack.opencode.servers),
        ("PostgreSQL", stack.postgres.url("nubabel")),
        ("Valkey", f"{stack.valkey.broker_url} (broker), {stack.valkey.cache_url} (cache)"),
        ("Logs", f"{stack.directory}/*.log"),
    ]
    for name, value in rows:
        console.print(f"  [bold]{name:<12}[/bold] {escape(value)}")
    console.print("\nLook at it from another terminal:")
    console.print(f"  NUBABEL_ENV_FILE={stack.env_file} {_COMMAND} executions list", markup=False)
    console.print(f"\nAsk over HTTP, as the organization {tenant.organization.name}:")
    console.print(
        f"  curl {stack.api_url}/v1/executions -H 'authorization: Bearer {tenant.token.get_secret_value()}' \\\n"
        "       -H 'content-type: application/json' -H 'idempotency-key: first' "
        '-d \'{"prompt": "hello"}\'',
        markup=False,
    )
    console.print("\nAs an operator, who sees all organizations:")
    console.print(
        f"  curl {stack.api_url}/v1/operator/usage -H 'authorization: Bearer {operator_token.get_secret_value()}'\n",
        markup=False,
    )
