"""Packages from npm, installed once per lock file, for what runs on Node.js beside us.

A lock of ours names no registry, so that any mirror serves; entries of platforms that a mirror lacks carry no checksum
and are skipped where they don't fit.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

_MANIFESTS = ("package.json", "package-lock.json")
_INSTALL_TIMEOUT_S = 600.0


class NotInstallableError(Exception):
    """Node.js or a package is not to be had; the message says what is missing."""


def installed(source: Path, name: str, cache_dir: Path | None = None, *options: str) -> Path:
    """The folder whose `node_modules` has what the lock file in source pins. Blocks; safe to run in parallel.

    name: of the folder, with a digest of the lock. cache_dir: None is the user's cache directory. options: of `npm ci`.
    Raises NotInstallableError.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise NotInstallableError("npm is not installed; what comes from npm needs Node.js 20 or newer")
    digest = hashlib.sha256(b"".join((source / manifest).read_bytes() for manifest in _MANIFESTS)).hexdigest()[:16]
    home = (cache_dir or _user_cache()) / f"{name}-{digest}"
    done = home / ".installed"
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home / ".lock"):
        if not done.exists():
            for manifest in _MANIFESTS:
                shutil.copyfile(source / manifest, home / manifest)
            _npm_ci(npm, home, *options)
            done.touch()
    return home


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nubabel-workers"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _npm_ci(npm: str, home: Path, *options: str) -> None:
    try:
        with tempfile.TemporaryDirectory(prefix="npm-", dir=home) as temporary:  # packages' scripts leave things there
            subprocess.run(  # noqa: S603  # npm from PATH with constant arguments
                [npm, "ci", "--no-audit", "--no-fund", "--prefer-offline", *options],
                cwd=home,
                env={**os.environ, "TMPDIR": temporary},
                check=True,
                capture_output=True,
                text=True,
                timeout=_INSTALL_TIMEOUT_S,
            )
    except subprocess.CalledProcessError as error:
        raise NotInstallableError(f"npm ci failed:\n{error.stderr[-2000:]}") from error
    except subprocess.TimeoutExpired as error:
        raise NotInstallableError(f"npm ci took longer than {_INSTALL_TIMEOUT_S:g} s") from error
