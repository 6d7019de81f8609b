"""Small documents, made byte by byte, so that a test says what is in them."""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence

from pypdf import PdfReader, PdfWriter

_FONT = "/Subtype /Type1 /BaseFont /Helvetica"
PICTURE = "q 595 0 0 842 0 0 cm /Im0 Do Q"  # what a scanner puts on a page


def page_of(*lines: str) -> str:
    """What draws these lines on a page."""
    return "BT /F1 12 Tf 72 700 Td " + " ".join(f"({line}) Tj 0 -20 Td" for line in lines) + " ET"


def pdf(*pages: str, extra: str = "", catalog: str = "", font: str = _FONT, others: Sequence[bytes] = ()) -> bytes:
    """A PDF with these content streams. extra, catalog: entries of each page's dictionary, and of the document's.

    font: of the one font's. others: more objects; with one page the first of them is number 6.
    """
    streams = [(page.encode(), "") for page in pages]
    return pdf_of(streams, extra=extra, catalog=catalog, font=font, others=others)


def stream(content: str, entries: str) -> bytes:
    """An object of a PDF that is one. entries: of its dictionary."""
    return f"<< /Length {len(content)} {entries} >>\nstream\n{content}\nendstream".encode()


def packed_pdf(page: bytes) -> bytes:
    """One page, packed: what is made to be long need not be large."""
    return pdf_of([(zlib.compress(page, 9), "/Filter /FlateDecode ")])


def pdf_of(
    streams: list[tuple[bytes, str]],
    *,
    extra: str = "",
    catalog: str = "",
    font: str = _FONT,
    others: Sequence[bytes] = (),
) -> bytes:
    """streams: what draws each page, and the entries of the stream's dictionary."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(streams)))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {catalog} >>".encode(),
        f"<< /Type /Pages /Kids [{kids}] /Count {len(streams)} >>".encode(),
        f"<< /Type /Font {font} >>".encode(),
    ]
    for number, (content, filters) in enumerate(streams):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >>"
            + f" /Contents {5 + 2 * number} 0 R {extra} >>".encode()
        )
        objects.append(f"<< /Length {len(content)} {filters}>>\nstream\n".encode() + content + b"\nendstream")
    objects += others
    written, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(written))
        written += b"%d 0 obj\n%b\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return (
        written
        + b"xref\n0 %d\n0000000000 65535 f \n%b" % (len(objects) + 1, table)
        + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(written))
    )


def locked_pdf(password: str, *pages: str) -> bytes:
    """With the empty password anybody may read it, and nobody change it."""
    writer, locked = PdfWriter(PdfReader(io.BytesIO(pdf(*pages)))), io.BytesIO()
    writer.encrypt(password, "the owner's", algorithm="AES-256")
    writer.write(locked)
    return locked.getvalue()


def archive(members: Mapping[str, str | bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return written.getvalue()


def office(members: Mapping[str, str | bytes]) -> bytes:
    """An office document as Microsoft's programs pack it."""
    return archive({"[Content_Types].xml": "<Types/>", **members})


def docx(*paragraphs: str, **others: str | bytes) -> bytes:
    text = "".join(f"<w:p><w:r><w:t>{paragraph}</w:t></w:r></w:p>" for paragraph in paragraphs)
    return office({"word/document.xml": f"<w:document xmlns:w='w'>{text}</w:document>", **others})
