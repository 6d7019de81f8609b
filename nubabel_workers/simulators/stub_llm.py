"""An OpenAI-compatible model for tests against a real OpenCode server: `python -m nubabel_workers.simulators.stub_llm`.

It does what the last user message tells it (see `opencode.directives`); without directives it answers
`ECHO[n]: <last user text>`, n being the number of messages in the request. OpenCode's own helper requests (title,
summary) carry no tools and are told apart by their system prompt; they ignore all directives.

    GET /_stats     {"requests", "main", "aux", "active", "peak"}: how often the model was really called
    GET /_requests  what the latest requests looked like
"""

import argparse
import asyncio
import hashlib
import itertools
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from nubabel_workers.simulators.opencode.directives import (
    TOOL_STEP_TOKENS,
    ReportedUsage,
    Script,
    ToolCall,
    script_of,
)

_MAX_REQUEST_BYTES = 64 * 1024 * 1024
_REMEMBERED_REQUESTS = 200
_REMEMBERED_PROMPTS = 10_000
_OVERFLOW = (
    "This model's maximum context length is 100000 tokens. However, your messages resulted in 120000 tokens. "
    "Please reduce the length of the messages."
)


@dataclass(frozen=True, slots=True)
class _Request:
    """What OpenCode asks the model. kind: main, title or summary."""

    kind: str
    last_text: str
    messages: int
    steps_done: int  # tool steps since the last user message
    tool_result: str  # what the tools of the last of them said
    stream: bool


class StubLlm:
    """The model's answers and its counters."""

    def __init__(self, *, delay_s: float = 0.0, tokens: int = 0) -> None:
        """delay_s, tokens: for prompts that say nothing about them; 0 tokens is the echo."""
        self.stats: Counter[str] = Counter(requests=0, main=0, aux=0, active=0, peak=0)
        self.recent: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED_REQUESTS)
        self.on_request: Callable[[dict[str, Any]], None] | None = None  # sees each request's body
        self.before_answer: Callable[[], Awaitable[None]] | None = None  # each answer to a prompt waits for it
        self._delay_s = delay_s
        self._tokens = tokens
        self._seen: dict[str, int] = {}  # prompt -> model calls for it so far
        self._call_ids = itertools.count(1)

    def application(self) -> web.Application:
        application = web.Application(client_max_size=_MAX_REQUEST_BYTES)
        application.router.add_post("/v1/chat/completions", self._completions)
        application.router.add_get("/v1/models", self._models)
        application.router.add_get("/_stats", self._stats)
        application.router.add_get("/_requests", self._requests)
        return application

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "echo", "object": "model"}]})

    async def _stats(self, _request: web.Request) -> web.Response:
        return web.json_response(dict(self.stats))

    async def _requests(self, _request: web.Request) -> web.Response:
        return web.json_response(list(self.recent))

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        if self.on_request is not None:
            self.on_request(body)
        asked = _request_of(body)
        self._count(asked, body, dict(request.headers))
        try:
            return await self._answer(request, asked)
        finally:
            self.stats["active"] -= 1

    def _count(self, asked: _Request, body: dict[str, Any], headers: dict[str, str]) -> None:
        self.stats["requests"] += 1
        self.stats["main" if asked.kind == "main" else "aux"] += 1
        self.stats["active"] += 1
        self.stats["peak"] = max(self.stats["peak"], self.stats["active"])
        tools = [tool.get("function", {}).get("name") for tool in body.get("tools") or []]
        self.recent.append(
            {
                "kind": asked.kind,
                "last": asked.last_text,
                "roles": [message.get("role") for message in body.get("messages", [])],
                "tools": tools,
                "session": headers.get("x-session-id"),
            }
        )

    async def _answer(self, request: web.Request, asked: _Request) -> web.StreamResponse:
        reply = _Reply(request, stream=asked.stream)
        if asked.kind != "main":
            text = "Stub title" if asked.kind == "title" else "Stub summary"
            return await reply.text([text], gap_s=0, usage=ReportedUsage(11, 2), finish="stop")
        script = script_of(asked.last_text)
        prompt = hashlib.sha256(asked.last_text.encode()).hexdigest()
        misbehaves = self._times_seen(prompt) <= script.times
        if self.before_answer is not None:
            await self.before_answer()
        await asyncio.sleep(self._delay_s if script.delay_s is None else script.delay_s)
        words = script.words(
            context_messages=asked.messages,
            last_text=asked.last_text,
            default_tokens=self._tokens,
            tool_result=asked.tool_result,
        )
        if misbehaves and (trouble := await reply.trouble(script, words)) is not None:
            return trouble
        await reply.think(script.reasoning)
        if calls := script.tool_calls(asked.steps_done):
            numbered = [(f"call_{prompt[:8]}_{next(self._call_ids)}", call) for call in calls]
            return await reply.tool_calls(numbered, usage=script.reported_usage(TOOL_STEP_TOKENS))
        usage = script.reported_usage(len(words))
        return await reply.text(words, gap_s=script.gap_s or 0, usage=usage, finish=script.finish)

    def _times_seen(self, prompt: str) -> int:
        times = self._seen.get(prompt, 0) + 1
        self._seen[prompt] = times
        if len(self._seen) > _REMEMBERED_PROMPTS:
            del self._seen[next(iter(self._seen))]
        return times


