"""Which OpenCode servers get work."""

import pytest

from nubabel_workers.domain.opencode_compatibility import incompatibility


@pytest.mark.parametrize("version", ["1.18.33", "1.0.0", "v1.19.0-beta.1", "local", "", "dev-1"])
def test_a_server_of_the_known_generation_or_of_a_build_gets_work(version: str) -> None:
    assert incompatibility(version) is None


@pytest.mark.parametrize("version", ["2.0.0", "v2.1.3", "0.15.31", "10.0.0"])
def test_a_server_of_another_generation_gets_none_and_the_reason_names_both(version: str) -> None:
    assert incompatibility(version) == f"OpenCode {version} speaks another API: this release works with 1.x"
