"""The only reader of environment variables: one frozen, validated `Settings`. The fields: `config.setting_groups`.

`python -m config.settings --env-example` prints the `.env.example` of this version.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from config.setting_groups import (
    GROUPS,
    FlowerSettings,
    GatewaySettings,
    OpenCodeSettings,
    OrchestratorSettings,
    ProcessSettings,
    SlackSettings,
    StoreSettings,
    ToolSettings,
    WorkSettings,
)

PREFIX = "NUBABEL_"
TENANT_ROLE = "nubabel_tenant"
SYSTEM_ROLE = "nubabel_system"

# What a setting that has no default looks like, for .env.example.
_EXAMPLES = {
    "database_url": "postgresql://nubabel:change-me@localhost:5432/nubabel",
    "broker_url": "redis://localhost:6379/0",
    "cache_url": "redis://localhost:6379/1",
    "encryption_keys": "",
}


class SettingsError(Exception):
    """The environment does not make valid settings; the message names every variable that is wrong, no values."""


class Settings(
    ProcessSettings,
    StoreSettings,
    GatewaySettings,
    SlackSettings,
    OpenCodeSettings,
    OrchestratorSettings,
    WorkSettings,
    ToolSettings,
    FlowerSettings,
    BaseSettings,
):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # "NUBABEL_X=" is how an unused line of .env looks
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # inputs may be secrets
    )

    @field_validator("egress_allow", "encryption_keys", "operator_tokens", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        problems = [*self._slack_problems(), *self._orchestrator_problems(), *self._production_problems()]
        if self.database_pool_min > self.database_pool_max:
            problems.append(f"{PREFIX}DATABASE_POOL_MIN is larger than {PREFIX}DATABASE_POOL_MAX")
        if bool(self.sidecar_listen) != bool(self.sidecar_organization):
            problems.append(f"{_variable('sidecar_listen')} and {_variable('sidecar_organization')} belong together")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _slack_problems(self) -> list[str]:
        needed = {
            "events": ("slack_signing_secret",),
            "socket": ("slack_app_token",),
            "off": (),
        }[self.slack_mode]
        problems = [
            f"{_variable(name)} is needed for slack_mode {self.slack_mode}"
            for name in needed
            if not getattr(self, name)
        ]
        single = ("slack_bot_token", "slack_team_id", "slack_organization")
        given = [name for name in single if getattr(self, name)]
        if given and len(given) < len(single):
            missing = ", ".join(_variable(name) for name in single if name not in given)
            problems.append(f"a workspace from settings also needs {missing}")
        if bool(self.slack_client_id) != bool(self.slack_client_secret):
            problems.append(f"{_variable('slack_client_id')} and {_variable('slack_client_secret')} belong together")
        return problems

    def _orchestrator_problems(self) -> list[str]:
        problems = []
        if self.rollout.startswith("delegate") and self.delegate_url is None:
            problems.append(f"{_variable('rollout')} delegate needs {_variable('delegate_url')}")
        if self.fallback_api is not None:
            problems += [
                f"{_variable('fallback_api')} needs {_variable(name)}"
                for name in ("fallback_model", "fallback_api_key")
                if getattr(self, name) is None
            ]
        return problems

    def _production_problems(self) -> list[str]:
        if self.environment != "production":
            return []
        problems = [
            f"{_variable(name)} is needed in production, with its role's own password"
            for name in ("tenant_database_url", "system_database_url")
            if getattr(self, name) is None
        ]
        if self.public_url and not self.public_url.startswith("https://"):
            problems.append(f"{_variable('public_url')} must begin with https:// in production")
        return problems

    @property
    def tenant_dsn(self) -> str:
        """The database as the role that serves a tenant."""
        return self._dsn(self.tenant_database_url, TENANT_ROLE)

    @property
    def system_dsn(self) -> str:
        """The database as the role of ingress, claims and the scheduler."""
        return self._dsn(self.system_database_url, SYSTEM_ROLE)

    def _dsn(self, given: SecretStr | None, role: str) -> str:
        if given is not None:
            return given.get_secret_value()
        parts = urlsplit(self.database_url.get_secret_value())
        return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))


def load_settings(env_file: Path | None = None) -> Settings:
    """Read the environment, and env_file where it exists (the environment wins). Raises SettingsError.

    env_file: None is what NUBABEL_ENV_FILE names, else `.env` in the working directory.
    """
    named = os.environ.get(f"{PREFIX}ENV_FILE")
    if env_file is None and named and not Path(named).exists():
        raise SettingsError(f"{PREFIX}ENV_FILE names {named}, which does not exist")
    try:
        return Settings(_env_file=env_file or Path(named or ".env"))
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


class _GivenSettings(Settings):
    """Without a look at this process's own environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # the name is theirs
        init_settings: PydanticBaseSettingsSource,
        *_: Any,
        **_others: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def values_in(environment: Mapping[str, str]) -> dict[str, str]:
    """Lower-case name -> value, whether or not there is such a setting; an empty one is none."""
    return {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(PREFIX) and value
    }


def settings_of(environment: Mapping[str, str]) -> Settings:
    """What a process with that environment has, whatever this one's own is. Raises SettingsError."""
    try:
        return _GivenSettings.model_validate(values_in(environment))
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def env_example() -> str:
    """The text of .env.example: every setting, its meaning and its default."""
    lines = ["# Every setting of nubabel-workers. Commented ones have the default shown.", ""]
    for group in GROUPS:
        lines += [f"# --- {group.title} ---", ""]
        for name in group.model_fields:
            lines += _example_lines(name)
    return "\n".join(lines).rstrip() + "\n"


def _example_lines(name: str) -> list[str]:
    field = Settings.model_fields[name]
    assignment = f"{_variable(name)}={_EXAMPLES.get(name, _written(field.default))}"
    return [f"# {field.description}", assignment if field.is_required() else f"#{assignment}", ""]


def _written(default: Any) -> str:
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    text = f"{default:g}" if isinstance(default, float) else str(default)
    return f'"{text}"' if text != text.strip() else text  # readers of .env files trim what is not quoted


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _explain(error: ValidationError) -> str:
    lines = ["the settings are not valid:"]
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        message = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            lines += [f"  {part}" for part in message.split("; ")]
            continue
        name = str(problem["loc"][0])
        text = _missing(name) if problem["type"] == "missing" else message
        lines.append(f"  {_variable(name)}: {text}")
    return "\n".join(lines)


def _missing(name: str) -> str:
    example = _EXAMPLES.get(name)  # keys have none: one that anybody can read here is no key
    return f"is missing, e.g. {example}" if example else "is missing; `nubabel keys generate` makes one"


if __name__ == "__main__":
    if sys.argv[1:] != ["--env-example"]:
        sys.exit("usage: python -m config.settings --env-example")
    sys.stdout.write(env_example())
