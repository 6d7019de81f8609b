"""A process of the Procfile by itself: none of the servers is there."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from nubabel_workers.adapters.storage.encryption import generate_key
from nubabel_workers.embedded.procfile import PROCFILE, read_procfile

_NOBODY_LISTENS = "127.0.0.1:1"
_ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "NUBABEL_ENVIRONMENT": "development",
    "NUBABEL_DATABASE_URL": f"postgresql://nubabel@{_NOBODY_LISTENS}/nubabel",
    "NUBABEL_BROKER_URL": f"redis://{_NOBODY_LISTENS}/0",
    "NUBABEL_CACHE_URL": f"redis://{_NOBODY_LISTENS}/1",
    "NUBABEL_ENCRYPTION_KEYS": generate_key().get_secret_value(),
}


@contextmanager
def started(process: str, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """It is killed at the end of the block, if it still runs."""
    with subprocess.Popen(
        ["sh", "-c", f"exec {read_procfile()[process]}"],
        cwd=PROCFILE.parent,
        env={**_ENVIRONMENT, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()
