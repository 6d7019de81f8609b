"""An organization's own directory on a shared OpenCode server. A server carries about twenty that are loaded.

Its name holds the organization's id, which no other ever gets; so no directory is used for a second one.
"""

from dataclasses import dataclass
from enum import StrEnum

from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.tenants import Instance

ROOM = "directories"
PREPARING = "directory"

DISPLACED_AFTER_S = 10.0
"""Seconds since its last prompt after which a directory may make room for another organization's."""


class DirectoryState(StrEnum):
    """All but the last hold one of the server's places. What is in it stays when it is unloaded."""

    WANTED = "wanted"  # has its place; whether it is there and loaded is not known
    READY = "ready"
    DISPOSING = "disposing"  # is being unloaded
    DISPOSED = "disposed"


@dataclass(frozen=True)
class Directory:
    instance_id: str
    organization_id: str
    path: str


class DirectoryWaitError(TransientError):
    """The organization's directory cannot be used now. reason: ROOM (the server has no place for it) or PREPARING."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"waits for: {reason}")
        self.reason = reason


def own_directory(instance: Instance, organization_id: str) -> Directory | None:
    """None where all sessions share one: on a dedicated server, and on one that makes no directories."""
    if instance.organization_id is not None or instance.directories_path is None:
        return None
    return Directory(instance.id, organization_id, f"{instance.directories_path}/{organization_id}")
