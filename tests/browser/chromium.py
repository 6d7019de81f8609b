"""A headless Chromium from npm, pinned by the lock file beside this one.

npm's packages can be had wherever the tests run; the system's browser and downloads from its makers often cannot.
"""

import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from nubabel_workers.embedded.npm_packages import NotInstallableError, installed

_SOURCE = Path(__file__).parent
_PACKED = "@sparticuz/chromium/bin"
_UNPACK_WITHIN_S = 120.0
_UNPACK = """
const { createBrotliDecompress } = require("node:zlib"), { createReadStream, createWriteStream } = require("node:fs");
createReadStream(process.argv[1]).pipe(createBrotliDecompress()).pipe(createWriteStream(process.argv[2]));
"""


@dataclass(frozen=True)
class Chromium:
    executable: Path
    libraries: Path  # those that a machine without a desktop lacks

    @property
    def environment(self) -> dict[str, str]:
        path = os.environ.get("PATH", os.defpath)
        return {"PATH": path, "LD_LIBRARY_PATH": str(self.libraries), "HOME": str(self.executable.parent)}


def install() -> Chromium:
    """Raises NotInstallableError."""
    home = installed(_SOURCE, "chromium", None, "--ignore-scripts")
    unpacked = home / "unpacked"
    found = Chromium(unpacked / "chromium", unpacked / "libraries" / "lib")
    if not unpacked.exists():
        _unpack(home / "node_modules" / _PACKED, unpacked)
    return found


def _unpack(packed: Path, unpacked: Path) -> None:
    """Whole or not at all, also when two do it at once: the first one to be done is the one that counts."""
    own = unpacked.with_name(f"unpacking-{os.getpid()}")
    own.mkdir()
    try:
        _decompress(packed / "chromium.br", own / "chromium")
        (own / "chromium").chmod(0o755)
        _decompress(packed / "al2023.tar.br", own / "libraries.tar")
        with tarfile.open(own / "libraries.tar") as archive:
            archive.extractall(own / "libraries", filter="data")
        if not unpacked.exists():
            own.rename(unpacked)
    except OSError:
        if not unpacked.exists():
            raise
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _decompress(source: Path, target: Path) -> None:
    """By Node.js, which is there: Python has no Brotli of its own."""
    node = shutil.which("node") or "node"
    try:
        subprocess.run(
            [node, "-e", _UNPACK, source, target], check=True, capture_output=True, text=True, timeout=_UNPACK_WITHIN_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NotInstallableError(f"the browser cannot be unpacked: {error}") from error
