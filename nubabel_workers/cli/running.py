"""An orderly end of a long-running command, by Ctrl-C or SIGTERM."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from rich.console import Console

from nubabel_workers.embedded.opencode_server import OpenCodeNotInstallableError
from nubabel_workers.embedded.processes import ProcessFailedError

_INTERRUPTED = 130  # as shells report Ctrl-C


def run_until_stopped(work: Callable[[Console], Coroutine[Any, Any, int]]) -> int:
    """The exit code of work. Ctrl-C and SIGTERM cancel it; what it started gets the time to stop."""
    console = Console(highlight=False, soft_wrap=True)
    try:
        return asyncio.run(_cancelled_by_sigterm(work(console)))
    except (ProcessFailedError, OpenCodeNotInstallableError) as error:
        console.print(f"This could not run: {error}", style="bold red", markup=False)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("\nStopped; nothing is left running.")
        return _INTERRUPTED


async def _cancelled_by_sigterm(work: Coroutine[Any, Any, int]) -> int:
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task
