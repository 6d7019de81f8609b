"""Take out of a prompt what must not leave this system: the question, its files, what is told along with it."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nubabel_workers.domain.errors import PromptRefusedError
from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.findings import SensitiveKind
from nubabel_workers.domain.masking import Masked, MaskingPolicy, Placeholders, mask
from nubabel_workers.domain.prompts import PromptFile

_AT_ONCE = 16_384  # characters; what is longer is read in another thread, so that the leases of others are renewed
_BINARY = ("image/", "audio/", "video/", "font/", "application/pdf", "application/zip")


@dataclass(frozen=True)
class Outgoing:
    """What may leave. counts: what was masked in it, by kind."""

    texts: Sequence[str] = ()
    files: Sequence[PromptFile] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


class MaskPrompt:
    """key: what placeholders are derived from; the same in every process."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    async def run(
        self,
        execution: Execution,
        policy: MaskingPolicy,
        *,
        context: Sequence[str],
        files: Sequence[PromptFile],
    ) -> Outgoing:
        """The context's texts and the question, in this order, and the files.

        Raises PromptRefusedError when the policy is to refuse and the question or a file of it has a finding. Context
        was said by others, or long ago, and nobody can take it back: it is masked under either policy.
        """
        if policy is MaskingPolicy.OFF:
            return Outgoing([*context, execution.prompt], files)
        placeholders = Placeholders(self._key, execution.session_id)
        question = await _masked(execution.prompt, placeholders)
        cleaned = [await _masked_file(file, placeholders) for file in files]
        own = _sum([question.counts, *(counts for _, counts in cleaned)])
        if own and policy is MaskingPolicy.REFUSE:
            raise PromptRefusedError(sorted(own))
        around = [await _masked(text, placeholders) for text in context]
        counts = {kind.value: count for kind, count in _sum([own, *(one.counts for one in around)]).items()}
        return Outgoing([*(one.text for one in around), question.text], [file for file, _ in cleaned], counts)


def _sum(counts: Iterable[Mapping[SensitiveKind, int]]) -> Mapping[SensitiveKind, int]:
    return sum(map(Counter, counts), Counter())


async def _masked(text: str, placeholders: Placeholders) -> Masked:
    if len(text) <= _AT_ONCE:
        return mask(text, placeholders)
    return await asyncio.to_thread(mask, text, placeholders)


async def _masked_file(file: PromptFile, placeholders: Placeholders) -> tuple[PromptFile, Mapping[SensitiveKind, int]]:
    """Its name and, where it is text, what is in it. What cannot be read as text stays as it is."""
    name = mask(file.name, placeholders)
    text = _text_of(file)
    content = Masked("") if text is None else await _masked(text, placeholders)
    changed = replace(file, name=name.text)
    if content.counts:
        mime_type = file.mime_type.partition(";")[0].strip()  # what it said of its letters is not true any more
        changed = replace(changed, content=content.text.encode(), mime_type=mime_type)
    return changed, _sum([name.counts, content.counts])


def _text_of(file: PromptFile) -> str | None:
    """None: it is no text. Text that is no UTF-8 may be of an old Korean system."""
    if file.mime_type.startswith(_BINARY):
        return None
    marked = file.content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16" if marked else "utf-8-sig", *(("cp949",) if file.mime_type.startswith("text/") else ())):
        try:
            text = file.content.decode(encoding)
        except UnicodeDecodeError:
            continue
        return None if "\0" in text else text
    return None
