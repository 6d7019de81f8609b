"""What a PDF says: its pages, the notes and links on them, its form and its title. Pictures are not read."""

import io
from collections.abc import Iterator, Mapping
from typing import Any

from pypdf import PageObject, PdfReader
from pypdf.errors import LimitReachedError

from nubabel_workers.adapters.documents.pieces import NotReadableError, Pieces
from nubabel_workers.domain.documents import DocumentText, Unread

_MOST_PAGES = 300
_LEGIBLE = 0.9  # of the letters; fonts that don't say which letters they draw give control characters
_ABOUT = ("/Title", "/Author", "/Subject", "/Keywords")
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
    pieces, read, unseen = Pieces(), 0, sum(1 for _ in reader.attachment_list) + bool(reader.xfa)
    for number, page in enumerate(reader.pages, 1):
        text = page.extract_text()
        if _is_legible(text):
            read += 1
            pieces.add(text, head=f"page {number}")
        elif _is_painted(page):
            unseen += 1
        pieces.add("\n".join(_notes_on(page)), head=f"notes and links on page {number}")
    if unseen and not read:
        raise NotReadableError(Unread.WITHOUT_TEXT)
    fields = reader.get_form_text_fields() if "/AcroForm" in reader.root_object else {}
    pieces.add("\n".join(f"{name}: {value}" for name, value in fields.items() if value), head="form")
    about: Mapping[str, object] = reader.metadata or {}
    pieces.add("\n".join(str(about[key]) for key in _ABOUT if key in about), head="about the document")
    return DocumentText(str(pieces), unseen)


def _is_legible(text: str) -> bool:
    letters = [letter for letter in text if not letter.isspace()]
    return bool(letters) and sum(letter.isprintable() for letter in letters) >= _LEGIBLE * len(letters)


def _is_painted(page: PageObject) -> bool:
    contents = page.get_contents()
    return contents is not None and not _PAINTING.isdisjoint(contents.get_data().split())


def _notes_on(page: PageObject) -> Iterator[str]:
    for note in page.annotations or ():
        annotation: Any = note.get_object()
        yield str(annotation.get("/Contents", ""))
        action = annotation.get("/A")
        if action is not None:
            yield str(action.get_object().get("/URI", ""))
