"""What a prompt tells the simulated model to do: `[[delay=5]] [[tool=bash {"command":"ls"}]]`, anywhere in its text.

    [[delay=5]]            wait 5 s before the answer begins
    [[text=hello]]         answer exactly this (no `]]` inside)
    [[result]]             answer what the tools of the last step said
    [[tokens=200]]         answer 200 words
    [[gap=0.02]]           pause between words, seconds
    [[reasoning=20]]       think 20 words first
    [[usage=IN,OUT]]       token counts to report; a third number is the cached part of IN
    [[nousage]]            report none
    [[finish=length]]      how the text answer ends
    [[tool=NAME {json}]]   call a tool; several: one per model step, in order, then the text answer
    [[tools {"NAME": {…}}]]  several tool calls in one step; a list of arguments is several calls of that tool
    [[question]]           a call of OpenCode's `question` tool
    [[loop=NAME {json}]]   the same tool call in every step, for ever
    [[status=429]]         the model answers this HTTP status
    [[retry_after=2]]      with status: the header's seconds
    [[times=2]]            with status, overflow, hang, drop: only the first 2 model calls of this prompt misbehave
    [[overflow]]           the model's context is exceeded
    [[hang]]               no answer, ever; [[hang=mid]] after three words
    [[drop]]               the connection to the model breaks; [[drop=mid]] after three words
    [[badjson]]            the model's answer is broken
    [[goes_on]]            a next prompt without directives, like "continue", goes on with this one where it stopped

Values that make no sense are ignored: the text is a user's.
"""

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

_SIMPLE = re.compile(r"\[\[(\w+)(?:=([^\[\]{}]*))?\]\]")
_WITH_JSON = re.compile(r"\[\[(tool|loop)=([\w.\-]+)\s+(?=\{)|\[\[(tools)\s+(?=\{)")
_WORDS_BEFORE_TROUBLE = 3
_ECHO_LENGTH = 200
_PROMPT_TOKENS = 11
_MAX_WORDS = 100_000
TOOL_STEP_TOKENS = 5
_EVERY_TIME = 1_000_000_000
_QUESTION = {
    "questions": [
        {
            "question": "Which colour?",
            "header": "Colour",
            "options": [{"label": "Red", "description": "red"}, {"label": "Blue", "description": "blue"}],
        }
    ]
}

