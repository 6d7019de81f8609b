"""What may leave of files: text is masked, documents go on as their masked text, and what nobody can read is said."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from nubabel_workers.domain.documents import DocumentForm, DocumentText, Unread
from nubabel_workers.domain.earlier_turns import EarlierTurns, Turn
from nubabel_workers.domain.errors import NotLookedThroughError, PromptRefusedError
from nubabel_workers.domain.findings import OutOfTimeError, Patience
from nubabel_workers.domain.masking import Cleaning, Masked, MaskingPolicy, Placeholders, mask
from nubabel_workers.domain.outcomes import refused_for_content
from nubabel_workers.domain.prompts import PromptFile
from nubabel_workers.services import mask_prompt
from nubabel_workers.services.batches import BatchLimits
from nubabel_workers.services.mask_prompt import MASKED_WITHIN_S, MaskPrompt, Outgoing, Share
from nubabel_workers.services.submit_prompt import RunLimits
from tests.fakes.documents import FakeDocuments
from tests.unit.domain.test_placement import EXECUTION

CARD = "4111 1111 1111 1111"
MAIL = "kim@example.com"

INVOICE = PromptFile("invoice.pdf", "application/pdf", b"%PDF-1.7 invoice")
TERMS = PromptFile("terms.pdf", "application/pdf", b"%PDF-1.7 terms")
SCAN = PromptFile("scan.pdf", "application/pdf", b"%PDF-1.7 scan")
MIXED = PromptFile("mixed.pdf", "application/pdf", b"%PDF-1.7 mixed")
SHEET = PromptFile("list.xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", b"PK\x03\x04 list")
PHOTO = PromptFile("photo.png", "image/png", b"\x89PNG")

LIST = PromptFile("list.csv", "text/csv", b"1234 " * 200_000)

LONG = f"{'a long story ' * 2_000} {CARD}"
NO_TIME = Share(-1.0, -1.0)
_SOON_S = 10.0  # less than anybody would wait without a bound

FOUND: dict[bytes, DocumentText | Unread] = {
    INVOICE.content: DocumentText(f"[page 1]\nsend to {MAIL}, card {CARD}", unseen=1),
    TERMS.content: DocumentText("[page 1]\nbe kind"),
    SCAN.content: Unread.WITHOUT_TEXT,
    MIXED.content: DocumentText("[page 1]\nbe kind", unseen=1),
    SHEET.content: DocumentText(f"[sheet1]\nKim\t{MAIL}"),
}


@dataclass
class Masking:
    documents: FakeDocuments
    mask_prompt: MaskPrompt

    async def outgoing(
        self,
        policy: MaskingPolicy,
        *files: PromptFile,
        prompt: str = "read this",
        context: Sequence[str] = (),
        about_context: Sequence[str] = (),
    ) -> Outgoing:
        execution = replace(EXECUTION, prompt=prompt)
        return await self.mask_prompt.run(
            execution,
            policy,
            await self.mask_prompt.question(execution, policy, by=in_time()),
            context=context,
            files=files,
            by=in_time(),
            about_context=about_context,
        )

    async def earlier(self, turns: EarlierTurns, *, max_bytes: int = 2_000) -> Outgoing:
        return await self.mask_prompt.earlier(EXECUTION, MaskingPolicy.MASK, turns, max_bytes=max_bytes, by=in_time())


def in_time() -> float:
    return asyncio.get_running_loop().time() + MASKED_WITHIN_S


@pytest.fixture
def masking() -> Masking:
    documents = FakeDocuments(FOUND)
    return Masking(documents, MaskPrompt(b"a key of the tests", documents))


@contextmanager
def no_thread_is_free() -> Iterator[None]:
    """The loop's only thread is held for as long as this lasts."""
    released = threading.Event()
    executor = ThreadPoolExecutor(max_workers=1)
    asyncio.get_running_loop().set_default_executor(executor)
    executor.submit(released.wait)
    try:
        yield
    finally:
        released.set()


async def test_a_document_with_findings_leaves_as_its_masked_text_and_both_sides_can_tell(masking: Masking) -> None:
    outgoing = await masking.outgoing(MaskingPolicy.MASK, INVOICE)

    (file,) = outgoing.files
    assert (file.name, file.mime_type) == ("invoice.pdf.masked.txt", "text/plain")
    text = file.content.decode()
    assert text.startswith("[The text of invoice.pdf. Sensitive data is masked")
    assert "send to [mail address " in text
    assert not [value for value in (CARD, MAIL) if value in text]
    assert outgoing.notes == [
        "Passed on as text with sensitive data masked, without layout and pictures: invoice.pdf.",
    ]
    assert outgoing.cleaning == Cleaning({"mail address": 1, "card number": 1})


