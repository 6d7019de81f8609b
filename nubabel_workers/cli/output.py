"""What commands print: tables and sentences for people, JSON for programs. Results on stdout, complaints on stderr."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from pydantic import SecretStr
from rich.console import Console
from rich.text import Text

from nubabel_workers.cli.table_layout import Column, lay_out
from nubabel_workers.cli.wording import plain

_STYLES = {
    "OK": "green",
    "FAIL": "bold red",
    "active": "green",
    "completed": "green",
    "succeeded": "green",
    "sent": "green",
    "healthy": "green",
    "running": "cyan",
    "started": "cyan",
    "dispatching": "cyan",
    "queued": "yellow",
    "draining": "yellow",
    "strained": "yellow",
    "waiting_input": "yellow",
    "waiting_budget": "yellow",
    "failed": "red",
    "unfit": "red",
    "disabled": "red",
    "refused": "red",
    "unknown": "magenta",
    "pending_authorization": "yellow",
    "revoked": "red",
    "ended": "red",
    "open": "red",
    "expired": "red",
    "rejected": "magenta",
    "cancelled": "magenta",
}


def say(text: str = "", *, style: str = "") -> None:
    """One line. The text is printed as it is: no markup, no control characters of others."""
    _out().print(Text(text, style=style), soft_wrap=True)


def note(text: str) -> None:
    """For people, beside the result: on stderr, so that a pipe holds the result alone."""
    Console(stderr=True, highlight=False).print(Text(text, style="dim"), soft_wrap=True)


def complain(line: str) -> None:
    Console(stderr=True, highlight=False).print(Text(f"nubabel: {plain(line)}"), soft_wrap=True)


def say_json(value: Any) -> None:
    """One JSON document. SecretStr stays hidden: what is to be shown once is given as text."""
    sys.stdout.write(orjson.dumps(value, default=_json_default, option=orjson.OPT_INDENT_2).decode() + "\n")


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """A table, or the sentence `empty` when there are no rows. In a pipe every line is as long as it needs to be."""
    cells = [[_cell(text) for text in row] for row in rows]
    if not cells:
        say(empty)
        return
    out = _out()
    for line in lay_out(columns, cells, width=out.width if sys.stdout.isatty() else None):
        out.print(line, soft_wrap=True)


def fields(values: Mapping[str, str]) -> None:
    """Names and values below each other."""
    width = max(map(len, values))
    for name, value in values.items():
        line = Text(f"{name.ljust(width)}  ", style="bold")
        _out().print(line.append(_cell(value)), soft_wrap=True)


def heading(text: str) -> None:
    say()
    say(text, style="bold underline")


def styled(word: str) -> str:
    """The style in which a state is printed; empty for any other word."""
    return _STYLES.get(word, "")


def print_line(*parts: tuple[str, str]) -> None:
    """One line of (text, style) parts."""
    _out().print(Text.assemble(*parts), soft_wrap=True)


def _cell(text: str) -> Text:
    return Text(plain(text), style=styled(text))


def _out() -> Console:
    return Console(highlight=False)


def _json_default(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "[hidden]"
    if isinstance(value, frozenset | set):
        return sorted(value)
    raise TypeError
