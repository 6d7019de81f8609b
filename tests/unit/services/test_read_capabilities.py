"""What can be asked for, as the servers say just now."""

from dataclasses import replace

import pytest

from nubabel_workers.adapters.analysis_rules import load_rules
from nubabel_workers.domain.ids import InstanceId, OrganizationId
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.services.read_capabilities import ReadCapabilities
from tests.fakes.bridge import FakeServer, FakeServers
from tests.fakes.clock import FakeClock

KNOWN = Instance(
    InstanceId("ins_1"), "http://one", "opencode", None, agents=("Sisyphus - known",), version="1.0", healthy=True
)


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.servers = FakeServers()
        self.read = ReadCapabilities(
            self.servers.store(), self.servers, load_rules(), self.clock, ask_s=0.05, keep_s=10
        )


async def test_servers_are_asked_and_categories_and_skills_are_those_of_the_rules() -> None:
    bench = Bench()
    bench.servers.add(KNOWN, FakeServer("1.18.33", ["Sisyphus - ultraworker", "build"]))

    found = await bench.read.of("org_a")

    assert found.versions == ["1.18.33"]
    assert found.agents == ["Sisyphus - ultraworker", "build"]
    assert {"quick", "ultrabrain"} <= {one.name for one in found.categories}
    assert "git-master" in {one.name for one in found.skills}
    assert [one.answered for one in found.servers] == [True]


async def test_a_server_that_is_silent_or_away_is_told_with_what_was_last_known() -> None:
    bench = Bench()
    bench.servers.add(KNOWN, FakeServer("2.0", [], hangs=True))
    bench.servers.add(replace(KNOWN, id=InstanceId("ins_2"), url="http://two"), FakeServer("2.0", [], refuses=True))

    found = await bench.read.of("org_a")

    assert [(one.answered, one.version, list(one.agents)) for one in found.servers] == [
        (False, "1.0", ["Sisyphus - known"]),
        (False, "1.0", ["Sisyphus - known"]),
    ]


async def test_an_answer_is_remembered_for_a_short_time() -> None:
    bench = Bench()
    server = bench.servers.add(KNOWN, FakeServer("1.0", []))

    await bench.read.of("org_a")
    await bench.read.of("org_b")
    bench.clock.advance(11)
    await bench.read.of("org_a")

    assert server.asked == 2


async def test_an_organization_with_servers_of_its_own_sees_those_alone_and_nobody_else_does() -> None:
    bench = Bench()
    own = replace(KNOWN, id=InstanceId("ins_own"), organization_id=OrganizationId("org_a"))
    bench.servers.add(KNOWN, FakeServer("1.0", []))
    bench.servers.add(own, FakeServer("2.0", []))

    assert [one.instance_id for one in (await bench.read.of("org_a")).servers] == ["ins_own"]
    assert [one.instance_id for one in (await bench.read.of("org_b")).servers] == ["ins_1"]


async def test_a_server_that_takes_nothing_new_offers_no_agents() -> None:
    bench = Bench()
    bench.servers.add(replace(KNOWN, status="draining"), FakeServer("1.0", ["build"]))

    found = await bench.read.of("org_a")

    assert found.agents == []
    assert found.servers[0].draining


async def test_a_category_that_no_server_has_is_not_offered() -> None:
    bench = Bench()
    bench.servers.add(KNOWN, FakeServer("1.0", [], categories_="quick slack-answer"))
    bench.servers.add(
        replace(KNOWN, id=InstanceId("ins_2"), url="http://two"), FakeServer("1.0", [], categories_="deep")
    )

    found = await bench.read.of("org_a")

    assert [one.name for one in found.categories] == ["quick", "deep"]
    assert [one.categories for one in found.servers] == [["quick", "slack-answer"], ["deep"]]


@pytest.mark.parametrize("said", [None, "broken", "hangs"])
async def test_where_a_server_does_not_tell_its_categories_they_are_unknown_and_all_of_the_rules_are_offered(
    said: str | None,
) -> None:
    bench = Bench()
    bench.servers.add(KNOWN, FakeServer("1.0", ["a"], categories_="quick"))
    bench.servers.add(
        replace(KNOWN, id=InstanceId("ins_2"), url="http://two"), FakeServer("1.0", ["b"], categories_=said)
    )

    found = await bench.read.of("org_a")

    assert {"quick", "deep", "writing"} <= {one.name for one in found.categories}
    assert [(one.answered, one.categories) for one in found.servers] == [(True, ["quick"]), (True, None)]
