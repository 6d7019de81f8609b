"""Which OpenCode server `up` and `demo` start."""

from enum import Enum
from typing import Annotated

import typer


class OpenCodeChoice(Enum):
    SIMULATOR = "simulator"
    REAL = "real"


OpenCodeOption = Annotated[
    OpenCodeChoice, typer.Option(help="A simulator, or a real server from npm (needs Node.js) with a stub model.")
]
