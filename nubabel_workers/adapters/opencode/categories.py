"""Which categories a server with oh-my-opencode has: no field of its API says so, but the words of its tool `task` do.

Measured with oh-my-opencode 4.19.4. Its configuration, where categories are defined, is not served. Where the words
have another form, or the tool is OpenCode's own, the answer is None: unknown, rather than assumed.
"""

import re
from collections.abc import Iterable
from typing import Final

DELEGATING_TOOL: Final = "task"

_HEAD: Final = re.compile(r"^[ \t]*Available categories:[ \t]*$", re.MULTILINE)
_ENTRY: Final = re.compile(r"\s*- (?P<name>[\w.-]{1,64}): ")
# Arguments of the tool, which are listed behind the categories in the same form.
_ARGUMENTS: Final = frozenset({"subagent_type", "run_in_background", "task_id", "command", "load_skills", "category"})
_MOST: Final = 100


def categories_in(descriptions: Iterable[str]) -> list[str] | None:
    """Of the descriptions of every tool of that name, in their order."""
    for description in descriptions:
        head = _HEAD.search(description)
        if head is not None:
            return _listed(description[head.end() :].splitlines()) or None
    return None


def _listed(lines: Iterable[str]) -> list[str]:
    found: list[str] = []
    for line in lines:
        entry = _ENTRY.match(line)
        if entry is None:  # a meaning that goes on
            continue
        if entry["name"] in _ARGUMENTS or len(found) == _MOST:
            break
        found.append(entry["name"])
    return found
