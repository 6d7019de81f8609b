"""Files that come with a question: which of them can be looked through, and what a look finds or why there was none."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

_PDF_MARK: Final = b"%PDF-"
_PDF_HEAD_BYTES: Final = 1024  # as far as readers look for the mark: ISO 32000-1, annex H


class Unread(StrEnum):
    """Why a file could not be looked through, in the words of the timeline."""

    PICTURE = "picture"
    RECORDING = "sound or video"
    ARCHIVE = "archive"
    ENCRYPTED = "encrypted"
    DAMAGED = "damaged"
    TOO_LONG = "too long to be read"
    WITHOUT_TEXT = "without text"
    PARTS = "parts without text"  # the rest was read
    OTHER = "of another form"


class DocumentForm(StrEnum):
    """What a document is by its first bytes."""

    PDF = "pdf"
    ZIP = "zip"  # office documents, or any archive


@dataclass(frozen=True)
class DocumentText:
    """What a document says. unseen: pages and parts of it that hold something, and no text."""

    text: str = field(repr=False)
    unseen: int = 0


def form_of(content: bytes, mime_type: str) -> DocumentForm | None:
    """None: no document that anybody reads here. What is said to be a PDF may have something else before it."""
    head = content[:_PDF_HEAD_BYTES] if mime_type.startswith("application/pdf") else content[: len(_PDF_MARK)]
    if _PDF_MARK in head:
        return DocumentForm.PDF
    return DocumentForm.ZIP if content.startswith(b"PK\x03\x04") else None
