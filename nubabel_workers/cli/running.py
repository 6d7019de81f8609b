"""An orderly end of a long-running command, by Ctrl-C or SIGTERM."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from rich.console import Console

from nubabel_workers.embedded.npm_packages import NotInstallableError
from nubabel_workers.embedded.processes import ProcessFailedError

INTERRUPTED = 130  # as shells report Ctrl-C


def run_until_stopped(work: Callable[[Console], Coroutine[Any, Any, int]], *, when_stopped: int = INTERRUPTED) -> int:
    """The exit code of work, or when_stopped. Ctrl-C and SIGTERM cancel it; what it started gets the time to stop."""
    console = Console(highlight=False, soft_wrap=True)
    try:
        return asyncio.run(_cancelled_by_signals(work(console)))
    except (ProcessFailedError, NotInstallableError) as error:
        console.print(f"This could not run: {error}", style="bold red", markup=False)
        return 1
    except asyncio.CancelledError:
        console.print("\nStopped; nothing is left running.")
        return when_stopped


async def _cancelled_by_signals(work: Coroutine[Any, Any, int]) -> int:
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell starts background jobs with it ignored
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task