async def test_a_value_has_the_same_placeholder_in_a_document_as_in_the_question(masking: Masking) -> None:
    outgoing = await masking.outgoing(MaskingPolicy.MASK, INVOICE, prompt=f"who is {MAIL}?")

    placeholder = outgoing.texts[-1].removeprefix("who is ").removesuffix("?")
    assert placeholder in outgoing.files[0].content.decode()


@pytest.mark.parametrize("policy", [MaskingPolicy.MASK, MaskingPolicy.REFUSE])
async def test_a_document_without_findings_leaves_as_it_is_and_nothing_is_said(
    masking: Masking, policy: MaskingPolicy
) -> None:
    outgoing = await masking.outgoing(policy, TERMS)

    assert outgoing.files == [TERMS]
    assert outgoing.notes == []
    assert not outgoing.cleaning


async def test_office_documents_are_looked_through_as_well(masking: Masking) -> None:
    outgoing = await masking.outgoing(MaskingPolicy.MASK, SHEET)

    assert masking.documents.read_as == [DocumentForm.ZIP]
    assert [file.name for file in outgoing.files] == ["list.xlsx.masked.txt"]


async def test_a_long_file_leaves_time_for_those_after_it(masking: Masking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_prompt, "_FILES", Share(0.4, 0.4))
    long = PromptFile("long.txt", "text/plain", b"1234 " * 500_000)

    outgoing = await masking.outgoing(MaskingPolicy.MASK, long, INVOICE)

    assert [file.name for file in outgoing.files] == ["invoice.pdf.masked.txt"]
    assert outgoing.cleaning.left_out == {"files": 1}


async def test_a_refusal_names_the_files_and_no_value(masking: Masking) -> None:
    text = PromptFile(f"of {CARD}.txt", "text/plain", MAIL.encode())

    with pytest.raises(PromptRefusedError) as refused:
        await masking.outgoing(MaskingPolicy.REFUSE, TERMS, INVOICE, text)

    said = refused_for_content(EXECUTION, refused.value)
    words = said.error.message if said.error else ""
    assert "It was found in: invoice.pdf, of [card number " in words
    assert not [value for value in (CARD, MAIL, TERMS.name) if value in words]


@pytest.mark.parametrize("policy", [MaskingPolicy.MASK, MaskingPolicy.REFUSE])
@pytest.mark.parametrize("file", [LIST, TERMS], ids=["text", "document"])
async def test_a_file_that_there_is_no_time_to_look_through_is_held_back_and_that_is_said(
    masking: Masking, monkeypatch: pytest.MonkeyPatch, policy: MaskingPolicy, file: PromptFile
) -> None:
    """Somebody could have read it: it is not sent unseen as what nobody can read is."""
    monkeypatch.setattr(mask_prompt, "_FILES", NO_TIME)

    outgoing = await masking.outgoing(policy, file)

    assert outgoing.files == []
    (note,) = outgoing.notes
    assert note.startswith(f"Not passed on, as there was no time to check for sensitive data: {file.name}.")
    assert outgoing.cleaning == Cleaning(left_out={"files": 1})


async def test_what_nobody_can_read_is_told_apart_from_what_there_was_no_time_for(
    masking: Masking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_prompt, "_FILES", NO_TIME)

    outgoing = await masking.outgoing(MaskingPolicy.MASK, PHOTO, LIST)

    assert outgoing.files == [PHOTO]
    assert [note.partition(":")[0] for note in outgoing.notes] == [
        "Passed on without a check for sensitive data",
        "Not passed on, as there was no time to check for sensitive data",
    ]
    assert outgoing.cleaning == Cleaning(unread={"picture": 1}, left_out={"files": 1})


async def test_what_came_before_is_not_taken_from_the_time_of_files(masking: Masking) -> None:
    outgoing = await masking.mask_prompt.run(
        EXECUTION,
        MaskingPolicy.MASK,
        Masked(EXECUTION.prompt),
        context=[LONG],
        files=[INVOICE],
        by=asyncio.get_running_loop().time(),
    )

    assert [file.name for file in outgoing.files] == ["invoice.pdf.masked.txt"]


async def test_all_that_is_done_to_send_a_request_fits_its_turn() -> None:
    now = asyncio.get_running_loop().time()
    in_turn = [
        mask_prompt._QUESTION,
        mask_prompt.READING,
        mask_prompt._CONTEXT,
        mask_prompt._FILES,
        mask_prompt._EARLIER,
    ]

    assert sum(share.least_s for share in in_turn) <= MASKED_WITHIN_S
    assert MASKED_WITHIN_S + RunLimits().submit_timeout_s < BatchLimits().row_s
    for share, after in zip(in_turn, range(1, 6), strict=True):
        assert share.leaves_s == sum(later.least_s for later in in_turn[after:])
        assert share.ends_at(now + MASKED_WITHIN_S) == pytest.approx(now + share.most_s, abs=1)


