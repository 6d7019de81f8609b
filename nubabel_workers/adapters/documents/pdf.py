"""What a PDF says: its pages, the notes and links on them, its form and its title. Pictures are not looked at.

Of its other strings (bookmarks, choices of a form, descriptions of pictures, metadata, scripts) those are told that
must not leave unseen.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pypdf import PageObject, PdfReader
from pypdf.errors import LimitReachedError
from pypdf.generic import (
    ArrayObject,
    ByteStringObject,
    DictionaryObject,
    IndirectObject,
    PdfObject,
    StreamObject,
    TextStringObject,
)

from nubabel_workers.adapters.documents.hidden import told
from nubabel_workers.adapters.documents.pieces import NotReadableError, Pieces
from nubabel_workers.adapters.documents.xml_words import NoXmlError, text_of_part
from nubabel_workers.domain.documents import DocumentText, Unread

_MOST_PAGES = 300
_LEGIBLE = 0.9  # of the letters; fonts that don't say which letters they draw give control characters
_ABOUT = ("/Title", "/Author", "/Subject", "/Keywords")
_DRAWN_WITH = frozenset({"/Font", "/ColorSpace", "/ExtGState", "/Pattern", "/Shading"})  # there are no words in these
_TEXT_STREAMS = frozenset(
    {"/JS", "/RC", "/V", "/DV"}
)  # where a string may be a stream: ISO 32000-1, table 220 and others
# Encodings that say which letters the codes are: those of Unicode, and those that pypdf has a table of.
_LETTERS_KNOWN = re.compile(r"/(?:Uni(?:CNS|GB|JIS|KS)-U(?:TF16|CS2)|GBK?\d?K?-|GBpc-|ETen|90ms-RKSJ)")
_NUMBERED_GLYPH = re.compile(r"/(?:[gG]|cid|glyph|index)\d+")
# Operators after which there is something to see: ISO 32000-1, table 51.
_PAINTING = frozenset({b"Do", b"BI", b"sh", b"Tj", b"TJ", b"f", b"F", b"f*", b"B", b"B*", b"b", b"b*", b"S", b"s"})


def text_of_pdf(content: bytes) -> DocumentText:
    reader = PdfReader(io.BytesIO(content))
    if reader.is_encrypted and not reader.decrypt(""):  # many are locked against changes only
        raise NotReadableError(Unread.ENCRYPTED)
    try:
        return _text_of(reader)
    except LimitReachedError:
        raise NotReadableError(Unread.TOO_LONG) from None


def _text_of(reader: PdfReader) -> DocumentText:
    if len(reader.pages) > _MOST_PAGES:
        raise NotReadableError(Unread.TOO_LONG)
    strings = _Strings(reader)
    pieces, read, unseen = Pieces(), 0, strings.embedded + bool(reader.xfa)
    for number, page in enumerate(reader.pages, 1):
        text = page.extract_text()
        if _is_legible(text) and not _has_unknown_letters(page):
            read += 1
            pieces.add(text, head=f"page {number}")
        elif _is_painted(page.get_contents()):
            unseen += 1
        pieces.add("\n".join(_notes_on(page)), head=f"notes and links on page {number}")
        for drawing in _drawings_on(page):
            text = page.extract_xform_text(drawing)
            if _is_legible(text):
                pieces.add(text, head=f"drawn on page {number}")
            elif _is_painted(drawing):
                unseen += 1
    if unseen and not read:
        raise NotReadableError(Unread.WITHOUT_TEXT)
    fields = (reader.get_fields() or {}) if "/AcroForm" in reader.root_object else {}
    pieces.add("\n".join(f"{name}: {field.value}" for name, field in fields.items() if field.value), head="form")
    about: Mapping[str, object] = reader.metadata or {}
    pieces.add("\n".join(str(about[key]) for key in _ABOUT if key in about), head="about the document")
    pieces.add(told(strings.found), head="elsewhere in the file")
    return DocumentText(str(pieces), unseen)


def _is_legible(text: str) -> bool:
    letters = [letter for letter in text if not letter.isspace()]
    return bool(letters) and sum(letter.isprintable() for letter in letters) >= _LEGIBLE * len(letters)


def _is_painted(contents: StreamObject | None) -> bool:
    return contents is not None and not _PAINTING.isdisjoint(contents.get_data().split())


def _has_unknown_letters(page: PageObject) -> bool:
    """Whether a font of the page does not say which letters it draws: what comes out then may look like words."""
    resources: Any = page.get("/Resources", DictionaryObject())
    fonts: Any = resources.get_object().get("/Font", DictionaryObject())
    return any(_is_unknown(font.get_object()) for font in fonts.get_object().values())


def _is_unknown(font: Any) -> bool:
    encoding = font.get("/Encoding")
    if "/ToUnicode" in font or encoding is None:
        return False
    if font.get("/Subtype") == "/Type0":
        return not _LETTERS_KNOWN.match(str(encoding.get_object()))
    differences = encoding.get_object().get("/Differences", ()) if not isinstance(encoding, str) else ()
    return any(isinstance(name, str) and _NUMBERED_GLYPH.fullmatch(name) for name in differences)


def _drawings_on(page: PageObject) -> Iterator[Any]:
    """What annotations look like, in each of their states."""
    for annotation in _annotations(page):
        if "/AP" not in annotation or "/N" not in annotation["/AP"]:
            continue
        normal: Any = annotation["/AP"]["/N"]
        states = [normal] if isinstance(normal, StreamObject) else [state.get_object() for state in normal.values()]
        yield from (state for state in states if isinstance(state, StreamObject))


def _annotations(page: PageObject) -> Iterator[Any]:
    return (note.get_object() for note in page.annotations or ())


def _notes_on(page: PageObject) -> Iterator[str]:
    for annotation in _annotations(page):
        yield str(annotation.get("/Contents", ""))
        action = annotation.get("/A")
        if action is not None:
            yield str(action.get_object().get("/URI", ""))


class _Strings:
    """Every string that can be reached from the beginning of the document, but for what pages are drawn with.

    embedded: how many files are attached, wherever.
    """

    def __init__(self, reader: PdfReader) -> None:
        self.found: list[str] = []
        self.embedded = 0
        self._seen: set[tuple[int, int]] = set()
        waiting: list[tuple[str, Any]] = [("", reader.trailer.get("/Root")), ("", reader.trailer.get("/Info"))]
        while waiting:
            key, one = waiting.pop()
            if isinstance(one, IndirectObject):
                one = self._unseen(one)
            self.embedded += isinstance(one, DictionaryObject) and "/EF" in one
            self.found += _strings_in(key, one)
            waiting += _inside(key, one)

    def _unseen(self, one: IndirectObject) -> PdfObject | None:
        place = one.idnum, one.generation
        if place in self._seen:
            return None
        self._seen.add(place)
        return one.get_object()


def _strings_in(key: str, one: PdfObject | None) -> Iterable[str]:
    if isinstance(one, TextStringObject):
        return [one]
    if isinstance(one, ByteStringObject):
        return [one.decode("latin-1")]
    if isinstance(one, StreamObject) and one.get("/Subtype") == "/XML":
        return _words_of_metadata(one.get_data())
    if isinstance(one, StreamObject) and key in _TEXT_STREAMS:
        return [one.get_data().decode("latin-1")]
    return ()


def _words_of_metadata(xml: bytes) -> list[str]:
    try:
        part = text_of_part(xml.strip(b" \0\r\n\t"))
    except NoXmlError:
        return [xml.decode(errors="replace")]
    return [*part.words.splitlines(), *part.beside]


def _inside(key: str, one: PdfObject | None) -> Iterable[tuple[str, Any]]:
    if isinstance(one, DictionaryObject):
        return [(str(name), value) for name, value in one.items() if name not in _DRAWN_WITH]
    return [(key, value) for value in one] if isinstance(one, ArrayObject) else ()
