"""Which OpenCode servers this release can work with, by the version that they tell."""

import re
from typing import Final

# The API that was measured (opencode 1.18.33) is that of 1.x. Another generation needs an adapter of its own, beside
# the one that `adapters/opencode/servers.py` chooses.
_GENERATION: Final = 1
_VERSION: Final = re.compile(r"v?(\d+)\.\d+")


def incompatibility(version: str) -> str | None:
    """Why a server of that version gets no work; None where it may, also where its version says nothing (a build)."""
    match = _VERSION.match(version)
    if match is None or int(match[1]) == _GENERATION:
        return None
    return f"OpenCode {version[:40]} speaks another API: this release works with {_GENERATION}.x"
