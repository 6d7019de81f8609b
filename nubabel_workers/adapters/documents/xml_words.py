"""The words of one part of an office document, and what else stands in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat

from nubabel_workers.adapters.documents.hidden import in_full

_LINES = frozenset({"p", "row", "tr", "table-row", "br", "cr", "line-break"})
_CELLS = frozenset({"c", "tc", "table-cell", "tab"})
# What words may go on across: runs of one format, and what stands around them. Of Office, OpenDocument, hwpx and the
# web. After anything else that says something, something else begins.
_INLINE = frozenset(
    {
        *(
            "r",
            "t",
            "run",
            "delText",
            "instrText",
            "hyperlink",
            "ins",
            "del",
            "moveFrom",
            "moveTo",
            "smartTag",
            "v",
            "is",
        ),
        *(
            "sdt",
            "sdtContent",
            "fldSimple",
            "fld",
            "bdo",
            "dir",
            "ruby",
            "rubyBase",
            "customXml",
            "si",
            "span",
            "a",
            "s",
        ),
        *("ruby-base", "meta", "b", "i", "u", "em", "strong", "font", "small", "sup", "sub", "mark", "tspan", "code"),
    }
)
_SIGNS = {"noBreakHyphen": "-", "s": " "}  # elements in place of a sign
# Most attributes are for programs; these hold copies of cells, what a data source is asked with, and descriptions.
_SAYING = ("v", "connection", "command", "descr")


class NoXmlError(Exception):
    """It is not well-formed, or declares entities, which documents don't and bombs do."""


@dataclass(frozen=True)
class PartText:
    """words: a line for each paragraph, row, and whatever else stands for itself; each shared text of a workbook ends
    with a NUL. beside: attributes, comments.
    """

    words: str
    beside: Sequence[str]


def text_of_part(xml: bytes, cells: Sequence[str] = ()) -> PartText:
    """cells: the shared texts of its workbook, which cells name by their numbers. Raises NoXmlError."""
    return _Part(cells).read(xml)


@dataclass
class _Part:
    cells: Sequence[str]
    said: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    open: list[int] = field(default_factory=list)  # of each open element: how much had been said at its beginning
    names_its_text: bool = False  # the cell
    value: list[str] | None = None  # of a cell, while it is read

    def read(self, xml: bytes) -> PartText:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.EntityDeclHandler = _refuse
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._hear
        parser.CommentHandler = self.beside.append
        parser.ProcessingInstructionHandler = lambda _target, data: self.beside.append(data)
        try:
            parser.Parse(xml, True)
        except expat.ExpatError:
            raise NoXmlError from None
        return PartText("".join(self.said), self.beside)

    def _begin(self, name: str, attributes: Mapping[str, str]) -> None:
        element = _local(name)
        self.open.append(len(self.said))
        if element in _SIGNS:
            self.said.append(_SIGNS[element])
        if element == "c":
            self.names_its_text = attributes.get("t") == "s"
        elif element == "v":
            self.value = []
        if attributes.get("TargetMode") == "External":
            self.said.append(attributes.get("Target", "") + "\n")
        self.said += [f"{in_full(value)}\n" for key in _SAYING if (value := attributes.get(key))]
        self.beside += [value for key, value in attributes.items() if not key.startswith("xmlns")]

    def _hear(self, text: str) -> None:
        if text.isspace() and "\n" in text:
            return  # between tags that were written for people to read
        (self.said if self.value is None else self.value).append(text)

    def _end(self, name: str) -> None:
        element = _local(name)
        if element == "v" and self.value is not None:
            value, self.value = "".join(self.value), None
            self.said.append(self.cells[int(value)] if self.names_its_text else in_full(value))
        says_something = len(self.said) > self.open.pop()
        if element == "si":
            self.said.append("\0")
        elif element in _CELLS:
            self.said.append("\t")
            self.names_its_text = False
        elif element in _LINES or (says_something and element not in _INLINE | _SIGNS.keys()):
            self.said.append("\n")


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def _refuse(*_: object) -> None:
    raise NoXmlError
