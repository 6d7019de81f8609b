"""Each document is read by a process of its own, which is ended when it takes too long and knows no secret of ours."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog

import nubabel_workers
from nubabel_workers.domain.documents import DocumentForm, DocumentText, Unread
from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.findings import OutOfTimeError

log = structlog.get_logger(__name__)

# Neither the directory it is started in nor anybody's own packages; where ours lie is all that it is told.
_COMMAND = (sys.executable, "-P", "-s", "-m", "nubabel_workers.adapters.documents")
_ENVIRONMENT = {"PYTHONPATH": str(Path(nubabel_workers.__file__).parents[1])}


class ProcessDocumentReader:
    """Implements ports.DocumentReader. At once as many as there is room for requests with files (`FileRoom`)."""

    def __init__(self, command: Sequence[str] = _COMMAND) -> None:
        self._command = command

    async def read(self, content: bytes, form: DocumentForm, *, timeout_s: float) -> DocumentText | Unread:
        try:
            async with asyncio.timeout(timeout_s):
                return await _read((*self._command, form.value), content)
        except TimeoutError:
            raise OutOfTimeError from None


async def _read(command: Sequence[str], content: bytes) -> DocumentText | Unread:
    process = await _start(command)
    try:
        said, _ = await process.communicate(content)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        returncode = await process.wait()
    if returncode == -signal.SIGXCPU:
        return Unread.TOO_LONG
    if returncode == -signal.SIGKILL or returncode > 0:  # the machine's fault, or our own, and not the document's
        log.error("document.reader_failed", exit_code=returncode)
        raise OutOfTimeError
    if returncode < 0:
        return Unread.DAMAGED  # whoever tries to read it dies of it
    found = json.loads(said)
    return Unread(found["unread"]) if "unread" in found else DocumentText(found["text"], found["unseen"])


async def _start(command: Sequence[str]) -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,  # Ctrl-C in the terminal is not for it
        )
    except OSError as error:
        raise TransientError(f"the process that reads documents cannot be started ({type(error).__name__})") from None
