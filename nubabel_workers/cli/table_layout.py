"""Where the cells of a table go. Nothing is printed here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

_GAP = 2
_INDENT = 4
_SHORTEST_TEXT = 24  # characters; free text that would have fewer rather begins the next line


@dataclass(frozen=True)
class Column:
    """whole: never shortened, such as an id that will be copied, a time or a state; else free text."""

    title: str
    whole: bool = True
    right: bool = False


@dataclass(frozen=True)
class _Place:
    column: int
    width: int
    right: bool


def lay_out(columns: Sequence[Column], rows: Sequence[Sequence[Text]], *, width: int | None) -> Iterator[Text]:
    """Lines, the titles first. width: of the terminal, in cells; None where nothing limits it, such as in a pipe.

    Where a row is wider than the terminal it goes on in further lines, indented, and free text is shortened with an
    ellipsis: what may be copied or compared is never cut.
    """
    titles = [Text(column.title, style="bold") for column in columns]
    bands = list(_bands(columns, [titles, *rows], width))
    for row in (titles, *rows):
        for number, band in enumerate(bands):
            line = _line(row, band, indent=_INDENT if number else 0)
            if line.plain or not number:
                yield line


def _bands(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int | None) -> Iterator[list[_Place]]:
    """Which columns share a line, and how wide each is."""
    natural = [max(row[number].cell_len for row in rows) for number in range(len(columns))]
    if width is None:
        yield [_Place(number, natural[number], column.right) for number, column in enumerate(columns)]
        return
    least = [
        natural[number] if column.whole else min(natural[number], _SHORTEST_TEXT)
        for number, column in enumerate(columns)
    ]
    band: list[int] = []
    left = width
    for number, needed in enumerate(least):
        if band and needed > left:
            yield list(_placed(columns, band, natural, least, left + _GAP))
            band, left = [], width - _INDENT
        band.append(number)
        left -= needed + _GAP
    yield list(_placed(columns, band, natural, least, left + _GAP))


def _placed(
    columns: Sequence[Column], band: Sequence[int], natural: Sequence[int], least: Sequence[int], spare: int
) -> Iterator[_Place]:
    """What is left of the line goes to free text, the first first."""
    for number in band:
        more = max(0, min(spare, natural[number] - least[number]))
        spare -= more
        yield _Place(number, least[number] + more, columns[number].right)


def _line(row: Sequence[Text], band: Sequence[_Place], *, indent: int) -> Text:
    line = Text(" " * indent)
    for place in band:
        cell = row[place.column].copy()
        cell.truncate(place.width, overflow="ellipsis")
        padding = " " * (place.width - cell.cell_len)
        line.append_text(Text.assemble(padding, cell) if place.right else Text.assemble(cell, padding))
        line.append(" " * _GAP)
    line.rstrip()
    return line
