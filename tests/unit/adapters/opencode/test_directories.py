"""What a server tells of its folders, as far as it is believed."""

import pytest

from nubabel_workers.adapters.opencode import HttpOpenCodeServer, UnexpectedAnswerError
from tests.unit.adapters.opencode.test_client import Recorded, client_on


def folder(name: str, path: str, kind: str = "directory") -> dict[str, str]:
    return {"name": name, "path": name, "absolute": path, "type": kind}


@pytest.mark.parametrize(
    ("entries", "path"),
    [
        ([], None),
        ([folder("organizations", "/srv/organizations")], None),
        ([folder("directories", "/srv/directories", "file")], None),
        ([folder("x", "/srv/x"), folder("directories", "/srv/directories")], "/srv/directories"),
    ],
    ids=["empty", "no such folder", "a file", "there"],
)
async def test_a_server_makes_directories_where_it_has_the_folder_for_them(
    entries: list[dict[str, str]], path: str | None
) -> None:
    assert await HttpOpenCodeServer(client_on(Recorded(body=entries))).directories_path() == path


@pytest.mark.parametrize("path", ["", "srv/directories", "/srv/\x00", "/srv\n/directories", "/" + "x" * 2000])
async def test_a_path_that_is_none_is_not_believed(path: str) -> None:
    server = HttpOpenCodeServer(client_on(Recorded(body=[folder("directories", path)])))

    with pytest.raises(UnexpectedAnswerError):
        await server.directories_path()
