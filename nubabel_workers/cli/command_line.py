"""How every command ends: its exit code, and at most one line of complaint. The one place that maps errors."""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from nubabel_workers.cli.output import complain
from nubabel_workers.domain.admission import LimitReachedError
from nubabel_workers.domain.errors import (
    InvalidInputError,
    NotFoundError,
    NubabelError,
    TransientError,
    UncertainError,
)
from nubabel_workers.services.cancel_by_operator import BrokenOffError

EXIT_FAILED = 1  # something that the command needs did not work, or what it looked at is not well
EXIT_BAD_INPUT = 2  # what was typed, or set in the environment, does not fit
_DEBUG = "NUBABEL_CLI_DEBUG"


class CommandLine(TyperGroup):
    """The root group. `main` never lets a traceback through, unless NUBABEL_CLI_DEBUG is set."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        name = prog_name or "nubabel"
        if not standalone_mode:
            return super().main(args, name, complete_var, standalone_mode, windows_expand_args, **extra)
        try:
            code = super().main(args, name, complete_var, False, windows_expand_args, **extra)
        except Exception as error:  # noqa: BLE001 - whatever it is, the operator gets one line
            if os.environ.get(_DEBUG):
                traceback.print_exc()
            line, code = describe(error)
            complain(line)
        sys.exit(code or 0)


def describe(error: Exception) -> tuple[str, int]:
    """One line for people, and the exit code."""
    if hasattr(error, "format_message"):  # typer's own complaints about what was typed
        return _usage_line(error, error.format_message()), EXIT_BAD_INPUT
    if type(error).__name__ == "SettingsError":  # `config`'s, which only commands that need settings import
        return " ".join(str(error).replace(":\n", ":").replace("\n", ";").split()), EXIT_BAD_INPUT
    if isinstance(error, BrokenOffError):
        return f"broken off: {describe(error.error)[0]}", EXIT_FAILED
    if isinstance(error, NubabelError):
        bad_input = isinstance(error, InvalidInputError | NotFoundError)
        return _words_of(error), EXIT_BAD_INPUT if bad_input else EXIT_FAILED
    return _words_of_foreign(error), EXIT_FAILED


def _words_of(error: NubabelError) -> str:
    if isinstance(error, LimitReachedError):
        return f"{error} That is you: nubabel limits set ORG {error.refusal.limit}=..."
    passing = isinstance(error, TransientError | UncertainError)
    return f"{error}; `nubabel doctor` looks at every dependency" if passing else str(error)


def _words_of_foreign(error: Exception) -> str:
    """A bug's own message is not shown: nobody has checked it for secrets."""
    if isinstance(error, typer.Abort):
        return "stopped"
    if isinstance(error, ModuleNotFoundError) and error.name in {"config", "tasks"}:
        return "this command runs from a checkout or the image: the module `config` is not here"
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name!r} is not installed"
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    return f"unexpected {type(error).__name__} at {place}; {_DEBUG}=1 shows all of it"


def _usage_line(error: Exception, message: str) -> str:
    context = getattr(error, "ctx", None)
    command = f" (see {context.command_path} --help)" if context is not None else ""
    return (" ".join(message.split()) or "choose a command") + command  # alone, a group only shows its help
