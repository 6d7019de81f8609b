"""Take out of a prompt what must not leave this system: the question, its files, what is told along with it.

A file that nobody can look through leaves under `mask`, which every organization has without asking for it and which
must not cost it its screenshots; whoever chose `refuse` wants nothing to leave unseen, so there it is held back. Either
is said beside the answer and in the timeline.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from nubabel_workers.domain.documents import DocumentForm, Unread, form_of
from nubabel_workers.domain.earlier_turns import EarlierTurns, told
from nubabel_workers.domain.errors import NotLookedThroughError, PromptRefusedError
from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.findings import OutOfTimeError, Patience, SensitiveKind
from nubabel_workers.domain.masked_turns import masked_turns
from nubabel_workers.domain.masking import Cleaning, Masked, MaskingPolicy, Placeholders, mask
from nubabel_workers.domain.ports import DocumentReader
from nubabel_workers.domain.prompts import PromptFile
from nubabel_workers.domain.wording import language_of, say

log = structlog.get_logger(__name__)

_AT_ONCE = 16_384  # characters; what is longer is read in another thread, so that the leases of others are renewed
# The row of a request has 25 s to be sent. Some 100 KB that are made to be slow take a third of a second alone, and as
# many times longer as there are such texts at once.
_LOOK_S = 10.0  # at question, context and files, one after another
_QUESTION_S = 5.0  # out of these
_CONTEXT_S = 2.0  # out of these
_EARLIER_S = 5.0  # at all earlier turns, beside these
_TEXTUAL = ("image/svg",)
_BINARY = {
    "image/": Unread.PICTURE,
    "audio/": Unread.RECORDING,
    "video/": Unread.RECORDING,
    "font/": Unread.OTHER,
    "application/pdf": Unread.DAMAGED,  # by its content it is none
    "application/zip": Unread.ARCHIVE,
}


@dataclass(frozen=True)
class Outgoing:
    """What may leave. notes: what became of files and context, to be said beside the answer."""

    texts: Sequence[str] = ()
    files: Sequence[PromptFile] = ()
    notes: Sequence[str] = ()
    cleaning: Cleaning = field(default_factory=Cleaning)

    def after(self, earlier: "Outgoing") -> "Outgoing":
        """With texts that come before."""
        return replace(self, texts=[*earlier.texts, *self.texts], cleaning=self.cleaning.with_more(earlier.cleaning))


@dataclass(frozen=True)
class _LookedAt:
    """A file and what may leave of it. unread: why nobody could tell what is in it, or in parts of it."""

    original: PromptFile
    cleaned: PromptFile
    counts: Mapping[SensitiveKind, int]
    unread: Unread | None = None
    as_text: bool = False


class MaskPrompt:
    """key: what placeholders are derived from; the same in every process."""

    def __init__(self, key: bytes, documents: DocumentReader) -> None:
        self._key = key
        self._documents = documents

    async def run(
        self,
        execution: Execution,
        policy: MaskingPolicy,
        *,
        context: Sequence[str],
        files: Sequence[PromptFile],
    ) -> Outgoing:
        """The context's texts and the question, in this order, and the files.

        Raises PromptRefusedError when the policy is to refuse and the question or a file of it has a finding, and
        NotLookedThroughError when there is no time to look through the question. Context was said by others, or long
        ago, and nobody can take it back: it is masked under either policy, or left out where there is no time for it.
        """
        if policy is MaskingPolicy.OFF:
            return Outgoing([*context, execution.prompt], files)
        placeholders = self._placeholders(execution)
        clock = asyncio.get_running_loop().time
        ends_at = clock() + _LOOK_S
        question = await _question(execution, placeholders, min(ends_at, clock() + _QUESTION_S))
        around = await _around(context, placeholders, min(ends_at, clock() + _CONTEXT_S))
        looked_at = await self._look_at(files, placeholders, ends_at)
        own = _sum([question.counts, *(file.counts for file in looked_at)])
        if own and policy is MaskingPolicy.REFUSE:
            found_in = [mask(file.original.name, placeholders).text for file in looked_at if file.counts]
            raise PromptRefusedError(sorted(own), files=found_in)
        outgoing = _outgoing(
            execution,
            [*(one.text for one in around), question.text],
            looked_at,
            _sum([own, *(one.counts for one in around)]),
            held_back=policy is MaskingPolicy.REFUSE,
        )
        left_out = len(context) - len(around)
        return _without_context(execution, outgoing, left_out) if left_out else outgoing

    async def earlier(
        self, execution: Execution, policy: MaskingPolicy, earlier: EarlierTurns, *, max_bytes: int
    ) -> Outgoing:
        """What was said before, to be told along with the question. No turns: nothing.

        Masked before it is compressed: half of a number would not be recognised any more. What is counted may stand in
        a part that is left out. Where there is no time to mask them all, fewer are told, or none, and that some are
        left out.
        """
        if not earlier.turns:
            return Outgoing()
        if policy is MaskingPolicy.OFF:
            return Outgoing([told(earlier, max_bytes=max_bytes)])
        placeholders = self._placeholders(execution)
        patience = _until(asyncio.get_running_loop().time() + _EARLIER_S)
        masked, counts = await asyncio.to_thread(masked_turns, earlier, placeholders, patience)
        unmasked = len(earlier.turns) - len(masked.turns)
        left_out = {"earlier turns": unmasked} if unmasked else {}
        return Outgoing([told(masked, max_bytes=max_bytes)], cleaning=Cleaning(_by_name(counts), left_out=left_out))

    def _placeholders(self, execution: Execution) -> Placeholders:
        return Placeholders(self._key, execution.session_id)

    async def _look_at(
        self, files: Sequence[PromptFile], placeholders: Placeholders, ends_at: float
    ) -> list[_LookedAt]:
        loop = asyncio.get_running_loop()
        looked_at = []
        for number, file in enumerate(files):
            until = loop.time() + (ends_at - loop.time()) / (len(files) - number)  # there is time left for each
            name = mask(file.name, placeholders)
            named = _LookedAt(file, replace(file, name=name.text), name.counts)
            form = form_of(file.content, file.mime_type)
            try:
                if form is None:
                    looked_at.append(await _text_file(named, placeholders, until))
                else:
                    looked_at.append(await self._document(named, form, placeholders, until))
            except OutOfTimeError:
                looked_at.append(replace(named, unread=Unread.TOO_LONG))
        return looked_at

    async def _document(
        self, named: _LookedAt, form: DocumentForm, placeholders: Placeholders, ends_at: float
    ) -> _LookedAt:
        """As it is, or as its masked text: nobody can take words out of a document and leave the rest as it was."""
        timeout_s = ends_at - asyncio.get_running_loop().time()
        found = await self._documents.read(named.original.content, form, timeout_s=max(timeout_s, 0))
        if isinstance(found, Unread):
            return replace(named, unread=found)
        content = await _masked(found.text, placeholders, ends_at)
        if not content.counts:
            return replace(named, unread=Unread.PARTS if found.unseen else None)
        name = named.cleaned.name
        head = f"[The text of {name}. Sensitive data is masked; layout, pictures and parts without text are left out.]"
        text = PromptFile(f"{name}.masked.txt", "text/plain", f"{head}\n\n{content.text}".encode())
        return replace(named, cleaned=text, counts=_sum([named.counts, content.counts]), as_text=True)


async def _question(execution: Execution, placeholders: Placeholders, ends_at: float) -> Masked:
    try:
        return await _masked(execution.prompt, placeholders, ends_at)
    except OutOfTimeError:
        raise NotLookedThroughError("there was no time to look through the question for sensitive data") from None


async def _around(context: Sequence[str], placeholders: Placeholders, ends_at: float) -> list[Masked]:
    """As much of it as there is time for."""
    around = []
    for text in context:
        try:
            around.append(await _masked(text, placeholders, ends_at))
        except OutOfTimeError:
            log.warning("masking.context_left_out", characters=len(text))
    return around


def _without_context(execution: Execution, outgoing: Outgoing, left_out: int) -> Outgoing:
    note = say("context_unchecked", language_of(execution.prompt))
    cleaning = replace(outgoing.cleaning, left_out={"the thread's earlier messages": left_out})
    return replace(outgoing, notes=[note, *outgoing.notes], cleaning=cleaning)


def _outgoing(
    execution: Execution,
    texts: Sequence[str],
    looked_at: Sequence[_LookedAt],
    counts: Mapping[SensitiveKind, int],
    *,
    held_back: bool,
) -> Outgoing:
    unread = [file.unread for file in looked_at if file.unread is not None]
    return Outgoing(
        texts,
        [file.cleaned for file in looked_at if not (held_back and file.unread)],
        _notes(execution, looked_at, held_back=held_back),
        Cleaning(_by_name(counts), Counter(reason.value for reason in unread), held_back=held_back and bool(unread)),
    )


def _notes(execution: Execution, looked_at: Sequence[_LookedAt], *, held_back: bool) -> list[str]:
    """With the names that whoever sent the files knows them by."""
    said = {
        "files_held_back" if held_back else "files_unchecked": [file for file in looked_at if file.unread is not None],
        "files_as_text": [file for file in looked_at if file.as_text],
    }
    language = language_of(execution.prompt)
    return [
        say(key, language, names=", ".join(file.original.name for file in files))
        for key, files in said.items()
        if files
    ]


def _sum(counts: Iterable[Mapping[SensitiveKind, int]]) -> Mapping[SensitiveKind, int]:
    return sum(map(Counter, counts), Counter())


def _by_name(counts: Mapping[SensitiveKind, int]) -> Mapping[str, int]:
    return {kind.value: count for kind, count in counts.items()}


async def _masked(text: str, placeholders: Placeholders, ends_at: float) -> Masked:
    """ends_at: of the loop's clock; what is long, and may wait for a thread as well, raises OutOfTimeError then."""
    if len(text) <= _AT_ONCE:
        return mask(text, placeholders)
    try:
        async with asyncio.timeout_at(ends_at):
            return await asyncio.to_thread(mask, text, placeholders, _until(ends_at))
    except TimeoutError:
        raise OutOfTimeError from None


