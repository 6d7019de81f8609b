"""Which OpenCode servers get work."""

import pytest

from nubabel_workers.domain.opencode_compatibility import incompatibility

AGENTS = ("build", "Sisyphus - ultraworker")
MAIN = "Sisyphus - "


@pytest.mark.parametrize("version", ["1.18.33", "1.0.0", "v1.19.0-beta.1", "local", "", "dev-1"])
def test_a_server_of_the_known_generation_or_of_a_build_gets_work(version: str) -> None:
    assert incompatibility(version, AGENTS, main_agent=MAIN) is None


@pytest.mark.parametrize("version", ["2.0.0", "v2.1.3", "0.15.31", "10.0.0"])
def test_a_server_of_another_generation_gets_none_and_the_reason_names_both(version: str) -> None:
    found = incompatibility(version, AGENTS, main_agent=MAIN)

    assert found is not None
    assert found.reason == f"OpenCode {version} speaks another API: this release works with 1.x"


@pytest.mark.parametrize(
    ("agents", "has"), [(("build", "plan"), "build, plan"), (("Sisyphus-Junior",), "Sisyphus-Junior"), ((), "none")]
)
def test_a_server_without_the_agent_that_works_by_default_gets_none_and_the_advice_names_the_setting(
    agents: tuple[str, ...], has: str
) -> None:
    found = incompatibility("1.18.33", agents, main_agent=MAIN)

    assert found is not None
    assert found.reason == f"it has no agent whose name begins with 'Sisyphus - ' (it has: {has})"
    assert "NUBABEL_OPENCODE_AGENT_PREFIX" in found.advice


def test_another_agent_may_be_the_one_that_works_by_default() -> None:
    assert incompatibility("1.18.33", ("build",), main_agent="build") is None


def test_what_a_server_says_of_itself_is_told_in_bounds() -> None:
    found = incompatibility("1.18.33", [f"{'a' * 1000}{number}" for number in range(1000)], main_agent=MAIN)

    assert found is not None
    assert len(found.reason) < 1000
    assert "and 990 more" in found.reason
