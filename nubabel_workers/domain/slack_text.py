"""An answer in markdown as the messages that Slack takes: neutralised, split at sensible places, numbered. Pure.

Measured and documented limits behind the defaults: 12,000 characters over all markdown blocks of a message, about
13,000 over all blocks, about 4,000 bytes of `text` in an edit.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

from nubabel_workers.domain.slack_mrkdwn import to_mrkdwn

MAX_PART_CHARS: Final = 10_000
MAX_TEXT_BYTES: Final = 3_500  # of `text` where it may be edited later
FALLBACK_BYTES: Final = 300  # of `text` beside blocks, for notifications; rendering costs 1.3 ms per 1,000 characters
DEFAULT_MAX_PARTS: Final = 5
CUT_NOTE: Final = "_(The answer is longer than fits here: its last {left:,} characters are not shown.)_"

_JOINER: Final = "\u2060"  # invisible and without width: breaks Slack's syntax, leaves what people read
_CONTROL_SEQUENCE = re.compile(r"<(?=!(?:channel|here|everyone|group|subteam\^|date\^)|@[A-Z0-9])", re.IGNORECASE)
_GROUP_MENTION = re.compile(r"(?<![\w.])@(?=(?:channel|here|everyone|group)\b)", re.IGNORECASE)
_LABEL_ROOM: Final = 16  # "(12/34)" and the blank line after it
_CLOSING_ROOM: Final = 48  # a closing fence with what stands before it; longer ones are plain text to us
_MAX_REOPENED_CHARS: Final = 200  # of an opening fence or a table's header that is repeated in the next part
_MIN_PART_CHARS: Final = 1_000


def reply_parts(
    answer: str,
    *,
    max_parts: int = DEFAULT_MAX_PARTS,
    max_chars: int = MAX_PART_CHARS,
    cut_note: str = CUT_NOTE,
) -> tuple[str, ...]:
    """Split an answer into at most max_parts markdown messages of at most max_chars characters; an empty one has none.

    A fence or a table that fits into one message is never cut; one that doesn't is closed and opened again, with the
    same info string or header. What exceeds max_parts is left out and cut_note ({left}: characters) says so.
    Raises ValueError when max_chars is below 1,000, where numbers, fences and the note would leave no room for text.
    """
    if max_chars < _MIN_PART_CHARS or max_parts < 1:
        raise ValueError(f"at least one part of at least {_MIN_PART_CHARS} characters is needed")
    text = neutralise(answer).strip("\n").rstrip()
    if not text.strip():
        return ()
    bodies = [text] if len(text) <= max_chars else _split(text, max_parts, max_chars, cut_note)
    if len(bodies) > 1:
        bodies = [f"({number}/{len(bodies)})\n\n{body}" for number, body in enumerate(bodies, start=1)]
    return tuple(bodies)


def neutralise(text: str) -> str:
    """Make group notifications and mentions in a model's output inert, and drop what neither Slack nor we can store."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")
    text = text.encode("utf-8", "replace").decode("utf-8")
    return _GROUP_MENTION.sub(f"@{_JOINER}", _CONTROL_SEQUENCE.sub(f"<{_JOINER}", text))


def fallback_text(markdown: str, max_bytes: int = FALLBACK_BYTES) -> str:
    """The beginning of a markdown text as mrkdwn of at most max_bytes bytes of UTF-8."""
    return shorten(to_mrkdwn(markdown[:max_bytes]), max_bytes, always_mark=len(markdown) > max_bytes)


_HALF_ENTITY = re.compile(r"&[a-z]{0,3}$")
_HALF_LINK = re.compile(r"<[^<>]*$")


def shorten(mrkdwn: str, max_bytes: int = MAX_TEXT_BYTES, *, always_mark: bool = False) -> str:
    """Cut mrkdwn to max_bytes bytes of UTF-8, the ellipsis included, never inside a character, an escape or a link."""
    raw = mrkdwn.encode()
    if len(raw) <= max_bytes - 4 * always_mark:
        return f"{mrkdwn}…" if always_mark else mrkdwn
    kept = raw[: max_bytes - len("…".encode())].decode("utf-8", "ignore")
    return _HALF_ENTITY.sub("", _HALF_LINK.sub("", kept)).rstrip() + "…"


