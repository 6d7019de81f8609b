"""Each document is read in a process of its own: one that takes too long, or fails, does so alone."""

import asyncio
import sys
import time

import pytest

from nubabel_workers.adapters.documents.reader import ProcessDocumentReader
from nubabel_workers.domain.documents import DocumentForm, DocumentText, Unread
from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.findings import OutOfTimeError
from tests.documents import locked_pdf, packed_pdf, page_of, pdf

_LONG_S = 30.0
_TELL_ENVIRONMENT = "import json, os; print(json.dumps({'text': ' '.join(os.environ), 'unseen': 0}))"


def playing(program: str) -> ProcessDocumentReader:
    """With this program in place of the one that reads documents."""
    return ProcessDocumentReader((sys.executable, "-I", "-S", "-c", program))


async def test_what_the_process_finds_comes_back() -> None:
    reader = ProcessDocumentReader()

    assert await reader.read(pdf(page_of("a card")), DocumentForm.PDF, timeout_s=_LONG_S) == DocumentText(
        "[page 1]\na card"
    )
    assert await reader.read(locked_pdf("x", ""), DocumentForm.PDF, timeout_s=_LONG_S) is Unread.ENCRYPTED


async def test_a_document_that_takes_too_long_holds_nobody_up() -> None:
    slow = packed_pdf(b"BT /F1 1 Tf " + b"(a) Tj " * 2_000_000 + b"ET")
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    async with asyncio.TaskGroup() as tasks:
        heart = tasks.create_task(beat())
        began = time.monotonic()
        with pytest.raises(OutOfTimeError):
            await ProcessDocumentReader().read(slow, DocumentForm.PDF, timeout_s=0.5)
        took_s = time.monotonic() - began
        heart.cancel()

    assert took_s < 5
    assert beats > 10


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        pytest.param("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", Unread.TOO_LONG, id="at a limit"),
        pytest.param("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", Unread.DAMAGED, id="of the document"),
    ],
)
async def test_a_process_that_ends_early_takes_nobody_along(program: str, reason: Unread) -> None:
    assert await playing(program).read(b"a" * 5_000_000, DocumentForm.PDF, timeout_s=_LONG_S) is reason


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", id="for want of memory"),
        pytest.param("raise SystemExit(1)", id="by its own fault"),
    ],
)
async def test_a_process_that_does_not_get_to_read_says_nothing_of_the_document(program: str) -> None:
    with pytest.raises(OutOfTimeError):
        await playing(program).read(b"a" * 5_000_000, DocumentForm.PDF, timeout_s=_LONG_S)


async def test_the_process_knows_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUBABEL_DATABASE_URL", "postgresql://secret")

    found = await playing(_TELL_ENVIRONMENT).read(b"", DocumentForm.PDF, timeout_s=_LONG_S)

    assert isinstance(found, DocumentText)
    assert not [name for name in found.text.split() if name not in {"PYTHONPATH", "LC_CTYPE"}]


async def test_where_no_process_can_be_started_it_is_tried_again_later() -> None:
    with pytest.raises(TransientError, match="FileNotFoundError"):
        await ProcessDocumentReader(("/nowhere/python",)).read(b"", DocumentForm.PDF, timeout_s=_LONG_S)
