"""What commands print: tables and sentences for people, JSON for programs. Results on stdout, complaints on stderr."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nubabel_workers.cli.wording import plain

_PIPED_WIDTH = 240  # columns when nobody's terminal sets them: lines stay whole for grep
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


@dataclass(frozen=True)
class Column:
    """whole: never shortened, such as an id that will be copied."""

    title: str
    whole: bool = True
    right: bool = False


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
    """A table, or the sentence `empty` when there are no rows."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        drawn.add_column(
            column.title,
            no_wrap=True,
            overflow="ignore" if column.whole else "ellipsis",
            min_width=None if column.whole else 8,
            justify="right" if column.right else "left",
        )
    for row in rows:
        drawn.add_row(*(_cell(text) for text in row))
    if drawn.row_count:
        _out().print(drawn)
    else:
        say(empty)


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
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def _json_default(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "[hidden]"
    if isinstance(value, frozenset | set):
        return sorted(value)
    raise TypeError
