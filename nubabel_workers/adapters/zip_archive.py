"""An archive that is written as it comes, and is there only when it is whole."""

import os
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from nubabel_workers.domain.errors import InvalidInputError

_FOR_ITS_OWNER = 0o600


class ZipArchive:
    """Implements ports.administration.Archive."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    async def add_lines(self, name: str, lines: AsyncIterator[str]) -> int:
        count = 0
        with self._archive.open(name, "w", force_zip64=True) as member:
            async for line in lines:
                member.write(line.encode() + b"\n")
                count += 1
        return count

    def add(self, name: str, text: str) -> None:
        self._archive.writestr(name, text)


@contextmanager
def new_zip_archive(path: Path) -> Iterator[ZipArchive]:
    """Under another name until it is whole. Raises InvalidInputError for a path that is taken, or that cannot be."""
    if str(path) == "-":
        raise InvalidInputError("an archive is written to a file, not to standard output: name one")
    if path.exists():
        raise InvalidInputError(f"{path} exists already: choose another name")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FOR_ITS_OWNER)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with (
            os.fdopen(descriptor, "wb") as file,
            zipfile.ZipFile(file, "w", compression=zipfile.ZIP_DEFLATED) as archive,
        ):
            yield ZipArchive(archive)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
