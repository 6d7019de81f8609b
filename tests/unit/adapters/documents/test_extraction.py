"""What documents say, and why nothing can be told of others."""

import pytest

from nubabel_workers.adapters.documents.extraction import read
from nubabel_workers.domain.documents import DocumentForm, DocumentText, Unread
from tests.documents import PICTURE, archive, docx, locked_pdf, office, packed_pdf, page_of, pdf

CARD = "4111 1111 1111 1111"
LINK = "/Annots [<< /Type /Annot /Subtype /Link /A << /S /URI /URI (mailto:kim@example.com) >> >>]"


def text_of(content: bytes, form: DocumentForm) -> str:
    found = read(content, form)
    assert isinstance(found, DocumentText)
    return found.text


def test_the_pages_of_a_pdf_are_read_with_the_links_on_them() -> None:
    content = pdf(page_of("paid with", CARD), page_of("the end"), extra=LINK)

    text = text_of(content, DocumentForm.PDF)

    assert text.startswith(f"[page 1]\npaid with\n{CARD}\n")
    assert "[page 2]\nthe end" in text
    assert "mailto:kim@example.com" in text


def test_a_pdf_that_is_locked_against_changes_only_is_read() -> None:
    assert CARD in text_of(locked_pdf("", page_of(CARD)), DocumentForm.PDF)


def test_an_empty_page_hides_nothing_and_a_picture_may() -> None:
    assert read(pdf("q Q"), DocumentForm.PDF) == DocumentText("")
    assert read(pdf(page_of("words"), PICTURE), DocumentForm.PDF) == DocumentText("[page 1]\nwords", unseen=1)


def test_words_that_are_formatted_differently_stay_one_word() -> None:
    runs = "<w:p xmlns:w='w'><w:r><w:t>4111 11</w:t></w:r><w:r><w:b/><w:t>11 1111 1111</w:t></w:r></w:p>"

    assert CARD in text_of(office({"word/document.xml": runs}), DocumentForm.ZIP)


def test_cells_of_a_workbook_are_read_where_they_stand() -> None:
    sheet = (
        '<worksheet><row><c t="s"><v>1</v></c><c><v>5</v></c></row><row><c t="inlineStr"><is><t>in</t></is></c></row>'
        "</worksheet>"
    )
    content = office(
        {
            "xl/sharedStrings.xml": "<sst><si><t>name</t></si><si><r><t>k</t></r><r><t>im</t></r></si></sst>",
            "xl/worksheets/sheet1.xml": sheet,
            "xl/worksheets/_rels/sheet1.xml.rels": '<Relationships><Relationship TargetMode="External"'
            ' Target="mailto:kim@example.com"/></Relationships>',
            "xl/pivotCache/pivotCacheRecords1.xml": '<records><r><s v="copied"/></r></records>',
        }
    )

    text = text_of(content, DocumentForm.ZIP)

    assert "[xl/worksheets/sheet1.xml]\nkim\t5\t\nin" in text
    assert "mailto:kim@example.com" in text
    assert "copied" in text


def test_documents_of_other_office_programs_are_read() -> None:
    odt = archive({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": "<a><p>오픈</p></a>"})
    hwpx = archive({"mimetype": "application/hwp+zip", "Contents/section0.xml": "<a><p>한글</p></a>"})

    assert "오픈" in text_of(odt, DocumentForm.ZIP)
    assert "한글" in text_of(hwpx, DocumentForm.ZIP)


def test_what_is_embedded_in_a_document_is_counted_as_unseen() -> None:
    content = docx("words", **{"word/embeddings/sheet.xlsx": "…", "word/printerSettings/printerSettings1.bin": "…"})

    found = read(content, DocumentForm.ZIP)

    assert isinstance(found, DocumentText)
    assert found.unseen == 1


@pytest.mark.parametrize(
    ("content", "form", "reason"),
    [
        pytest.param(locked_pdf("secret", page_of(CARD)), DocumentForm.PDF, Unread.ENCRYPTED, id="password"),
        pytest.param(pdf(PICTURE, "q Q"), DocumentForm.PDF, Unread.WITHOUT_TEXT, id="scan"),
        pytest.param(b"%PDF-1.7\nand nothing more", DocumentForm.PDF, Unread.DAMAGED, id="broken PDF"),
        pytest.param(b"PK\x03\x04 and nothing more", DocumentForm.ZIP, Unread.DAMAGED, id="broken archive"),
        pytest.param(archive({"a.txt": CARD}), DocumentForm.ZIP, Unread.ARCHIVE, id="archive"),
        pytest.param(office({"ppt/media/a.png": "…"}), DocumentForm.ZIP, Unread.WITHOUT_TEXT, id="slides of pictures"),
        pytest.param(office({"word/document.xml": "<a>"}), DocumentForm.ZIP, Unread.DAMAGED, id="broken XML"),
        pytest.param(pdf(*[page_of("a")] * 301), DocumentForm.PDF, Unread.TOO_LONG, id="many pages"),
        pytest.param(docx("a" * 300_001), DocumentForm.ZIP, Unread.TOO_LONG, id="many words"),
    ],
)
def test_why_a_document_is_not_read_is_said(content: bytes, form: DocumentForm, reason: Unread) -> None:
    assert read(content, form) is reason


@pytest.mark.parametrize(
    ("content", "form", "reason"),
    [
        pytest.param(packed_pdf(b" " * 100_000_000), DocumentForm.PDF, Unread.TOO_LONG, id="unpacks to a lot"),
        pytest.param(office({"word/document.xml": b" " * 60_000_000}), DocumentForm.ZIP, Unread.TOO_LONG, id="XML"),
        pytest.param(
            office({"word/document.xml": '<!DOCTYPE a [<!ENTITY b "bb">]><a>&b;</a>'}),
            DocumentForm.ZIP,
            Unread.DAMAGED,
            id="entities",
        ),
    ],
)
def test_a_document_that_is_made_to_be_large_is_not_read(content: bytes, form: DocumentForm, reason: Unread) -> None:
    assert len(content) < 1_000_000
    assert read(content, form) is reason