# --- splitting -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Protected:
    """A fence or a table: pieces [start, end). A table has no close."""

    start: int
    end: int
    reopen: str  # what a part that begins inside starts with
    close: str = ""  # what a part that ends inside ends with
    closed: bool = False  # whether the last line is a closing fence
    prefix: str = ""  # quote marks and indentation it stands behind; parts that begin inside leave them off


# How good a place for a cut is; any better one in the second half of the room wins.
_MID_LINE, _LINE_END, _LIST_ITEM, _BLOCK = 0, 1, 2, 3


def _split(text: str, max_parts: int, max_chars: int, cut_note: str) -> list[str]:
    note_room = len(cut_note.format(left=len(text))) + len("\n\n")
    beyond = len(text) - max_parts * max_chars  # never fits, whatever the structure: not worth parsing
    text = text[: max_parts * max_chars]
    part_room = max_chars - _LABEL_ROOM - _CLOSING_ROOM
    layout = _Layout(text, piece_room=part_room - _MAX_REOPENED_CHARS - note_room)
    bodies: list[str] = []
    begin = 0
    while begin < layout.count:
        room = part_room - len(layout.reopening(begin))
        if layout.length(begin, layout.count) <= room:
            bodies.append(layout.body(begin, layout.count))
            break
        if len(bodies) + 1 == max_parts:
            end = layout.best_cut(begin, room - note_room)
            note = cut_note.format(left=layout.length(end, layout.count) + max(beyond, 0))
            bodies.append(f"{layout.body(begin, end)}\n\n{note}")
            break
        end = layout.best_cut(begin, room)
        bodies.append(layout.body(begin, end))
        begin = end
    return [body for body in bodies if body.strip()]


class _Layout:
    """The text as pieces (lines; overlong ones in several), with what the markdown structure says about cutting."""

    def __init__(self, text: str, piece_room: int) -> None:
        lines = re.split(r"(?<=\n)", text)
        self._pieces: list[str] = []
        self._line_starts: list[int] = []  # line -> its first piece; one more entry for the end
        for line in lines:
            self._line_starts.append(len(self._pieces))
            self._pieces += _hard_wrapped(line, piece_room)
        self._line_starts.append(len(self._pieces))
        self._offsets = [0]
        for piece in self._pieces:
            self._offsets.append(self._offsets[-1] + len(piece))
        tokens = _block_parser().parse(text)
        self._quality = self._cut_qualities(tokens)
        self._protected = self._protected_pieces(tokens, lines)

    @property
    def count(self) -> int:
        return len(self._pieces)

    def length(self, begin: int, end: int) -> int:
        return self._offsets[end] - self._offsets[begin]

    def reach(self, begin: int, room: int) -> int:
        """The furthest end whose pieces fit into room characters; at least one piece, which always fits."""
        end = begin + 1
        while end < self.count and self.length(begin, end + 1) <= room:
            end += 1
        return end

    def best_cut(self, begin: int, room: int) -> int:
        furthest = self.reach(begin, room)
        latest: dict[int, int] = {}
        for cut in range(begin + 1, furthest + 1):
            if not self._forbidden(cut, room):
                latest[self._quality[cut]] = cut
        for quality in (_BLOCK, _LIST_ITEM):
            cut = latest.get(quality, begin)
            if self.length(begin, cut) * 2 >= room:
                return cut
        whole = [cut for quality, cut in latest.items() if quality > _MID_LINE]
        return max(whole, default=max(latest.values(), default=furthest))

    def _forbidden(self, cut: int, room: int) -> bool:
        """Inside a fence or table that fits into a part; right after its opening, or right before its closing line."""
        block = self._inside(cut)
        if block is None:
            return False
        if self.length(block.start, block.end) <= room:
            return True
        return cut == block.start + 1 or (block.closed and cut == block.end - 1)

    def _inside(self, cut: int) -> _Protected | None:
        block = self._protected.get(cut)
        return block if block is not None and cut > block.start else None

    def reopening(self, begin: int) -> str:
        block = self._inside(begin)
        return block.reopen if block is not None else ""

    def body(self, begin: int, end: int) -> str:
        opened, cut_open = self._inside(begin), self._inside(end) if end < self.count else None
        if opened is None:
            text = "".join(self._pieces[begin:end]).lstrip("\n")
        else:
            stop = min(end, opened.end)
            continued = (_dedented(piece, len(opened.prefix)) for piece in self._pieces[begin:stop])
            text = opened.reopen + "".join(continued) + "".join(self._pieces[stop:end])
        unclosed = cut_open or (self._last_unclosed() if end == self.count else None)
        text = text.rstrip("\n" if unclosed else None)
        if unclosed is None or not unclosed.close:
            return text
        return f"{text}\n{'' if unclosed is opened else unclosed.prefix}{unclosed.close}"

    def _last_unclosed(self) -> _Protected | None:
        block = self._protected.get(self.count - 1)
        return block if block is not None and block.close and not block.closed else None

    def _cut_qualities(self, tokens: Sequence[Token]) -> list[int]:
        quality = [_MID_LINE] * (self.count + 1)
        for start in self._line_starts:
            quality[start] = _LINE_END
        after_heading = False
        for token in tokens:
            if token.map is None or token.nesting < 0:
                continue
            start = self._line_starts[token.map[0]]
            if token.level == 0:
                quality[start] = _LINE_END if after_heading else _BLOCK
                after_heading = token.type == "heading_open"
            elif token.level == 1 and token.type == "list_item_open":
                quality[start] = max(quality[start], _LIST_ITEM)
        quality[self.count] = _BLOCK
        return quality

    def _protected_pieces(self, tokens: Sequence[Token], lines: Sequence[str]) -> dict[int, _Protected]:
        """A map from each piece of a fence or table to that fence or table."""
        owners: dict[int, _Protected] = {}
        for token in tokens:
            if token.map is None or token.type not in {"fence", "table_open"}:
                continue
            first, last = token.map
            start, end = self._line_starts[first], self._line_starts[last]
            block = (_fence if token.type == "fence" else _table)(token, lines[first:last], start, end)
            if len(f"\n{block.prefix}{block.close}") <= _CLOSING_ROOM:
                owners |= dict.fromkeys(range(start, end), block)
        return owners


