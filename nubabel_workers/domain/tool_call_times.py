"""How long each part of a tool call may take: every wait is longer than what it waits for. The one place that says so.

    the plugin    sends a call again, under its same id, for PLUGIN_PATIENCE_S; it waits PLUGIN_WAIT_S for one answer
      our answer  whole_s: the lists of tools, the call, its outcome written down
        the call  call_s: a place among the calls of its connection, room for a session, that session, and the
                  server's own answer (answer_s)

A call may last longer than one wait of the plugin: what it sends again waits for the same row, and gets its outcome.
The lease of that row (NUBABEL_LEASE_S) is far shorter than all of these. Whoever makes the call renews it, so that a
process that is killed in a call leaves it to the next request, or to the scheduler, within about one lease.

The plugin's numbers stand in `opencode-server/config/bridge/tools.ts`; a test keeps both equal, and the largest
NUBABEL_TOOL_CALL_TIMEOUT_S within them.
"""

from dataclasses import dataclass
from typing import Final

PLUGIN_WAIT_S: Final = 150.0
PLUGIN_PATIENCE_S: Final = 450.0


@dataclass(frozen=True)
class ToolCallTimes:
    """Seconds. answer_s: of the server (NUBABEL_TOOL_CALL_TIMEOUT_S)."""

    answer_s: float
    place_s: float = 10.0
    room_s: float = 10.0
    connect_s: float = 15.0
    list_s: float = 30.0
    write_s: float = 15.0

    @property
    def call_s(self) -> float:
        return self.place_s + self.room_s + self.connect_s + self.answer_s

    @property
    def whole_s(self) -> float:
        return self.list_s + self.call_s + self.write_s
