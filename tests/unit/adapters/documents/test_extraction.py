"""What documents say, and why nothing can be told of others."""

import io
import zipfile

import pytest

from nubabel_workers.adapters.documents.extraction import read
from nubabel_workers.domain.documents import DocumentForm, DocumentText, Unread
from nubabel_workers.domain.findings import SensitiveKind
from nubabel_workers.domain.sensitive_data import find
from tests.documents import PICTURE, archive, docx, locked_pdf, office, packed_pdf, page_of, pdf, stream

CARD = "4111 1111 1111 1111"
RESIDENT = "880101-1234567"
PICTURE_BYTES = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
XMP = f"<x:xmpmeta xmlns:x='x'><r:Description xmlns:r='r' pdf:Author='{CARD}' xmlns:pdf='p'/></x:xmpmeta>"
LINK = "/Annots [<< /Type /Annot /Subtype /Link /A << /S /URI /URI (mailto:kim@example.com) >> >>]"


def form_of_pdf(entries: str) -> bytes:
    """A page, and a form of one list to choose from."""
    field = f"<< /FT /Ch /T (card) {entries} >>".encode()
    return pdf(page_of("a"), catalog="/AcroForm << /Fields [6 0 R] >>", others=[field])


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


@pytest.mark.parametrize(
    "member",
    [
        pytest.param({"word/embeddings/sheet.xlsx": "…"}, id="another document"),
        pytest.param({"word/afchunk.html": f"<p>{CARD}<br></p>"}, id="a page of the web"),
        pytest.param({"word/afchunk.rtf": r"{\rtf1 4111}"}, id="rich text"),
        pytest.param({"word/vbaProject.bin": "…"}, id="a program"),
        pytest.param({"ppt/media/said.m4a": "…"}, id="sound"),
        pytest.param({"xl/drawings/vmlDrawing1.vml": "<xml><br></xml>"}, id="what is no XML, though it looks like it"),
        pytest.param({"Preview/PrvText.txt": b"\xff\xfe\xfa"}, id="text in unknown letters"),
    ],
)
def test_what_nobody_reads_in_a_document_is_counted_as_unseen(member: dict[str, str]) -> None:
    beside, alone = read(docx("words", **member), DocumentForm.ZIP), read(office(member), DocumentForm.ZIP)

    assert isinstance(beside, DocumentText)
    assert beside.unseen == 1
    assert alone is Unread.WITHOUT_TEXT


@pytest.mark.parametrize(
    "name",
    [
        "word/media/image1.PNG",
        "word/fonts/font1.odttf",
        "xl/printerSettings/printerSettings1.bin",
        "docProps/thumbnail.jpeg",
        "Thumbnails/thumbnail",
        "ObjectReplacements/Object 1",
        "layout-cache",
        "word/empty/",
    ],
)
def test_what_has_no_words_is_not_counted(name: str) -> None:
    found = read(docx("words", **{name: PICTURE_BYTES if not name.endswith("/") else b""}), DocumentForm.ZIP)

    assert isinstance(found, DocumentText)
    assert found.unseen == 0


@pytest.mark.parametrize(
    "name", ["word/media/image1.png", "word/printerSettings/p.bin", "Thumbnails/a", "word/folder/"]
)
def test_what_is_called_so_and_could_be_text_was_not_seen(name: str) -> None:
    found = read(docx("words", **{name: f"not {CARD}"}), DocumentForm.ZIP)

    assert isinstance(found, DocumentText)
    assert found.unseen == 1


