"""One MCP session, kept open by a task of its own: whoever enters the SDK's task groups has to leave them as well."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final, TypeVar, cast

import anyio
import structlog
from mcp import Client, MCPError, types
from mcp.client._transport import TransportStreams
from mcp.client.session import IncomingMessage
from mcp.types import HEADER_MISMATCH
from pydantic import TypeAdapter, ValidationError

from nubabel_workers.adapters.mcp.answers import MAX_TOOLS, asks_for_more, at_most, result_from
from nubabel_workers.adapters.mcp.failures import Failures, SilentCutError, of_the_connection
from nubabel_workers.domain.errors import (
    NubabelError,
    PermanentError,
    UnansweredError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.tool_calls import Tool, ToolResult
from nubabel_workers.domain.trace import outgoing_headers

T = TypeVar("T")
Streams = AbstractAsyncContextManager[TransportStreams]

log = structlog.get_logger(__name__)

_MAX_PAGES: Final = 20
_CLOSE_S: Final = 10.0
_SPARE_S: Final = 2.0  # for the SDK's own time limit to be told by the SDK
_OURSELVES: Final = types.Implementation(name="nubabel-workers", version="1")
_RESULT: Final = TypeAdapter[types.CallToolResult | types.InputRequiredResult](
    types.CallToolResult | types.InputRequiredResult
)


class McpSession:
    """Any number of calls may be under way in it. max_bytes: of one answer, only for the words of an error."""

    def __init__(
        self,
        open_streams: Callable[[Failures, Callable[[], None]], Streams],
        *,
        on_tools_changed: Callable[[], None],
        max_bytes: int,
    ) -> None:
        """open_streams: given where failures are put and what to call when the other side ends the session."""
        self._open_streams = open_streams
        self._on_tools_changed = on_tools_changed
        self._max_bytes = max_bytes
        self._failures = Failures()
        self._closing = asyncio.Event()
        self._client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._keeper is not None and not self._keeper.done() and not self._closing.is_set()

    async def open(self, *, timeout_s: float) -> None:
        """Raises CredentialsError, UnavailableError or PermanentError: nothing was done that could matter."""
        self._keeper = asyncio.create_task(self._keep(), name="mcp-session")
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._client)
        except TimeoutError:
            await self.close()
            raise UnavailableError(f"the server was not ready within {timeout_s:g} s") from None
        except NubabelError:
            await self.close()
            raise

    async def close(self) -> None:
        self._closing.set()
        if self._keeper is None:
            return
        if not self._client.done():
            self._keeper.cancel()
        _, late = await asyncio.wait([self._keeper], timeout=_CLOSE_S)
        for keeper in late:
            keeper.cancel()

    async def tools(self, *, timeout_s: float) -> list[Tool]:
        found: list[types.Tool] = []
        cursor: str | None = None
        async with _within(timeout_s):
            for _ in range(_MAX_PAGES):
                page = await self._page_after(cursor)
                found += page.tools
                cursor = page.next_cursor
                if cursor is None or len(found) >= MAX_TOOLS:
                    break
        return at_most(found)

    async def _page_after(self, cursor: str | None) -> types.ListToolsResult:
        try:
            page: types.ListToolsResult = await self._asked(self._session.list_tools(params=_page(cursor)))
        except MCPError as error:
            raise PermanentError(f"the server does not list its tools (code {error.code})", code="no_tools") from None
        return page

    async def call(self, tool_name: str, arguments: Mapping[str, Any], *, timeout_s: float) -> ToolResult:
        """The server's answer, its refusals included. UncertainError when it is not known what became of the call."""
        async with _within(timeout_s):
            try:
                try:
                    result = await self._asked(self._call(tool_name, arguments, timeout_s))
                except MCPError as error:
                    if error.code != HEADER_MISMATCH:
                        raise
                    # Refused unseen: the tool's schema says which arguments go into headers. Read it and ask again.
                    await self._page_after(None)
                    result = await self._asked(self._call(tool_name, arguments, timeout_s))
            except MCPError as error:
                return ToolResult(error.message, is_error=True)
        return result_from(result) if isinstance(result, types.CallToolResult) else asks_for_more(result)

    async def _call(
        self, tool_name: str, arguments: Mapping[str, Any], timeout_s: float
    ) -> types.CallToolResult | types.InputRequiredResult:
        """Not the session's own method, which lists all tools to check the result, and loses one that does not fit.

        The request's trace goes along in `_meta`, whatever the transport.
        Source: https://modelcontextprotocol.io/community/seps/414-request-meta
        """
        meta = cast("types.RequestParamsMeta", outgoing_headers()) or None
        params = types.CallToolRequestParams(name=tool_name, arguments=dict(arguments), _meta=meta)
        request = types.CallToolRequest(params=params)
        answer: types.CallToolResult | types.InputRequiredResult = await self._session.send_request(
            request, _RESULT, request_read_timeout_seconds=timeout_s
        )
        return answer

    @property
    def _session(self) -> Any:
        if not self.is_open:
            raise UnavailableError("the session with the server has ended")
        return self._client.result().session

    async def _asked(self, answer: Awaitable[T]) -> T:
        """The SDK's errors in our words; MCPError when the server itself said no."""
        try:
            return await answer
        except MCPError as error:
            ours = of_the_connection(error, self._failures, max_bytes=self._max_bytes)
            if ours is None:
                raise
            raise ours from None
        except ValidationError:
            raise UncertainError("the server's answer is not what MCP says it should be") from None
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise SilentCutError("the session with the server has ended") from None

    # --- the keeper ---

    async def _keep(self) -> None:
        streams = self._open_streams(self._failures, self._closing.set)
        try:
            async with Client(
                streams, cache=None, client_info=_OURSELVES, message_handler=self._heard, read_timeout_seconds=None
            ) as client:
                self._client.set_result(client)
                async with anyio.create_task_group() as beside:
                    beside.start_soon(self._hear_changes, client)
                    await self._closing.wait()
                    beside.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - an end like any other: whoever waits is told, others find it closed
            self._ended(error)
        finally:
            self._closing.set()
            if not self._client.done():
                self._client.set_exception(UnavailableError("the session was given up"))
                self._client.exception()  # nobody may be waiting any more

    def _ended(self, error: Exception) -> None:
        reason = self._reason(error)
        if self._client.done():
            log.info("mcp.session_broken", error=str(reason))
        else:
            self._client.set_exception(reason)

    def _reason(self, error: BaseException) -> NubabelError:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, NubabelError):
            return error
        if isinstance(error, MCPError):
            ours = of_the_connection(error, self._failures, max_bytes=self._max_bytes)
            if ours is not None:
                return UnavailableError(str(ours)) if isinstance(ours, UncertainError) else ours
            return PermanentError(f"the server refused to begin a session (code {error.code})", code="no_session")
        return UnavailableError(f"the session could not be begun ({type(error).__name__})")

    async def _heard(self, message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._on_tools_changed()

    async def _hear_changes(self, client: Client) -> None:
        """On newer servers news come on a subscription; on others they reach `_heard` by themselves."""
        with suppress(Exception):  # without it a change is known a little later
            async with client.listen(tools_list_changed=True) as changes:
                async for _ in changes:
                    self._on_tools_changed()


def _page(cursor: str | None) -> types.PaginatedRequestParams | None:
    return types.PaginatedRequestParams(cursor=cursor) if cursor is not None else None


@asynccontextmanager
async def _within(timeout_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s + _SPARE_S):
            yield
    except TimeoutError:
        raise UnansweredError(f"there was no answer within {timeout_s:g} s") from None
