"""All that the ways in do with organizations' tools, in one piece."""

from dataclasses import dataclass

from nubabel_workers.services.invoke_tool import InvokeTool
from nubabel_workers.services.list_tools import ListTools


@dataclass(frozen=True)
class ToolCalls:
    invoke: InvokeTool
    list: ListTools
