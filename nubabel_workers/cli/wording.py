"""Times and outside text as an operator likes to read them."""

from datetime import UTC, datetime

from rich.cells import cell_len

_TWO_DIGITS_S = 10  # above it nobody needs hundredths
_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86_400


def duration(seconds: float) -> str:
    """`0.42 s`, `41 s`, `3 min 20 s`, `5 h 12 min`, `3 days`."""
    seconds = max(0.0, seconds)
    if seconds < _TWO_DIGITS_S:
        return f"{seconds:.2f} s"
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S:.0f} min {seconds % _MINUTE_S:.0f} s"
    if seconds < 2 * _DAY_S:
        return f"{seconds // _HOUR_S:.0f} h {seconds % _HOUR_S // _MINUTE_S:.0f} min"
    return f"{seconds // _DAY_S:.0f} days"


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 row`, `2 rows`. plural: where it is not the noun with an s."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def ago(at: datetime | None, now: datetime) -> str:
    if at is None:
        return "never"
    seconds = (now - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    words = duration(abs(seconds)) if abs(seconds) >= _TWO_DIGITS_S else f"{abs(seconds):.0f} s"
    return f"{words} ago" if seconds > 0 else f"in {words}"


def clock_time(at: datetime | None) -> str:
    """UTC, to the second; the date always, because nights end."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if at else "-"


def plain(text: str) -> str:
    """Outside text on one line, without anything that a terminal would obey."""
    return "".join(character if character.isprintable() else "\u00b7" for character in " ".join(text.split()))


def plain_lines(text: str) -> str:
    """The same with its lines kept."""
    return "\n".join(
        "".join(character if character.isprintable() or character == "\t" else "\u00b7" for character in line)
        for line in text.splitlines()
    )


def shortened(text: str, characters: int) -> str:
    line = plain(text)
    return line if len(line) <= characters else f"{line[: characters - 1]}…"


def padded(text: str, cells: int) -> str:
    """With spaces behind it as wide as a terminal shows it: Korean letters take two cells each."""
    return text + " " * (cells - cell_len(text))