@pytest.mark.parametrize("document", [INVOICE, SHEET], ids=["pdf", "xlsx"])
async def test_a_document_with_findings_is_refused_where_requests_are_refused(
    masking: Masking, document: PromptFile
) -> None:
    with pytest.raises(PromptRefusedError, match="mail address"):
        await masking.outgoing(MaskingPolicy.REFUSE, TERMS, document)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (SCAN, "without text"),
        (MIXED, "parts without text"),
        (PHOTO, "picture"),
        (PromptFile("said.mp3", "audio/mpeg", b"ID3"), "sound or video"),
        (PromptFile("old.hwp", "application/x-hwp", b"\xd0\xcf\x11\xe0\xa1\xb1"), "of another form"),
        (PromptFile("no.pdf", "application/pdf", b"no mark of a PDF"), "damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
async def test_what_nobody_can_look_through_leaves_where_it_is_masked_and_stays_where_it_is_refused(
    masking: Masking, file: PromptFile, reason: str
) -> None:
    masked = await masking.outgoing(MaskingPolicy.MASK, TERMS, file)
    refused = await masking.outgoing(MaskingPolicy.REFUSE, TERMS, file)

    assert masked.files == [TERMS, file]
    assert masked.notes == [f"Passed on without a check for sensitive data: {file.name}."]
    assert masked.cleaning == Cleaning(unread={reason: 1})
    assert refused.files == [TERMS]
    assert refused.notes == [f"Not passed on, as there was no way to check for sensitive data: {file.name}."]
    assert refused.cleaning == Cleaning(unread={reason: 1}, held_back=True)


async def test_where_everything_may_leave_nothing_is_read_and_nothing_is_said(masking: Masking) -> None:
    outgoing = await masking.outgoing(MaskingPolicy.OFF, INVOICE, PHOTO)

    assert outgoing == Outgoing(["read this"], (INVOICE, PHOTO))
    assert masking.documents.read_as == []


async def test_a_text_that_speaks_of_pdf_is_a_text(masking: Masking) -> None:
    notes = PromptFile("notes.txt", "text/plain", f"a file begins with %PDF-1.7, write to {MAIL}".encode())

    outgoing = await masking.outgoing(MaskingPolicy.MASK, notes)

    assert masking.documents.read_as == []
    assert outgoing.files[0].content.startswith(b"a file begins with %PDF-1.7, write to [mail address ")


async def test_a_drawing_that_is_text_is_masked_as_text(masking: Masking) -> None:
    drawing = PromptFile("logo.svg", "image/svg+xml", f"<svg><text>{MAIL}</text></svg>".encode())

    outgoing = await masking.outgoing(MaskingPolicy.MASK, drawing)

    assert MAIL.encode() not in outgoing.files[0].content
    assert outgoing.files[0].mime_type == "image/svg+xml"


async def test_earlier_turns_come_before_what_was_masked_already_and_are_counted_with_it(masking: Masking) -> None:
    outgoing = await masking.outgoing(MaskingPolicy.MASK, PHOTO, prompt=f"charge {CARD}", context=["the thread"])
    turns = EarlierTurns([Turn(f"I am {MAIL}, card {CARD}", "Hello")])
    history = await masking.earlier(turns)

    together = outgoing.after(history)

    assert "User: I am [" in together.texts[0]
    assert [text.split("[")[0] for text in together.texts[1:]] == ["the thread", "charge "]
    assert together.cleaning == Cleaning({"mail address": 1, "card number": 2}, unread={"picture": 1})
    assert (together.files, together.notes) == (outgoing.files, outgoing.notes)


async def test_earlier_turns_are_masked_before_they_are_compressed(masking: Masking) -> None:
    """Half of a number would be recognised by nobody."""
    turns = EarlierTurns([Turn(f"{number} {'x' * 150} {CARD}", "y" * 9_000) for number in range(20)])

    history = await masking.earlier(turns, max_bytes=4_000)

    assert "left out" in history.texts[0]
    assert CARD[:8] not in history.texts[0]


async def test_earlier_turns_that_there_is_no_time_to_mask_are_not_told(
    masking: Masking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that there were some is said, to the model, beside the answer and in the timeline."""
    monkeypatch.setattr(mask_prompt, "_EARLIER", NO_TIME)
    turns = EarlierTurns([Turn(LONG, "noted")] * 2, unread=3)

    history = await masking.earlier(turns)

    (text,) = history.texts
    assert text.endswith("\n(5 turns left out here)")
    (note,) = history.notes
    assert note.startswith("I left out earlier questions of this conversation with their answers (2): they could not")
    assert history.cleaning == Cleaning(left_out={"earlier turns": 2})
    outgoing = (await masking.outgoing(MaskingPolicy.MASK, PHOTO)).after(history)
    assert outgoing.notes[0] == note
    assert "photo.png" in outgoing.notes[1]


async def test_a_short_conversation_is_always_told(masking: Masking, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the loop: it waits for no thread, and needs none."""
    monkeypatch.setattr(mask_prompt, "_EARLIER", NO_TIME)
    turns = EarlierTurns([Turn(f"my card is {CARD}", "noted")] * 60)

    with no_thread_is_free():
        history = await masking.earlier(turns, max_bytes=24_000)

    assert history.texts[0].count("[card number ") == 60
    assert (history.notes, history.cleaning.left_out) == ((), {})


async def test_earlier_turns_do_not_wait_for_a_thread_for_longer_than_there_is_time(
    masking: Masking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_prompt, "_EARLIER", Share(0.05, 0.05))

    with no_thread_is_free():
        async with asyncio.timeout(_SOON_S):
            history = await masking.earlier(EarlierTurns([Turn(LONG, "noted")] * 2))

    assert history.cleaning.left_out == {"earlier turns": 2}


@pytest.mark.parametrize("policy", [MaskingPolicy.MASK, MaskingPolicy.REFUSE])
async def test_a_question_that_there_is_no_time_to_look_through_does_not_leave(
    masking: Masking, monkeypatch: pytest.MonkeyPatch, policy: MaskingPolicy
) -> None:
    monkeypatch.setattr(mask_prompt, "_QUESTION", NO_TIME)

    with pytest.raises(NotLookedThroughError):
        await masking.outgoing(policy, prompt=LONG)


@pytest.mark.parametrize("policy", [MaskingPolicy.MASK, MaskingPolicy.REFUSE])
async def test_a_thread_that_there_is_no_time_to_look_through_is_left_out_and_that_is_said(
    masking: Masking, monkeypatch: pytest.MonkeyPatch, policy: MaskingPolicy
) -> None:
    monkeypatch.setattr(mask_prompt, "_CONTEXT", NO_TIME)
    read = ["Of this long thread I took in its first message and the newest 5."]

    outgoing = await masking.outgoing(policy, PHOTO, prompt="what do they say?", context=[LONG], about_context=read)

    assert outgoing.texts == ["what do they say?"]
    assert outgoing.notes[0].startswith("I left out the earlier messages of this thread")
    assert "photo.png" in outgoing.notes[1]
    assert not set(read) & set(outgoing.notes)
    assert outgoing.cleaning.left_out == {"thread": 1}


@pytest.mark.parametrize("policy", list(MaskingPolicy))
async def test_what_was_not_read_of_a_thread_is_said_where_the_thread_goes_along(
    masking: Masking, policy: MaskingPolicy
) -> None:
    read = ["Of this long thread I took in its first message and the newest 5."]

    outgoing = await masking.outgoing(policy, context=["the thread"], about_context=read)

    assert outgoing.notes == read


async def test_whoever_looks_for_long_is_stopped_and_the_request_goes_on(
    masking: Masking, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()

    def watched(text: str, placeholders: Placeholders, *patience: Patience) -> Masked:
        try:
            return mask(text, placeholders, *patience)
        except OutOfTimeError:
            stopped.set()
            raise

    monkeypatch.setattr(mask_prompt, "mask", watched)
    monkeypatch.setattr(mask_prompt, "_CONTEXT", Share(0.05, 0.05))

    outgoing = await masking.outgoing(MaskingPolicy.MASK, context=["1234 " * 2_000_000])

    assert outgoing.texts == ["read this"]
    assert await asyncio.to_thread(stopped.wait, 30)


async def test_a_request_does_not_wait_for_a_thread_for_longer_than_there_is_time(
    masking: Masking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_prompt, "_CONTEXT", Share(0.05, 0.05))

    with no_thread_is_free():
        async with asyncio.timeout(_SOON_S):
            outgoing = await masking.outgoing(MaskingPolicy.MASK, context=[LONG])

    assert outgoing.texts == ["read this"]
    assert outgoing.cleaning.left_out == {"thread": 1}


async def test_short_texts_are_looked_through_however_little_time_there_is(
    masking: Masking, monkeypatch: pytest.MonkeyPatch
) -> None:
    for share in ("_QUESTION", "_CONTEXT"):
        monkeypatch.setattr(mask_prompt, share, NO_TIME)

    outgoing = await masking.outgoing(MaskingPolicy.MASK, prompt=f"charge {CARD}", context=[f"ask {MAIL}"])

    assert [text.split("[")[0] for text in outgoing.texts] == ["ask ", "charge "]
    assert outgoing.notes == []


async def test_people_are_told_in_their_language(masking: Masking) -> None:
    outgoing = await masking.outgoing(MaskingPolicy.MASK, PHOTO, prompt="이게 뭐예요?")

    assert outgoing.notes == ["민감 정보 검사 없이 전달된 파일: photo.png."]