def _until(ends_at: float) -> Patience:
    clock = asyncio.get_running_loop().time

    def patience() -> None:
        if clock() > ends_at:
            raise OutOfTimeError

    return patience


async def _text_file(named: _LookedAt, placeholders: Placeholders, ends_at: float) -> _LookedAt:
    """What cannot be read as text stays as it is."""
    text = _text_of(named.original)
    if isinstance(text, Unread):
        return replace(named, unread=text)
    content = await _masked(text, placeholders, ends_at)
    if not content.counts:
        return named
    mime_type = named.original.mime_type.partition(";")[0].strip()  # what it said of its letters is not true any more
    cleaned = replace(named.cleaned, content=content.text.encode(), mime_type=mime_type)
    return replace(named, cleaned=cleaned, counts=_sum([named.counts, content.counts]))


def _text_of(file: PromptFile) -> str | Unread:
    """Text that is no UTF-8 may be of an old Korean system."""
    if not file.mime_type.startswith(_TEXTUAL):
        for beginning, reason in _BINARY.items():
            if file.mime_type.startswith(beginning):
                return reason
    marked = file.content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16" if marked else "utf-8-sig", *(("cp949",) if file.mime_type.startswith("text/") else ())):
        try:
            text = file.content.decode(encoding)
        except UnicodeDecodeError:
            continue
        return Unread.OTHER if "\0" in text else text
    return Unread.OTHER