def test_of_two_members_of_one_name_one_was_not_seen() -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as opened:
        opened.writestr("[Content_Types].xml", "<Types/>")
        opened.writestr("word/document.xml", f"<p>{CARD}</p>")
        with pytest.warns(UserWarning, match="Duplicate"):
            opened.writestr("word/document.xml", "<p>words</p>")

    found = read(written.getvalue(), DocumentForm.ZIP)

    assert isinstance(found, DocumentText)
    assert found.unseen == 1


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"word/main.bin": f"<?xml version='1.0'?><p>{CARD}</p>"}, id="a main part of any name"),
        pytest.param({"word/document.xml": "<a><t>4111 1111</t><t> 1111 1111</t></a>"}, id="words of two runs"),
        pytest.param({"word/document.xml": f"<v:textpath xmlns:v='v' string='{CARD}'/>"}, id="drawn words"),
        pytest.param({"word/document.xml": f"<wp:docPr xmlns:wp='w' title='{CARD}'/>"}, id="a picture's title"),
        pytest.param({"word/settings.xml": f"<docVar val='{CARD}'/>"}, id="a variable"),
        pytest.param({"docProps/custom.xml": f"<p><lpwstr>{CARD}</lpwstr></p>"}, id="a property"),
        pytest.param({"word/document.xml": f"<a><!-- {CARD} --></a>"}, id="a comment"),
        pytest.param({"word/document.xml": f"<a><?keep {CARD}?></a>"}, id="an instruction"),
        pytest.param(
            {"word/media/4111 1111 1111 1111.png": PICTURE_BYTES, "word/document.xml": "<p>a</p>"}, id="a name"
        ),
        pytest.param({"xl/worksheets/sheet1.xml": f"<c><f>Sheet2!A2</f><v>{CARD}</v></c>"}, id="a formula's result"),
        pytest.param({"word/document.xml": f"<p><posOffset>914400</posOffset><t>{CARD}</t></p>"}, id="after an offset"),
        pytest.param(
            {"word/media/image1.svg": f"<!DOCTYPE svg PUBLIC '-//W3C' 'svg11.dtd'><svg><text>{CARD}</text></svg>"},
            id="a drawing with a document type",
        ),
        pytest.param({"xl/worksheets/sheet1.xml": "<c><v>4.111111111111111E15</v></c>"}, id="a large number"),
        pytest.param({"xl/pivotCache/records.xml": "<n v='4.111111111111111E+15'/>"}, id="a large number's copy"),
        pytest.param({"content.xml": "<c office:value='4111111111111111' xmlns:office='o'/>"}, id="a cell's value"),
        pytest.param({"Preview/PrvText.txt": CARD}, id="a preview"),
        pytest.param({"word/media/image1.svg": f"<svg><text>{CARD}</text></svg>"}, id="a drawing"),
    ],
)
def test_what_must_not_leave_is_found_wherever_it_stands(members: dict[str, str]) -> None:
    text = text_of(office(members), DocumentForm.ZIP)

    assert [one.canonical for one in find(text)][:1] == ["4111111111111111"]


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(f"<c><f>A2&amp;B2</f><v>{RESIDENT}</v></c>", id="a formula and its result"),
        pytest.param(f"<comments><author>me</author><text><r><t>{RESIDENT}</t></r></text></comments>", id="an author"),
        pytest.param(f"<a><text><t>one 1</t></text><text><t>{RESIDENT}</t></text></a>", id="two comments"),
        pytest.param(f"<annotation><date>2026-11-28T10:00:00</date><p>{RESIDENT}</p></annotation>", id="a date"),
        pytest.param(f"<Properties><lpwstr>5</lpwstr><lpwstr>{RESIDENT}</lpwstr></Properties>", id="properties"),
        pytest.param(f"<pt idx='0'><v>12</v></pt><pt><v>{RESIDENT}</v></pt>".join(("<x>", "</x>")), id="a chart"),
        pytest.param("<p><t>880101</t><noBreakHyphen/><t>1234567</t></p>", id="a hyphen that breaks no line"),
        pytest.param(f"<p>id<s c='1'/>{RESIDENT}</p>", id="a space of OpenDocument"),
    ],
)
def test_what_stands_beside_other_words_is_not_glued_to_them(part: str) -> None:
    text = text_of(office({"word/document.xml": part}), DocumentForm.ZIP)

    assert [one.kind for one in find(text)] == [SensitiveKind.KOREAN_ID]


def test_an_entity_in_a_part_that_is_none_of_the_documents_own_leaves_the_rest_to_be_read() -> None:
    bomb = '<!DOCTYPE svg [<!ENTITY b "bb">]><svg>&b;</svg>'

    found = read(docx(CARD, **{"word/media/image1.svg": bomb}), DocumentForm.ZIP)

    assert isinstance(found, DocumentText)
    assert (CARD in found.text, found.unseen) == (True, 1)


