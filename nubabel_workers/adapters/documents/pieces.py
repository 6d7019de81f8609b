"""The pieces of a document's text, collected up to a length."""

from nubabel_workers.domain.documents import Unread

_MOST_CHARACTERS = 300_000  # some 100 pages; a model's context has room for little more


class NotReadableError(Exception):
    def __init__(self, reason: Unread) -> None:
        super().__init__(reason)
        self.reason = reason


class Pieces:
    """Raises NotReadableError when they get too long."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._room = _MOST_CHARACTERS

    def add(self, text: str, *, head: str = "") -> None:
        """A piece under its head; one without words is left out, head and all."""
        text = text.strip()
        if not text:
            return
        self._room -= len(text)
        if self._room < 0:
            raise NotReadableError(Unread.TOO_LONG)
        self._pieces.append(f"[{head}]\n{text}" if head else text)

    def __str__(self) -> str:
        return "\n\n".join(self._pieces).encode(errors="replace").decode()  # halves of surrogate pairs can't be sent
