"""Documents whose text is known without reading them."""

from dataclasses import dataclass, field

from nubabel_workers.domain.documents import DocumentForm, DocumentText, Unread
from nubabel_workers.domain.findings import OutOfTimeError


@dataclass
class FakeDocuments:
    """texts: by content. read_as: the form that each was read as. Out of time when nothing is left to wait."""

    texts: dict[bytes, DocumentText | Unread] = field(default_factory=dict)
    read_as: list[DocumentForm] = field(default_factory=list)

    async def read(self, content: bytes, form: DocumentForm, *, timeout_s: float) -> DocumentText | Unread:
        self.read_as.append(form)
        if timeout_s <= 0:
            raise OutOfTimeError
        return self.texts[content]