def test_what_stands_beside_the_words_for_programs_is_left_out() -> None:
    part = "<w:p xmlns:w='w' w:rsidR='00A12B34' w14:paraId='4A5F6C7D' xmlns:w14='u'><w:t>words</w:t></w:p>"

    assert text_of(office({"word/document.xml": part}), DocumentForm.ZIP) == "[word/document.xml]\nwords"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(pdf(page_of("a"), catalog=f"/Outlines << /First << /Title ({CARD}) >> >>"), id="a bookmark"),
        pytest.param(form_of_pdf(f"/V ({CARD})"), id="a choice"),
        pytest.param(form_of_pdf(f"/Opt [({CARD})]"), id="what may be chosen"),
        pytest.param(pdf(page_of("a"), extra=f"/Annots [<< /Subtype /Text /RC (<p>{CARD}</p>) >>]"), id="a note"),
        pytest.param(pdf(page_of("a"), catalog=f"/OpenAction << /S /JavaScript /JS ({CARD}) >>"), id="a script"),
        pytest.param(
            pdf(page_of("a"), catalog="/Metadata 6 0 R", others=[stream(XMP, "/Type /Metadata /Subtype /XML")]),
            id="metadata",
        ),
    ],
)
def test_what_must_not_leave_is_found_wherever_it_stands_in_a_pdf(content: bytes) -> None:
    assert [one.canonical for one in find(text_of(content, DocumentForm.PDF))][:1] == ["4111111111111111"]


FORM = "/Subtype /Form /BBox [0 0 100 100] /Resources << /Font << /F1 3 0 R >> >>"


@pytest.mark.parametrize("kind", ["/Stamp /Contents (seen)", "/Widget", "/Link"])
def test_what_an_annotation_draws_is_read(kind: str) -> None:
    drawn = f"/Annots [<< /Subtype {kind} /AP << /N << /On 6 0 R >> >> >>]"

    text = text_of(pdf(page_of("a"), extra=drawn, others=[stream(page_of(CARD), FORM)]), DocumentForm.PDF)

    assert f"[drawn on page 1]\n{CARD}" in text


def test_a_picture_that_an_annotation_draws_was_not_seen() -> None:
    drawn = "/Annots [<< /Subtype /Stamp /AP << /N 6 0 R >> >>]"

    found = read(pdf(page_of("words"), extra=drawn, others=[stream(PICTURE, FORM)]), DocumentForm.PDF)

    assert found == DocumentText("[page 1]\nwords", unseen=1)


@pytest.mark.parametrize(
    ("extra", "catalog"),
    [
        ("/Annots [<< /Subtype /FileAttachment /FS << /Type /Filespec /F (a.txt) /EF << /F 6 0 R >> >> >>]", ""),
        ("", "/AF [<< /Type /Filespec /F (a.txt) /EF << /F 6 0 R >> >>]"),
        ("", "/Names << /EmbeddedFiles << /Names [(a) << /F (a.txt) /EF << /F 6 0 R >> >>] >> >>"),
    ],
    ids=["a note", "beside the document", "by name"],
)
def test_a_file_that_is_attached_was_not_seen(extra: str, catalog: str) -> None:
    content = pdf(page_of("a"), extra=extra, catalog=catalog, others=[stream(CARD, "/Type /EmbeddedFile")])

    assert read(content, DocumentForm.PDF) == DocumentText("[page 1]\na", unseen=1)


@pytest.mark.parametrize(
    ("font", "is_read"),
    [
        ("/Subtype /Type0 /Encoding /KSCms-UHC-H", False),
        ("/Subtype /Type0 /Encoding /Identity-H", False),
        ("/Subtype /Type1 /Encoding << /Differences [32 /g52 /g49] >>", False),
        ("/Subtype /Type0 /Encoding /UniKS-UCS2-H", True),
        ("/Subtype /Type1 /Encoding << /Differences [32 /space /exclam] >>", True),
        ("/Subtype /Type1 /Encoding /WinAnsiEncoding", True),
    ],
)
def test_a_page_whose_fonts_do_not_say_which_letters_they_draw_was_not_seen(font: str, is_read: bool) -> None:
    content = pdf("BT /F1 12 Tf 72 700 Td (ABCDEFGH) Tj ET", font=f"/BaseFont /Any {font}")

    found = read(content, DocumentForm.PDF)

    assert isinstance(found, DocumentText) is is_read
    assert is_read or found is Unread.WITHOUT_TEXT


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