def _fence(token: Token, lines: Sequence[str], start: int, end: int) -> _Protected:
    prefix = re.sub(r"[^>\s]", " ", lines[0][: max(lines[0].find(token.markup), 0)])
    last = lines[-1].strip(" \t>\n")
    closed = len(lines) > 1 and len(last) >= len(token.markup) and set(last) == {token.markup[0]}
    reopen = f"{token.markup}{token.info.strip()}"[: _MAX_REOPENED_CHARS - 1]
    return _Protected(start, end, reopen=f"{reopen}\n", close=token.markup, closed=closed, prefix=prefix)


def _table(token: Token, lines: Sequence[str], start: int, end: int) -> _Protected:
    header = "".join(lines[:2])
    fits = token.level == 0 and len(header) <= _MAX_REOPENED_CHARS
    return _Protected(start, end, reopen=header if fits else "")


def _dedented(piece: str, width: int) -> str:
    prefix = piece[:width]
    return piece[width:] if not prefix.strip(" \t>") else piece


# Korean, Japanese and Chinese text may end its sentences with full-width marks.
_SENTENCE_END = re.compile("[.!?\u3002\uff01\uff1f](?=\\s)")


def _hard_wrapped(line: str, room: int) -> list[str]:
    """Cut an overlong line behind a sentence, else at a space, else anywhere that is not inside a character cluster."""
    pieces: list[str] = []
    while len(line) > room:
        window = line[:room]
        ends = [match.end() for match in _SENTENCE_END.finditer(window, room // 2)]
        cut = ends[-1] if ends else window.rfind(" ", room // 2) + 1
        cut = cut or _cluster_start(line, room)
        pieces.append(line[:cut])
        line = line[cut:]
    return [*pieces, line]


_JOINS_PREVIOUS = re.compile("[\u0300-\u036f\u1160-\u11ff\u200d\ufe0f\U0001f3fb-\U0001f3ff]")


def _cluster_start(line: str, index: int) -> int:
    """The last place at or before index that doesn't separate a combining mark, a vowel or an emoji's modifier."""
    start = index
    while start > 1 and (_JOINS_PREVIOUS.match(line[start]) or line[start - 1] == "\u200d"):
        start -= 1
    return start if start > 1 else index


@cache
def _block_parser() -> MarkdownIt:
    """Blocks only: the inline rules cost most of the time and say nothing about where a text may be cut."""
    return MarkdownIt("commonmark").enable("table").disable("inline")
