"""What an office document says: docx, xlsx, pptx, OpenDocument and hwpx are archives of XML. Pictures are not read."""

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from xml.parsers import expat

from nubabel_workers.adapters.documents.pieces import NotReadableError, Pieces
from nubabel_workers.domain.documents import DocumentText, Unread

_MOST_BYTES = 50_000_000  # of XML, unpacked
_ENCRYPTED_FLAG = 0x1
_TYPES = (b"application/vnd.oasis.opendocument", b"application/hwp+zip")
_CONTENT = re.compile(r"(?:^|/)(?:document|content|section\d+|slide\d+|sheet\d+)\.xml$")
_PICTURES = re.compile(r"(?:^|/)(?:media|Pictures|BinData)/.")
_SHARED = "xl/sharedStrings.xml"  # the texts of cells, which name them by their numbers

_LINES = frozenset({"p", "row", "tr", "table-row", "br", "line-break", "title", "creator"})
_CELLS = frozenset({"c", "tc", "table-cell", "tab"})
# Most attributes are for programs; these hold copies of cells, what a data source is asked with, and descriptions.
_SAYING = ("v", "connection", "command", "descr")


def text_of_office(content: bytes) -> DocumentText:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        _must_be_readable(archive)
        unpacked = _Unpacked(archive)
        names = sorted(set(archive.namelist()), key=_reading_order)
        cells = _words_of(unpacked.read(_SHARED)).split("\0") if _SHARED in names else []
        pieces, says_something = Pieces(), False
        for name in names:
            if name.endswith((".xml", ".rels")) and name != _SHARED:
                words = _words_of(unpacked.read(name), cells)
                says_something |= bool(words.strip()) and _CONTENT.search(name) is not None
                pieces.add(words, head=name)
    if not says_something and any(_PICTURES.search(name) for name in names):
        raise NotReadableError(Unread.WITHOUT_TEXT)
    return DocumentText(str(pieces), sum(_is_unseen(name) for name in names))


def _must_be_readable(archive: zipfile.ZipFile) -> None:
    if any(member.flag_bits & _ENCRYPTED_FLAG for member in archive.infolist()):
        raise NotReadableError(Unread.ENCRYPTED)
    names = archive.namelist()
    if "[Content_Types].xml" in names:
        return
    if "mimetype" in names:
        with archive.open("mimetype") as said:
            if said.read(100).startswith(_TYPES):
                return
    raise NotReadableError(Unread.ARCHIVE)


def _reading_order(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """The content first, sheet 10 after sheet 9."""
    return _CONTENT.search(name) is None, [(int(part or 0), rest) for rest, part in re.findall(r"(\D+)(\d*)", name)]


def _is_unseen(name: str) -> bool:
    return "/embeddings/" in name or (name.endswith(".bin") and "printerSettings" not in name)


class _Unpacked:
    """An archive of a few megabytes may unpack to a thousand times as much."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._room = _MOST_BYTES

    def read(self, name: str) -> bytes:
        with self._archive.open(name) as member:
            content = member.read(self._room + 1)
        self._room -= len(content)
        if self._room < 0:
            raise NotReadableError(Unread.TOO_LONG)
        return content


def _words_of(xml: bytes, cells: Sequence[str] = ()) -> str:
    return _Words(cells).of(xml)


class _Words:
    """The words between tags, a line for each paragraph and row. Each shared text of a workbook ends with a NUL."""

    def __init__(self, cells: Sequence[str]) -> None:
        self._cells = cells
        self._said: list[str] = []
        self._names_its_text = False
        self._number: list[str] | None = None  # of the text that a cell names, while it is read

    def of(self, xml: bytes) -> str:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = _refuse  # an office document declares no entities, a bomb does
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._hear
        parser.Parse(xml, True)
        return "".join(self._said)

    def _begin(self, name: str, attributes: Mapping[str, str]) -> None:
        element = _local(name)
        if element == "c":
            self._names_its_text = attributes.get("t") == "s"
        elif element == "v" and self._names_its_text:
            self._number = []
        if attributes.get("TargetMode") == "External":
            self._said.append(attributes.get("Target", "") + "\n")
        self._said += [f"{value}\n" for key in _SAYING if (value := attributes.get(key))]

    def _hear(self, text: str) -> None:
        if text.isspace() and "\n" in text:
            return  # between tags that were written for people to read
        (self._said if self._number is None else self._number).append(text)

    def _end(self, name: str) -> None:
        element = _local(name)
        if element == "v" and self._number is not None:
            number, self._number = int("".join(self._number)), None
            self._said.append(self._cells[number])
        if element == "si":
            self._said.append("\0")
        elif element in _LINES:
            self._said.append("\n")
        elif element in _CELLS:
            self._said.append("\t")


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def _refuse(*_: object) -> None:
    raise NotReadableError(Unread.DAMAGED)
