"""How many requests with attached files a process works on at once: it holds the files in memory until sent."""

from nubabel_workers.domain.executions import Execution


class FileRoom:
    """Places for requests with files; those without need none.

    A request may have max_files files of max_file_bytes, and each is in memory some five times on its way: as it came,
    encoded, and within the body. A batch of them would be gigabytes.
    """

    def __init__(self, places: int = 2) -> None:
        self._free = places

    def take(self, execution: Execution) -> bool:
        """Whether there is room now; what was taken must be given back."""
        if not execution.attachments:
            return True
        if self._free == 0:
            return False
        self._free -= 1
        return True

    def give_back(self, execution: Execution) -> None:
        if execution.attachments:
            self._free += 1
