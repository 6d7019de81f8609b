"""What an office document says: docx, xlsx, pptx, OpenDocument and hwpx are archives of XML.

A member that is neither XML nor plain text, nor known to hold no words, was not seen. Pictures are not looked at.
"""

import io
import re
import zipfile
from collections.abc import Sequence

from nubabel_workers.adapters.documents.hidden import told
from nubabel_workers.adapters.documents.pieces import NotReadableError, Pieces
from nubabel_workers.adapters.documents.xml_words import NoXmlError, PartText, text_of_part
from nubabel_workers.domain.documents import DocumentText, Unread

_MOST_BYTES = 50_000_000  # unpacked
_ENCRYPTED_FLAG = 0x1
_TYPES = (b"application/vnd.oasis.opendocument", b"application/hwp+zip")
_CONTENT = re.compile(r"(?:^|/)(?:document|content|section\d+|slide\d+|sheet\d+)\.xml$")
_ABOUT = re.compile(r"(?:^|/)(?:_rels|docProps|META-INF|theme)/|^\[Content_Types\]\.xml$|\.rdf$")
_PICTURES = re.compile(r"(?:^|/)(?:media|Pictures|BinData)/.")
_SHARED = "xl/sharedStrings.xml"  # the texts of cells, which name them by their numbers
_XML = (".xml", ".rels")
_PLAIN = (".txt", ".csv")
_XML_BEGINS = re.compile(rb"(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?[\s\0]*<[\0?!A-Za-z]")
_HEAD_BYTES = 64
# What has no words: pictures, fonts, what a printer was set to, and what one program keeps of its window. What is
# called so, and could be text by its first bytes, is something else.
_WORDLESS = re.compile(
    r"\.(?:png|jpe?g|jfif|gif|bmp|dib|tiff?|emf|wmf|emz|wmz|wdp|ico|webp|odttf|ttf|otf|fntdata)$"
    r"|(?:^|/)printerSettings/|^layout-cache$|^Configurations2/|^Thumbnails/|^ObjectReplacements/",
    re.IGNORECASE,
)
_NO_TEXT = re.compile(rb"[\0-\x08\x0e-\x1f]")


def text_of_office(content: bytes) -> DocumentText:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        _must_be_readable(archive)
        return _Document(archive).read()


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


class _Document:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._members = _Members(archive)
        self._cells: Sequence[str] = ()
        self._pieces = Pieces()
        self._beside: list[str] = [archive.comment.decode(errors="replace")]
        self._says_something = False
        self._unseen = 0

    def read(self) -> DocumentText:
        names = sorted(self._members.sizes, key=_reading_order)
        self._unseen += self._members.covered
        self._beside += names
        if _SHARED in names:
            self._keep_cells(text_of_part(self._members.read(_SHARED)))
        for name in names:
            if self._members.sizes[name] and name != _SHARED:
                self._read_member(name)
        self._pieces.add(told(self._beside), head="elsewhere in the file")
        if not self._says_something and (self._unseen or any(_PICTURES.search(name) for name in names)):
            raise NotReadableError(Unread.WITHOUT_TEXT)
        return DocumentText(str(self._pieces), self._unseen)

    def _keep_cells(self, shared: PartText) -> None:
        self._cells = shared.words.split("\0")
        self._beside += shared.beside

    def _read_member(self, name: str) -> None:
        if name.endswith(_XML):
            self._hear(name, text_of_part(self._members.read(name), self._cells))
            return
        head = self._members.head(name)
        if _XML_BEGINS.match(head):
            self._read_as_xml(name)
        elif name.endswith(_PLAIN):
            self._read_as_text(name)
        elif name != "mimetype" and not (_WORDLESS.search(name) and _NO_TEXT.search(head)):
            self._unseen += 1

    def _read_as_xml(self, name: str) -> None:
        """Of any name: its relations say what a part is, and some write XML that is none."""
        try:
            self._hear(name, text_of_part(self._members.read(name), self._cells))
        except NoXmlError:
            self._unseen += 1

    def _read_as_text(self, name: str) -> None:
        try:
            self._hear(name, PartText(self._members.read(name).decode("utf-8-sig"), ()))
        except UnicodeDecodeError:
            self._unseen += 1

    def _hear(self, name: str, part: PartText) -> None:
        is_content = _CONTENT.search(name) is not None or not (name.endswith(_XML) or _ABOUT.search(name))
        self._says_something |= is_content and bool(part.words.strip())
        self._beside += part.beside
        self._pieces.add(part.words, head=name)


def _reading_order(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """The content first, sheet 10 after sheet 9."""
    return _CONTENT.search(name) is None, [(int(part or 0), rest) for rest, part in re.findall(r"(\D+)(\d*)", name)]


class _Members:
    """An archive of a few megabytes may unpack to a thousand times as much.

    covered: how many there are whose name another one has as well, of which programs may show either.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._room = _MOST_BYTES
        members = [member for member in archive.infolist() if member.file_size or not member.is_dir()]
        self.sizes = {member.filename: member.file_size for member in members}
        self.covered = len(members) - len(self.sizes)

    def head(self, name: str) -> bytes:
        with self._archive.open(name) as member:
            return member.read(_HEAD_BYTES)

    def read(self, name: str) -> bytes:
        with self._archive.open(name) as member:
            content = member.read(self._room + 1)
        self._room -= len(content)
        if self._room < 0:
            raise NotReadableError(Unread.TOO_LONG)
        return content
