"""What MCP servers say, as our values: tools and results. Their words are outside text."""

from collections.abc import Sequence
from typing import Final

from mcp import types

from nubabel_workers.domain.tool_calls import Tool, ToolResult

MAX_TOOLS: Final = 500  # of one server
_MAX_DESCRIPTION_CHARS: Final = 4_000


def tool_from(tool: types.Tool) -> Tool:
    hints = tool.annotations
    repeatable = hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)
    return Tool(tool.name, (tool.description or "")[:_MAX_DESCRIPTION_CHARS], tool.input_schema, repeatable=repeatable)


def result_from(result: types.CallToolResult) -> ToolResult:
    structured = result.structured_content
    return ToolResult(
        "\n".join(_text_of(part) for part in result.content),
        structured if isinstance(structured, dict) else None,
        is_error=bool(result.is_error),
    )


def asks_for_more(result: types.InputRequiredResult) -> ToolResult:
    """A server that wants to ask a person, or our model: nobody is there."""
    wanted = len(result.input_requests or ())
    return ToolResult(
        f"The tool asks for {wanted or 'more'} further inputs of a person, which is not possible here. Give all that "
        "it needs with the call's arguments, or use another tool.",
        is_error=True,
    )


def _text_of(part: types.ContentBlock) -> str:
    """Pictures and sound are named, not shown: the agent reads text."""
    if isinstance(part, types.TextContent):
        return part.text
    if isinstance(part, types.ResourceLink):
        return f"[resource {part.name}: {part.uri}]"
    if isinstance(part, types.EmbeddedResource):
        resource = part.resource
        if isinstance(resource, types.TextResourceContents):
            return resource.text
        return f"[{resource.mime_type or 'binary data'}, {_size_of(resource.blob)}: {resource.uri}]"
    return f"[{part.type} {part.mime_type}, {_size_of(part.data)}]"


def _size_of(base64: str) -> str:
    return f"{len(base64) * 3 // 4:,} bytes"


def at_most(tools: Sequence[types.Tool]) -> list[Tool]:
    return [tool_from(tool) for tool in tools[:MAX_TOOLS]]
