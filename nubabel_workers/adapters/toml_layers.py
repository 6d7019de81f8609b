"""Tables that the package brings as TOML, and an operator's file of the same form to put on top of them."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from nubabel_workers.domain.errors import InvalidInputError


def toml_layers(packaged: str, operators_file: Path | None, *, what: str) -> Sequence[Mapping[str, Any]]:
    """packaged: a file beside the domain's modules. what: the tables, as errors name them.

    Raises InvalidInputError naming the file that cannot be read.
    """
    own = resources.files("nubabel_workers.domain").joinpath(packaged).read_text("utf-8")
    layers = [_parse(own, packaged, what)]
    if operators_file is not None:
        layers.append(_parse(_read(operators_file, what), operators_file.name, what))
    return layers


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{what} {path.name} cannot be read: {error}") from error


def _parse(text: str, name: str, what: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"{what} {name} are not TOML: {error}") from error
