"""The operators' command that starts an OpenCode server anew: of their process manager, platform or orchestrator."""

import asyncio
import os
import shlex
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from nubabel_workers.adapters.guardian import guardian
from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.redaction import masked
from nubabel_workers.domain.tenants import Instance

_DIES_WITHIN_S: Final = 1.0  # after SIGKILL
_LAST_WORDS: Final = 500  # characters of its output that are told
_ITS_ENVIRONMENT: Final = ("PATH", "HOME", "LANG")  # nothing of ours: that holds secrets


class CommandSupervisor:
    """Implements ports.Supervisor. {id} and {url} in the command stand for the server's; no shell reads it."""

    def __init__(self, command: str, *, limit_s: float) -> None:
        """limit_s: seconds that it may take."""
        self._arguments = shlex.split(command)
        self._limit_s = limit_s

    async def restart(self, instance: Instance) -> None:
        process = await self._start(self._arguments_for(instance))
        try:
            async with asyncio.timeout(self._limit_s):
                said, _ = await process.communicate()
        except TimeoutError:
            raise TransientError(f"the command did not end within {self._limit_s:g} s") from None
        finally:
            await _end(process)
            guardian.forget(process.pid)
        if process.returncode != 0:
            words = masked(said.decode("utf-8", "replace")).strip()[-_LAST_WORDS:]
            raise TransientError(f"the command ended with {process.returncode}: {words}")

    def _arguments_for(self, instance: Instance) -> Sequence[str]:
        return [part.replace("{id}", instance.id).replace("{url}", instance.url) for part in self._arguments]

    async def _start(self, arguments: Sequence[str]) -> Process:
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=STDOUT,
                env={name: os.environ[name] for name in _ITS_ENVIRONMENT if name in os.environ},
                start_new_session=True,  # ended as a group
            )
        except OSError as error:
            raise TransientError(f"the command cannot be started: {error.strerror}") from None
        guardian.watch(process.pid)
        return process


async def _end(process: Process) -> None:
    """One that took too long, or whose scheduler stops; with what it started."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(_DIES_WITHIN_S):
            await process.wait()
