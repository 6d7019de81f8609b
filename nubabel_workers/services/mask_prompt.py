"""Take out of a prompt what must not leave this system: the question, its files, what is told along with it.

A file that nobody can look through leaves under `mask`, which every organization has without asking for it and which
must not cost it its screenshots; whoever chose `refuse` wants nothing to leave unseen, so there it is held back. What
somebody could look through, had there been time, leaves under neither: a question waits, the rest is left out. All of
it is said beside the answer and in the timeline.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from nubabel_workers.domain.documents import DocumentForm, Unread, form_of
from nubabel_workers.domain.earlier_turns import EarlierTurns, told
from nubabel_workers.domain.errors import NotLookedThroughError, PromptRefusedError
from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.findings import OutOfTimeError, Patience, SensitiveKind, endless
from nubabel_workers.domain.masked_turns import masked_turns
from nubabel_workers.domain.masking import Cleaning, Masked, MaskingPolicy, Placeholders, mask
from nubabel_workers.domain.ports import DocumentReader
from nubabel_workers.domain.prompts import PromptFile
from nubabel_workers.domain.wording import language_of, say

log = structlog.get_logger(__name__)

_AT_ONCE = 16_384  # characters; what is longer is read in another thread, so that the leases of others are renewed
MASKED_WITHIN_S: Final = 16.0  # of the beginning of a request's turn; see the shares below
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
class Share:
    """Seconds to look through something: least_s whatever the time is, most_s where leaves_s are left for the rest."""

    least_s: float
    most_s: float
    leaves_s: float = 0.0

    def ends_at(self, by: float) -> float:
        now = asyncio.get_running_loop().time()
        return max(now + self.least_s, min(now + self.most_s, by - self.leaves_s))


# The row of a request has 25 s to be sent: 2 + 5 + 1 + 4 + 1 at least for these, and no more than 16 together where
# the beginning was in time, 8 to post it, and one is left. Some 100 KB that are made to be slow take a third of a
# second alone, and as many times longer as there are such texts at once.
_QUESTION = Share(least_s=2.0, most_s=5.0, leaves_s=11.0)
READING: Final = Share(least_s=5.0, most_s=8.0, leaves_s=6.0)  # its thread and its files from Slack
_CONTEXT = Share(least_s=1.0, most_s=2.0, leaves_s=5.0)
_FILES = Share(least_s=4.0, most_s=10.0, leaves_s=1.0)  # one after another
_EARLIER = Share(least_s=1.0, most_s=5.0)  # all turns, with the wait for a thread
_LAST_STEP_S = 0.3  # from the end of the patience with earlier turns until there is what is masked by then


@dataclass(frozen=True)
class Outgoing:
    """What may leave. notes: what became of files, context and earlier turns, to be said beside the answer."""

    texts: Sequence[str] = ()
    files: Sequence[PromptFile] = ()
    notes: Sequence[str] = ()
    cleaning: Cleaning = field(default_factory=Cleaning)

    def after(self, earlier: "Outgoing") -> "Outgoing":
        """With texts that come before."""
        return replace(
            self,
            texts=[*earlier.texts, *self.texts],
            notes=[*earlier.notes, *self.notes],
            cleaning=self.cleaning.with_more(earlier.cleaning),
        )


@dataclass(frozen=True)
class _LookedAt:
    """A file and what may leave of it. unread: why nobody could tell what is in it, or in parts of it. out_of_time:
    whether anybody could is not known.
    """

    original: PromptFile
    cleaned: PromptFile
    counts: Mapping[SensitiveKind, int]
    unread: Unread | None = None
    as_text: bool = False
    out_of_time: bool = False


class MaskPrompt:
    """key: what placeholders are derived from; the same in every process."""

    def __init__(self, key: bytes, documents: DocumentReader) -> None:
        self._key = key
        self._documents = documents

    async def question(self, execution: Execution, policy: MaskingPolicy, *, by: float) -> Masked:
        """What of the question may leave. It comes first: without it nothing else is needed.

        by: of the loop's clock, when all should be masked, also what is read and told along with the question.

        Raises NotLookedThroughError when there is no time to look through it.
        """
        if policy is MaskingPolicy.OFF:
            return Masked(execution.prompt)
        try:
            return await _masked(execution.prompt, self._placeholders(execution), _QUESTION.ends_at(by))
        except OutOfTimeError:
            raise NotLookedThroughError("there was no time to look through the question for sensitive data") from None

    async def run(
        self,
        execution: Execution,
        policy: MaskingPolicy,
        question: Masked,
        *,
        context: Sequence[str],
        files: Sequence[PromptFile],
        by: float,
        about_context: Sequence[str] = (),
    ) -> Outgoing:
        """The context's texts and the question, in this order, and the files.

        question: masked under the same policy. by: as it had it. about_context: notes that are said where the context
        goes along.

        Raises PromptRefusedError when the policy is to refuse and the question or a file of it has a finding. Context
        was said by others, or long ago, and nobody can take it back: it is masked under either policy, or left out
        where there is no time for it.
        """
        if policy is MaskingPolicy.OFF:
            return Outgoing([*context, question.text], files, about_context)
        placeholders = self._placeholders(execution)
        around = await _around(context, placeholders, _CONTEXT.ends_at(by))
        looked_at = await self._look_at(files, placeholders, _FILES.ends_at(by))
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
        if len(around) < len(context):
            return _without_context(execution, outgoing)
        return replace(outgoing, notes=[*about_context, *outgoing.notes])

    async def earlier(
        self, execution: Execution, policy: MaskingPolicy, earlier: EarlierTurns, *, max_bytes: int, by: float
    ) -> Outgoing:
        """What was said before, to be told along with the question. No turns: nothing.

        Masked before it is compressed: half of a number would not be recognised any more. What is counted may stand in
        a part that is left out. Where there is no time to mask them all, fewer are told, or none, and that some are
        left out; a short conversation is always told. by: of the loop's clock.
        """
        if not earlier.turns:
            return Outgoing()
        if policy is MaskingPolicy.OFF:
            return Outgoing([told(earlier, max_bytes=max_bytes)])
        placeholders = self._placeholders(execution)
        masked, counts = await _masked_turns(earlier, placeholders, _EARLIER.ends_at(by))
        unmasked = len(earlier.turns) - len(masked.turns)
        outgoing = Outgoing([told(masked, max_bytes=max_bytes)], cleaning=Cleaning(_by_name(counts)))
        return _without_turns(execution, outgoing, unmasked) if unmasked else outgoing

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
                log.warning("masking.file_left_out", bytes=len(file.content))
                looked_at.append(replace(named, out_of_time=True))
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


async def _around(context: Sequence[str], placeholders: Placeholders, ends_at: float) -> list[Masked]:
    """As much of it as there is time for."""
    around = []
    for text in context:
        try:
            around.append(await _masked(text, placeholders, ends_at))
        except OutOfTimeError:
            log.warning("masking.context_left_out", characters=len(text))
    return around


def _without_context(execution: Execution, outgoing: Outgoing) -> Outgoing:
    note = say("context_unchecked", language_of(execution.prompt))
    return replace(
        outgoing,
        notes=[note, *outgoing.notes],
        cleaning=outgoing.cleaning.with_more(Cleaning(left_out={"thread": 1})),
    )


def _without_turns(execution: Execution, outgoing: Outgoing, left_out: int) -> Outgoing:
    note = say("turns_unchecked", language_of(execution.prompt), left_out=str(left_out))
    cleaning = replace(outgoing.cleaning, left_out={"earlier turns": left_out})
    return replace(outgoing, notes=[note], cleaning=cleaning)


def _outgoing(
    execution: Execution,
    texts: Sequence[str],
    looked_at: Sequence[_LookedAt],
    counts: Mapping[SensitiveKind, int],
    *,
    held_back: bool,
) -> Outgoing:
    unread = [file.unread for file in looked_at if file.unread is not None]
    out_of_time = sum(file.out_of_time for file in looked_at)
    return Outgoing(
        texts,
        [file.cleaned for file in looked_at if not (file.out_of_time or (held_back and file.unread))],
        _notes(execution, looked_at, held_back=held_back),
        Cleaning(
            _by_name(counts),
            Counter(reason.value for reason in unread),
            held_back=held_back and bool(unread),
            left_out={"files": out_of_time} if out_of_time else {},
        ),
    )


def _notes(execution: Execution, looked_at: Sequence[_LookedAt], *, held_back: bool) -> list[str]:
    """With the names that whoever sent the files knows them by."""
    said = {
        "files_held_back" if held_back else "files_unchecked": [file for file in looked_at if file.unread is not None],
        "files_not_in_time": [file for file in looked_at if file.out_of_time],
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


async def _masked_turns(
    earlier: EarlierTurns, placeholders: Placeholders, ends_at: float
) -> tuple[EarlierTurns, Mapping[SensitiveKind, int]]:
    """As many as can be masked by then. A short conversation is masked at once; a longer one waits for a thread, no
    longer than until then either: where none was free, nothing is masked.
    """
    if sum(len(turn.question) + len(turn.answer) for turn in earlier.turns) <= _AT_ONCE:
        return masked_turns(earlier, placeholders, endless)
    patience = _until(ends_at - _LAST_STEP_S)
    try:
        async with asyncio.timeout_at(ends_at):
            return await asyncio.to_thread(masked_turns, earlier, placeholders, patience)
    except TimeoutError:
        return EarlierTurns(unread=earlier.unread + len(earlier.turns)), {}


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