class _Reply:
    """Writes one completion, streamed or whole."""

    def __init__(self, request: web.Request, *, stream: bool) -> None:
        self._request = request
        self._stream = stream
        self._response = web.StreamResponse(headers={"content-type": "text/event-stream"})

    async def text(
        self, words: Sequence[str], *, gap_s: float, usage: ReportedUsage | None, finish: str
    ) -> web.StreamResponse:
        if not self._stream:
            return _whole({"role": "assistant", "content": "".join(words)}, finish, usage)
        await self._prepare()
        for word in words:
            await self._chunk({"content": word})
            if gap_s:
                await asyncio.sleep(gap_s)
        return await self._end(finish, usage)

    async def think(self, words: int) -> None:
        if words and self._stream:
            await self._prepare()
            for n in range(words):
                await self._chunk({"reasoning_content": f"think{n} "})

    async def tool_calls(
        self, calls: Sequence[tuple[str, ToolCall]], *, usage: ReportedUsage | None
    ) -> web.StreamResponse:
        told = [
            {
                "index": index,
                "id": call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for index, (call_id, call) in enumerate(calls)
        ]
        if not self._stream:
            return _whole({"role": "assistant", "content": "", "tool_calls": told}, "tool_calls", usage)
        await self._prepare()
        for call in told:
            await self._chunk({"tool_calls": [call]})
        return await self._end("tool_calls", usage)

    async def trouble(self, script: Script, words: Sequence[str]) -> web.StreamResponse | None:
        """The misbehaviour that the script asks for; None: it asks for none."""
        if (refusal := _refusal(script)) is not None:
            return refusal
        if script.bad_json:
            return await self._broken()
        if script.hang is None and script.drop is None:
            return None
        if "mid" in {script.hang, script.drop}:
            await self._prepare()
            for word in script.words_before_trouble(words):
                await self._chunk({"content": word})
        if script.hang is not None:
            await asyncio.Event().wait()  # until the caller goes away
        if script.drop == "mid":  # a stream that ends without its end
            await self._response.write_eof()
            return self._response
        if self._request.transport is not None:
            self._request.transport.close()
        return self._response

    async def _broken(self) -> web.StreamResponse:
        await self._prepare(role=False)
        await self._response.write(b"data: {this is not json\n\n")
        await self._response.write_eof()
        return self._response

    async def _prepare(self, *, role: bool = True) -> None:
        if not self._response.prepared:
            await self._response.prepare(self._request)
            if role:
                await self._chunk({"role": "assistant", "content": ""})

    async def _chunk(
        self, delta: dict[str, Any], finish: str | None = None, usage: ReportedUsage | None = None
    ) -> None:
        chunk: dict[str, Any] = {
            "id": "chatcmpl-stub",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": "echo",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
        if usage is not None:
            chunk["usage"] = _usage(usage)
        await self._response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    async def _end(self, finish: str, usage: ReportedUsage | None) -> web.StreamResponse:
        await self._chunk({}, finish, usage)
        await self._response.write(b"data: [DONE]\n\n")
        await self._response.write_eof()
        return self._response


def _request_of(body: dict[str, Any]) -> _Request:
    messages = body.get("messages", [])
    last_text, last_at = "", -1
    for at, message in enumerate(messages):
        if message.get("role") == "user":
            last_text, last_at = _text_of(message.get("content")), at
    since = messages[last_at + 1 :]
    steps = sum(1 for m in since if m.get("role") == "assistant" and m.get("tool_calls"))
    results = itertools.takewhile(lambda m: m.get("role") == "tool", reversed(since))
    said = "\n".join(reversed([_text_of(m.get("content")) for m in results]))
    return _Request(_kind_of(body), last_text, len(messages), steps, said, stream=bool(body.get("stream")))


def _kind_of(body: dict[str, Any]) -> str:
    if body.get("tools"):
        return "main"
    system = " ".join(
        _text_of(m.get("content")) for m in body.get("messages", []) if m.get("role") in {"system", "developer"}
    )
    start = system[:300].lower()
    if "title generator" in start:
        return "title"
    return "summary" if "summar" in start else "main"


def _text_of(content: object) -> str:
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _refusal(script: Script) -> web.Response | None:
    if script.status is not None:
        headers = {"retry-after": f"{script.retry_after_s:g}"} if script.retry_after_s is not None else {}
        message = f"stub error {script.status}"
        error: dict[str, Any] = {"message": message, "type": "stub_error", "code": str(script.status)}
        return web.json_response({"error": error}, status=script.status, headers=headers)
    if script.overflow:
        error = {
            "message": _OVERFLOW,
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
        return web.json_response({"error": error}, status=400)
    return None


def _usage(usage: ReportedUsage) -> dict[str, Any]:
    told: dict[str, Any] = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
    }
    if usage.cached:
        told["prompt_tokens_details"] = {"cached_tokens": usage.cached}
    return told


def _whole(message: dict[str, Any], finish: str, usage: ReportedUsage | None) -> web.Response:
    answer: dict[str, Any] = {
        "id": "chatcmpl-stub",
        "object": "chat.completion",
        "created": 0,
        "model": "echo",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }
    if usage is not None:
        answer["usage"] = _usage(usage)
    return web.json_response(answer)


@asynccontextmanager
async def stub_llm(
    *, host: str = "127.0.0.1", port: int = 0, delay_s: float = 0.0, tokens: int = 0
) -> AsyncIterator[tuple[StubLlm, str]]:
    """Serve until the block ends; gives the model and its base URL (without `/v1`). port 0: a free one."""
    llm = StubLlm(delay_s=delay_s, tokens=tokens)
    runner = web.AppRunner(llm.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=2048)
        await site.start()
        yield llm, f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _serve(arguments: argparse.Namespace) -> None:
    async with stub_llm(host=arguments.host, port=arguments.port, delay_s=arguments.delay, tokens=arguments.tokens) as (
        _,
        url,
    ):
        print(f"stub llm listening on {url}", flush=True)  # noqa: T201  # the ready line
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="stub_llm", description="An OpenAI-compatible model for tests")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before an answer begins")
    parser.add_argument("--tokens", type=int, default=0, help="words of an answer; 0: the echo")
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
