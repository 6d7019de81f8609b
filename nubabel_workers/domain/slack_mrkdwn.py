"""Standard markdown to mrkdwn, Slack's older dialect: for `text` fallbacks and context lines, where nothing else fits.

Source: https://docs.slack.dev/messaging/formatting-message-text
"""

from collections.abc import Sequence
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

_MARKERS = {"strong": "*", "em": "_", "s": "~"}
_BULLET = "•"
_RULE = "———"
_LINKABLE = ("http://", "https://", "mailto:")


def escape_mrkdwn(text: str) -> str:
    """Make text literal: afterwards nothing in it can be a mention, a link or a group notification."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def to_mrkdwn(markdown: str) -> str:
    """Render markdown as mrkdwn. Every `<` in the result is either escaped or opens a link to http, https or mailto."""
    return _Renderer().render(_parser().parse(markdown))


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


class _Renderer:
    """One walk over the flat token stream; containers are a stack, so that hostile nesting can't exhaust ours."""

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._containers: list[_Container] = []
        self._cells: list[str] | None = None
        self._rows: list[str] = []
        self._heading = False

    def render(self, tokens: Sequence[Token]) -> str:
        for token in tokens:
            self._take(token)
        return "".join(self._blocks).strip("\n")

    def _take(self, token: Token) -> None:
        if token.type in {"fence", "code_block"}:
            self._write(f"```\n{escape_mrkdwn(token.content.rstrip())}\n```")
        elif token.type == "inline":
            self._take_inline(token)
        elif token.type == "hr":
            self._write(_RULE)
        elif token.type == "html_block":
            self._write(escape_mrkdwn(token.content.strip()))
        elif token.type.startswith("heading_"):
            self._heading = token.nesting > 0
        else:
            self._take_container(token)
            self._take_table(token)

    def _take_container(self, token: Token) -> None:
        match token.type:
            case "bullet_list_open":
                self._containers.append(_Container("list"))
            case "ordered_list_open":
                start = token.attrGet("start")
                self._containers.append(_Container("list", number=int(start) if start is not None else 1))
            case "blockquote_open":
                self._containers.append(_Container("quote"))
            case "list_item_open":
                self._containers[-1].begin_item()
            case "bullet_list_close" | "ordered_list_close" | "blockquote_close":
                self._containers.pop()
            case _:
                pass

    def _take_table(self, token: Token) -> None:
        match token.type:
            case "tr_open":
                self._cells = []
            case "tr_close":
                self._rows.append(" | ".join(self._cells or []))
                self._cells = None
            case "table_close":
                self._write("```\n" + "\n".join(self._rows) + "\n```")
                self._rows = []
            case _:
                pass

    def _take_inline(self, token: Token) -> None:
        if self._cells is not None:
            self._cells.append(" ".join(_plain(token.children or []).split()))
            return
        text = _inline(token.children or [], bold=not self._heading)
        self._write(f"*{text}*" if self._heading and text else text)

    def _write(self, text: str) -> None:
        """Add one block behind the prefixes of the containers that it stands in."""
        lines = text.split("\n")
        for container in reversed(self._containers):
            lines = container.prefix(lines)
        if self._blocks:
            self._blocks.append("\n" if self._containers else "\n\n")
        self._blocks.append("\n".join(lines))


class _Container:
    """A list or a quote that blocks stand in. number: the next item's number of an ordered list."""

    def __init__(self, kind: str, *, number: int | None = None) -> None:
        self._kind = kind
        self._number = number
        self._marker = ""

    def begin_item(self) -> None:
        if self._number is None:
            self._marker = f"{_BULLET} "
        else:
            self._marker = f"{self._number}. "
            self._number += 1

    def prefix(self, lines: list[str]) -> list[str]:
        if self._kind == "quote":
            return [f"> {line}" if not line.startswith("> ") else line for line in lines]
        first, self._marker = self._marker or "    ", ""
        return [first + lines[0], *("    " + line for line in lines[1:])]


def _plain(tokens: Sequence[Token]) -> str:
    return escape_mrkdwn("".join(" " if token.type.endswith("break") else token.content for token in tokens))


def _inline(tokens: Sequence[Token], *, bold: bool) -> str:
    """bold: whether strong text gets its marker; a heading is bold already."""
    out: list[str] = []
    links: list[tuple[str, int]] = []  # (target, length of out when its label began)
    after_marker = False
    for token in tokens:
        kind = token.type.removesuffix("_open").removesuffix("_close")
        if kind in _MARKERS:
            if kind == "strong" and not bold:
                continue
            if token.nesting > 0 and out and out[-1][-1:].isalnum():
                out.append(" ")  # a marker that touches a letter does not render, which Korean particles run into
            out.append(_MARKERS[kind])
            after_marker = token.nesting < 0
            continue
        if token.type == "link_open":
            links.append((str(token.attrGet("href") or ""), len(out)))
            continue
        if token.type == "link_close":
            target, begin = links.pop()
            label = "".join(out[begin:])
            out[begin:] = [_link(target, label)]
            continue
        piece = _piece(token)
        if after_marker and piece[:1].isalnum():
            out.append(" ")
        after_marker = False
        if piece:
            out.append(piece)
    return "".join(out)


def _piece(token: Token) -> str:
    match token.type:
        case "softbreak" | "hardbreak":
            return "\n"
        case "code_inline":
            return f"`{escape_mrkdwn(token.content)}`"
        case "image":
            return _link(str(token.attrGet("src") or ""), escape_mrkdwn(token.content))
        case _:
            return escape_mrkdwn(token.content)


def _link(target: str, label: str) -> str:
    """A label that is itself an address is shown beside the real target, so that no link poses as another."""
    label = " ".join(label.split())
    address = escape_mrkdwn(target)
    if not target.startswith(_LINKABLE):
        return f"{label} ({address})" if target and label != address else label
    wire = address.replace("|", "%7C").replace("&lt;", "%3C").replace("&gt;", "%3E").replace(" ", "%20")
    if not label or label in {address, address.removeprefix("mailto:")}:
        return f"<{wire}>"
    if label.lower().startswith((*_LINKABLE, "www.")):
        return f"{label} (<{wire}>)"
    return f"<{wire}|{label}>"
