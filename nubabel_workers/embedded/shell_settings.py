"""Which settings of the user's shell a stack on this machine takes: how it behaves, not what it connects to."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from config.settings import PREFIX, Settings, values_in

# The stack has its own stores, addresses, Slack, secrets and organizations; somebody's real ones must not be touched.
_OF_THE_STACK = (
    "environment",
    "database_url",
    "tenant_database_url",
    "system_database_url",
    "broker_url",
    "cache_url",
    "redis_ca_file",
    "encryption_keys",
    "public_url",
    "sidecar_listen",
    "sidecar_organization",
    "trusted_broker_organization",
    "opencode_username",
    "opencode_agent_prefix",
    "opencode_default_model",
    "opencode_restart_command",
    "opencode_capacity_runs",  # said with each server: `nubabel instances set` changes it
    "opencode_submits_per_second",
    "opencode_max_directories",
)
_KINDS_OF_THE_STACK = ("http_", "metrics_", "flower_", "slack_")


@dataclass(frozen=True)
class ShellSettings:
    """taken: lower-case setting -> value. Variables' names: left_aside, since the stack has its own; unknown."""

    taken: Mapping[str, str]
    left_aside: tuple[str, ...]
    unknown: tuple[str, ...]


def shell_settings(environment: Mapping[str, str]) -> ShellSettings:
    given = dict(sorted(values_in(environment).items()))
    given.pop("env_file", None)
    known = {name: value for name, value in given.items() if name in Settings.model_fields}
    taken = {name: _wherever_it_starts(name, value) for name, value in known.items() if not _is_of_the_stack(name)}
    return ShellSettings(taken, _variables(known.keys() - taken.keys()), _variables(given.keys() - known.keys()))


def _wherever_it_starts(name: str, value: str) -> str:
    """The processes of the stack are started in another folder than the command."""
    return str(Path(value).absolute()) if name.endswith("_file") else value


def _is_of_the_stack(name: str) -> bool:
    return name in _OF_THE_STACK or name.startswith(_KINDS_OF_THE_STACK)


def _variables(names: AbstractSet[str]) -> tuple[str, ...]:
    return tuple(sorted(f"{PREFIX}{name.upper()}" for name in names))
