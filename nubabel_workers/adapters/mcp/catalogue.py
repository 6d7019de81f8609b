"""The operators' catalogue: MCP servers that may be started by a command. Tenants choose from it by name."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.tools import CommandServer


def _absolute(path: str) -> str:
    if not Path(path).is_absolute():
        raise ValueError("must be an absolute path: nothing is looked up in PATH")
    return path


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    command: Annotated[str, AfterValidator(_absolute)]
    arguments: list[str] = Field(default_factory=list)
    environment: dict[Variable, str] = Field(default_factory=dict)
    credentials: list[Variable] = Field(default_factory=list)


class _Catalogue(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    servers: dict[Name, _Entry]


def load_catalogue(path: Path | None) -> Mapping[str, CommandServer]:
    """Name -> server; empty without a file. Raises InvalidInputError, which says what to change."""
    if path is None:
        return MappingProxyType({})
    try:
        read = _Catalogue.model_validate(yaml.safe_load(path.read_bytes()))
    except OSError as error:
        raise InvalidInputError(f"the catalogue of commands cannot be read ({type(error).__name__})") from None
    except yaml.YAMLError:
        raise InvalidInputError("the catalogue of commands is not YAML") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "its top"
        raise InvalidInputError(f"the catalogue of commands does not fit at {where}: {first['msg']}") from None
    return MappingProxyType({name: _server(name, entry) for name, entry in read.servers.items()})


def _server(name: str, entry: _Entry) -> CommandServer:
    return CommandServer(
        name=name,
        command=entry.command,
        arguments=tuple(entry.arguments),
        environment=MappingProxyType(dict(entry.environment)),
        credential_names=frozenset(entry.credentials),
    )
