"""The settings that the embedded processes run with: their addresses, generated secrets, nothing of the user's own."""

import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nubabel_workers.adapters.storage.encryption import generate_key

HOST = "127.0.0.1"
FLOWER_USER = "operator"
_PASSED_ON = ("HOME", "LANG", "LC_ALL", "TERM", "TMPDIR", "COVERAGE_PROCESS_START")


@dataclass(frozen=True, slots=True)
class StackSecrets:
    """Made anew for each stack."""

    encryption_key: str = field(default_factory=lambda: generate_key().get_secret_value(), repr=False)
    signing_secret: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    app_token: str = field(default_factory=lambda: f"xapp-{secrets.token_hex(16)}", repr=False)
    flower_password: str = field(default_factory=lambda: secrets.token_urlsafe(9), repr=False)
    flower_cookie_secret: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)


@dataclass(frozen=True, slots=True)
class StackAddresses:
    """Where the parts of one stack are reached."""

    database_url: str
    broker_url: str
    cache_url: str
    slack_url: str
    http_port: int
    flower_port: int


def base_environment() -> dict[str, str]:
    """What every process gets besides its settings. The user's own settings, in shell or .env, stay outside."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    own_commands_first = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return {**passed_on, "PATH": own_commands_first, "PYTHONUNBUFFERED": "1", "NUBABEL_ENV_FILE": os.devnull}


def settings_environment(
    addresses: StackAddresses, made: StackSecrets, *, slack_mode: str, overrides: Mapping[str, str]
) -> dict[str, str]:
    """NUBABEL_* variables for every process of the stack. overrides: setting name in lower case -> value."""
    values = {
        "environment": "development",
        "log_format": "json",
        "database_url": addresses.database_url,
        "broker_url": addresses.broker_url,
        "cache_url": addresses.cache_url,
        "encryption_keys": made.encryption_key,
        "http_host": HOST,
        "http_port": str(addresses.http_port),
        "public_url": f"http://{HOST}:{addresses.http_port}",
        "slack_mode": slack_mode,
        "slack_signing_secret": made.signing_secret,
        "slack_app_token": made.app_token,
        "slack_api_base_url": f"{addresses.slack_url}/api",
        "flower_host": HOST,
        "flower_port": str(addresses.flower_port),
        "flower_basic_auth": f"{FLOWER_USER}:{made.flower_password}",
        "flower_cookie_secret": made.flower_cookie_secret,
        **overrides,
    }
    return {f"NUBABEL_{name.upper()}": value for name, value in values.items()}


def write_env_file(path: Path, environment: Mapping[str, str]) -> None:
    """As `.env` files are written, readable by nobody else: it holds secrets."""
    path.touch(mode=0o600)
    path.write_text("".join(f"{name}='{_escaped(value)}'\n" for name, value in environment.items()))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")
