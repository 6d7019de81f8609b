"""The directories of a simulated server, with what our plugin of the real one does when one is loaded."""

import posixpath
import re

_OWN, _DELETED = "directories", "deleted"
_ID = re.compile(r"org_[A-Za-z0-9_]{1,76}")


class Disk:
    """root: the server's own directory. tended: whether the plugin is there, as on a shared server.

    Whatever lies elsewhere is there. OpenCode remembers that a directory was missing when it was loaded.
    """

    def __init__(self, root: str, *, tended: bool) -> None:
        self.loaded: dict[str, bool] = {}  # directory -> whether it was there
        self.most_loaded = 0  # organizations' directories at once
        self._root = root
        self._tended = tended
        self._made: set[str] = set()
        self._gone: set[str] = set()  # deleted for good

    def load(self, directory: str) -> bool:
        """Whether it was there when it was loaded."""
        if directory not in self.loaded:
            self._tend(directory)
            self.loaded[directory] = directory in self._made or not self._organization_in(_OWN, directory)
            self.most_loaded = max(self.most_loaded, sum(1 for one in self.loaded if self._organization_in(_OWN, one)))
        return self.loaded[directory]

    def unload(self, directory: str) -> None:
        self.loaded.pop(directory, None)

    def unload_all(self) -> None:
        self.loaded.clear()

    def entries(self, folder: str) -> list[str] | None:
        """Paths of the folders in it; None: it is not there."""
        own = f"{self._root}/{_OWN}"
        if folder == self._root:
            return [own] if self._tended else []
        if folder == own and self._tended:
            return sorted(self._made)
        return [] if self.load(folder) else None

    def _tend(self, directory: str) -> None:
        if not self._tended:
            return
        if self._organization_in(_OWN, directory) and directory not in self._gone:
            self._made.add(directory)
        if deleted := self._organization_in(_DELETED, directory):
            self._gone.add(f"{self._root}/{_OWN}/{deleted}")
            self._made -= self._gone

    def _organization_in(self, kind: str, directory: str) -> str | None:
        folder, name = posixpath.split(directory)
        return name if folder == f"{self._root}/{kind}" and _ID.fullmatch(name) else None
