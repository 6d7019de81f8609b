"""What `nubabel demo` shows: one line per thing that happens, the replies as they appear, a table at the end."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from nubabel_workers.cli.wording import padded

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue")
_LABEL_WIDTH = 14
_TEXT_COLUMN = 25  # behind the seconds and the label
_STATE_STYLES = {"completed": "bold green", "failed": "bold red", "rejected": "bold red", "cancelled": "yellow"}


@dataclass(frozen=True)
class Outcome:
    """A row of the summary; times in seconds since Slack sent the message."""

    question: str
    organization: str
    status: str
    attempts: int
    first_sign_s: float | None
    answered_s: float | None
    problem: str = ""  # empty: all as it should be


class DemoView:
    """Writes to one console; lines of one question share a colour."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._colours: dict[str, str] = {}

    def section(self, title: str) -> None:
        self._console.print(f"\n[bold]{escape(title)}[/bold]", highlight=False)

    def note(self, text: str) -> None:
        self._console.print(f"  {escape(text)}", highlight=False)

    def asked(self, label: str, *, where: str, text: str) -> None:
        self._line(label, f"[bold]asks in {escape(where)}[/bold]  {escape(text)}")

    def moved(self, label: str, state: str, detail: str = "") -> None:
        style = _STATE_STYLES.get(state, "bold")
        self._line(label, f"[{style}]{escape(state)}[/{style}]  [dim]{escape(detail)}[/dim]")

    def replied(self, label: str, text: str) -> None:
        self._line(label, "[bold]reply in the thread[/bold]")
        for line in text.strip().splitlines():
            self._console.print(Text(f"{' ' * _TEXT_COLUMN}{line}", style=self._colour(label)))

    def summary(self, outcomes: Sequence[Outcome]) -> None:
        table = Table(box=box.SIMPLE_HEAD, title="What happened", title_justify="left", title_style="bold")
        for heading in ("question", "organization", "state"):
            table.add_column(heading)
        for heading in ("attempts", "first sign", "answer"):
            table.add_column(heading, justify="right")
        for outcome in outcomes:
            style = _STATE_STYLES.get(outcome.status, "bold")
            table.add_row(
                escape(outcome.question),
                escape(outcome.organization),
                f"[{style}]{escape(outcome.status)}[/{style}]",
                str(outcome.attempts),
                _seconds(outcome.first_sign_s),
                _seconds(outcome.answered_s),
            )
        self._console.print()
        self._console.print(table)
        for outcome in outcomes:
            if outcome.problem:
                self._console.print(f"[bold red]{escape(outcome.question)}: {escape(outcome.problem)}[/bold red]")

    def _line(self, label: str, markup: str) -> None:
        elapsed = time.monotonic() - self._began
        colour = self._colour(label)
        name = escape(padded(label, _LABEL_WIDTH))
        self._console.print(f"[dim]{elapsed:6.2f} s[/dim]  [{colour}]{name}[/{colour}] {markup}", highlight=False)

    def _colour(self, label: str) -> str:
        return self._colours.setdefault(label, _COLOURS[len(self._colours) % len(_COLOURS)])


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