Trouble = Literal["at_once", "mid"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReportedUsage:
    """What a model says it consumed; cached tokens are part of the prompt's."""

    prompt: int
    completion: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Script:
    """How the simulated model behaves for one prompt."""

    delay_s: float | None = None
    text: str | None = None
    tells_result: bool = False
    tokens: int | None = None
    gap_s: float | None = None
    reasoning: int = 0
    usage: tuple[int, int, int] | None = None
    no_usage: bool = False
    finish: str = "stop"
    steps: tuple[tuple[ToolCall, ...], ...] = ()
    loop: ToolCall | None = None
    status: int | None = None
    retry_after_s: float | None = None
    times: int = _EVERY_TIME
    overflow: bool = False
    hang: Trouble | None = None
    drop: Trouble | None = None
    bad_json: bool = False
    goes_on: bool = False

    def tool_calls(self, steps_done: int) -> tuple[ToolCall, ...]:
        """The tool calls of the next step; none: the text answer is due."""
        if self.loop is not None:
            return (self.loop,)
        return self.steps[steps_done] if steps_done < len(self.steps) else ()

    def words(self, *, context_messages: int, last_text: str, default_tokens: int, tool_result: str = "") -> list[str]:
        """The answer, in the pieces in which it is streamed. Without a directive it shows the context's size."""
        if self.text is not None:
            return [self.text]
        if self.tells_result:
            return [tool_result]
        tokens = self.tokens if self.tokens is not None else default_tokens
        if tokens:
            return list(_numbered_words(tokens))
        return [word + " " for word in f"ECHO[{context_messages}]: {last_text[:_ECHO_LENGTH]}".split(" ")]

    def words_before_trouble(self, words: Sequence[str]) -> Sequence[str]:
        return words[:_WORDS_BEFORE_TROUBLE]

    def reported_usage(self, produced: int) -> ReportedUsage | None:
        if self.no_usage:
            return None
        if self.usage is not None:
            return ReportedUsage(*self.usage)
        return ReportedUsage(_PROMPT_TOKENS, produced)


_PLAIN = Script()


@functools.lru_cache(maxsize=16)
def _numbered_words(count: int) -> tuple[str, ...]:
    return tuple(f"word{n} " for n in range(count))


def script_of(text: str) -> Script:
    """The script that a prompt's text contains."""
    return _parsed(text) if "[[" in text else _PLAIN


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> Script:
    steps, loop, rest = _tool_directives(text)
    options: dict[str, str] = {}
    for match in _SIMPLE.finditer(rest):
        if match.group(1) == "question":
            steps.append((match.start(), (ToolCall("question", _QUESTION),)))
        else:
            options[match.group(1)] = match.group(2) or ""
    steps.sort(key=lambda step: step[0])
    return Script(
        delay_s=_number(options.get("delay")),
        text=options.get("text"),
        tells_result="result" in options,
        tokens=_limited(options.get("tokens")),
        gap_s=_number(options.get("gap")),
        reasoning=_limited(options.get("reasoning")) or 0,
        usage=_usage(options.get("usage")),
        no_usage="nousage" in options,
        finish=options.get("finish") or "stop",
        steps=tuple(calls for _, calls in steps),
        loop=loop,
        status=_whole(options.get("status")),
        retry_after_s=_number(options.get("retry_after")),
        times=_whole(options.get("times")) or _EVERY_TIME,
        overflow="overflow" in options,
        hang=_trouble(options.get("hang")),
        drop=_trouble(options.get("drop")),
        bad_json="badjson" in options,
        goes_on="goes_on" in options,
    )


def _tool_directives(text: str) -> tuple[list[tuple[int, tuple[ToolCall, ...]]], ToolCall | None, str]:
    """(steps with their places, loop, the text with these directives blanked): JSON arguments may hold directives for
    whoever reads them, a sub-agent for example.
    """
    decoder = json.JSONDecoder()
    steps: list[tuple[int, tuple[ToolCall, ...]]] = []
    loop: ToolCall | None = None
    rest, at = [], 0
    for match in _WITH_JSON.finditer(text):
        if match.start() < at:
            continue
        try:
            arguments, end = decoder.raw_decode(text, match.end())
        except ValueError:
            continue
        if match.group(3):
            steps.append((match.start(), tuple(call for item in arguments.items() for call in _calls(*item))))
        elif match.group(1) == "tool":
            steps.append((match.start(), (ToolCall(match.group(2), arguments),)))
        else:
            loop = ToolCall(match.group(2), arguments)
        rest.append(text[at : match.start()] + " " * (end - match.start()))
        at = end
    rest.append(text[at:])
    return steps, loop, "".join(rest)


def _calls(name: str, arguments: object) -> list[ToolCall]:
    several = arguments if isinstance(arguments, list) else [arguments]
    return [ToolCall(name, one if isinstance(one, dict) else {}) for one in several]


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < _EVERY_TIME else None


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _limited(text: str | None) -> int | None:
    count = _whole(text)
    return min(count, _MAX_WORDS) if count is not None else None


def _usage(text: str | None) -> tuple[int, int, int] | None:
    numbers = [_whole(part.strip()) for part in (text or "").split(",")]
    given = [number for number in numbers if number is not None]
    if len(given) != len(numbers) or len(given) not in {2, 3}:
        return None
    return given[0], given[1], given[2] if len(given) == 3 else 0  # noqa: PLR2004  # the optional third number


def _trouble(value: str | None) -> Trouble | None:
    if value is None:
        return None
    return "mid" if value == "mid" else "at_once"
