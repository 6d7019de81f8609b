"""Which tests run in one process when they are shared out (`--dist loadgroup`): those of a real server, started once.

Its start costs more than most of their files. All others stay together by file.
"""

import pytest


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    """A folder has one real server, apart from the one for a single organization."""
    one_for_all = item.get_closest_marker("node") is not None and "dedicated" not in _fixtures(item)
    return f"the real server of {item.path.parent.name}" if one_for_all else item.nodeid.partition("::")[0]


def _fixtures(item: pytest.Item) -> list[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else []
