"""Where an execution runs."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from nubabel_workers.domain.circuit_breaker import BreakerState, Gate
from nubabel_workers.domain.directories import ROOM
from nubabel_workers.domain.executions import Execution, Status
from nubabel_workers.domain.ids import ExecutionId, InstanceId, OrganizationId, SessionId
from nubabel_workers.domain.placement import AWAY, FULL, NO_SERVER_WAIT_S, OWN, Placement, PlaceWait, takes_now
from nubabel_workers.domain.tenants import Instance, ServersPolicy

EXECUTION = Execution(
    id=ExecutionId("exe_1"),
    organization_id=OrganizationId("org_1"),
    session_id=SessionId("ses_1"),
    source="api",
    status=Status.QUEUED,
    prompt="hello",
    created_at=datetime(2026, 11, 21, tzinfo=UTC),
)


def server(name: str, **more: object) -> Instance:
    base = Instance(id=InstanceId(name), url=f"http://{name}", username="opencode", password=None, capacity_runs=2)
    return replace(base, **more)  # type: ignore[arg-type]


def placed_on(placement: Placement, execution: Execution = EXECUTION) -> str | None:
    instance = placement.place(execution)
    return instance.id if instance else None


def test_a_new_session_goes_to_the_least_loaded_server() -> None:
    placement = Placement([server("a", in_flight=1), server("b")])

    assert placed_on(placement) == "b"


def test_a_batch_spreads() -> None:
    placement = Placement([server("a"), server("b")])

    assert [placed_on(placement) for _ in range(5)] == ["a", "b", "a", "b", None]


def test_load_is_relative_to_capacity() -> None:
    placement = Placement([server("small", in_flight=1), server("big", in_flight=2, capacity_runs=10)])

    assert placed_on(placement) == "big"


def test_a_session_stays_where_its_history_is_even_on_a_draining_server() -> None:
    placement = Placement([server("a", status="draining", in_flight=1), server("b")])

    assert placed_on(placement, replace(EXECUTION, instance_id=InstanceId("a"))) == "a"


def test_a_session_goes_on_elsewhere_when_its_server_is_given_up() -> None:
    placement = Placement([server("a", healthy=False, given_up=True), server("b", in_flight=1)])

    assert placed_on(placement, replace(EXECUTION, instance_id=InstanceId("a"))) == "b"


def test_a_server_that_is_given_up_is_not_probed_with_new_sessions() -> None:
    probing = {"a": Gate(BreakerState.HALF_OPEN, 0.0)}
    placement = Placement([server("a", healthy=False, given_up=True), server("b", in_flight=2)], probing)

    assert placed_on(placement) is None
    assert placement.wait_for(EXECUTION) == PlaceWait(FULL)


def test_a_session_waits_while_its_server_is_full() -> None:
    placement = Placement([server("a", in_flight=2), server("b")])

    assert placed_on(placement, replace(EXECUTION, instance_id=InstanceId("a"))) is None


def test_a_session_of_a_removed_server_goes_elsewhere() -> None:
    placement = Placement([server("b")])

    assert placed_on(placement, replace(EXECUTION, instance_id=InstanceId("gone"))) == "b"


def test_unreachable_and_draining_servers_get_no_new_sessions() -> None:
    placement = Placement([server("a", healthy=False), server("b", status="draining")])

    assert placed_on(placement) is None


DEDICATED, SHARED = ServersPolicy.DEDICATED, ServersPolicy.SHARED


def test_a_refused_server_gets_nothing_not_even_of_its_own_sessions_or_as_a_probe() -> None:
    refused = server("a", healthy=False, refused=True)
    half_open = {"a": Gate(BreakerState.HALF_OPEN)}
    its_own = replace(EXECUTION, instance_id=InstanceId("a"), opencode_session_id="ses_oc")

    assert placed_on(Placement([refused])) is None
    assert placed_on(Placement([refused]), its_own) is None
    assert placed_on(Placement([refused], half_open)) is None
    assert Placement([refused]).place(its_own, stays=True) is None
    assert Placement([refused]).wait_for(its_own).reason == AWAY


def test_a_dedicated_organization_waits_for_its_own_server_and_uses_no_shared_one() -> None:
    own = server("own", organization_id=OrganizationId("org_1"), healthy=False)
    placement = Placement([own, server("shared")])

    assert placement.place(EXECUTION, DEDICATED) is None
    assert Placement([server("shared")]).place(EXECUTION, DEDICATED) is None
    assert Placement([server("shared")]).wait_for(EXECUTION, DEDICATED) == PlaceWait(OWN)


def test_nobody_elses_dedicated_server_is_used_whatever_the_policy() -> None:
    placement = Placement([server("theirs", organization_id=OrganizationId("org_2"))])

    assert placement.place(EXECUTION, SHARED) is None
    assert placement.place(EXECUTION, DEDICATED) is None
    assert placement.place(replace(EXECUTION, instance_id=InstanceId("theirs")), DEDICATED) is None


def test_a_server_of_its_own_is_used_only_when_the_policy_says_so() -> None:
    own = server("own", organization_id=OrganizationId("org_1"))

    assert placed_on(Placement([own, server("shared", in_flight=1)])) == "shared"
    chosen = Placement([own, server("shared")]).place(EXECUTION, DEDICATED)
    assert chosen is not None
    assert chosen.id == "own"


@pytest.mark.parametrize(("servers", "before", "now"), [(DEDICATED, "shared", "own"), (SHARED, "own", "shared")])
def test_a_session_moves_with_its_organization_unless_a_prompt_of_it_may_have_arrived(
    servers: ServersPolicy, before: str, now: str
) -> None:
    fleet = [server("own", organization_id=OrganizationId("org_1")), server("shared")]
    execution = replace(EXECUTION, instance_id=InstanceId(before))

    moved, stayed = Placement(fleet).place(execution, servers), Placement(fleet).place(execution, servers, stays=True)

    assert moved is not None
    assert stayed is not None
    assert (moved.id, stayed.id) == (now, before)


def test_free_places_are_counted_over_all_servers_of_a_pool() -> None:
    own = server("own", organization_id=OrganizationId("org_1"), in_flight=1)
    placement = Placement([server("a", in_flight=1), server("b"), server("c", in_flight=5), own])

    assert (placement.pool(None).free, placement.pool("org_1").free) == (3, 1)
    assert placement.pool("org_1").takes == {"own": 2}


@pytest.mark.parametrize("why", [{"status": "draining"}, {"healthy": False}, {"strain": "late"}])
def test_a_server_without_new_sessions_has_places_for_its_own_that_wait(why: dict[str, object]) -> None:
    leaving = server("a", capacity_runs=10, in_flight=3, awaited=2, **why)

    assert Placement([leaving, server("b", in_flight=1)]).pool(None).takes == {"a": 5, "b": 2}


@pytest.mark.parametrize("why", [{"status": "draining"}, {"healthy": False}, {"refused": True}])
def test_where_no_server_takes_new_sessions_nobody_says_how_many(why: dict[str, object]) -> None:
    pool = Placement([server("a", **why)]).pool(None)

    assert (pool.takes, pool.free, pool.away_for_s) == (None, None, None)


def test_where_there_is_no_server_all_wait_until_somebody_looks_again_but_for_prompts_on_shared_ones() -> None:
    shared = server("shared")

    assert Placement([]).pool(None).away_for_s == NO_SERVER_WAIT_S
    assert Placement([shared]).pool("org_1").away_for_s is None
    assert Placement([shared]).pool("org_1").takes is None


def test_a_pools_pace_is_that_of_its_servers_once_each_has_taken_its_share() -> None:
    own = server("own", organization_id=OrganizationId("org_1"), submits_per_second=7)
    away, leaving = server("away", healthy=False), server("leaving", status="draining")
    pool = Placement([server("a"), server("b", submits_per_second=5), away, leaving, own]).pool(None)

    assert pool.pace_of({"a"}) is None
    assert pool.pace_of({"a", "b"}) == server("a").submits_per_second + 5
    assert Placement([own, server("a")]).pool("org_1").pace_of({"own"}) == 7
    assert Placement([leaving]).pool(None).pace_of({"leaving"}) is None


OPEN = Gate(BreakerState.OPEN, wait_s=4)
HALF_OPEN = Gate(BreakerState.HALF_OPEN)
PROBED = Gate(BreakerState.HALF_OPEN, wait_s=1)
PINNED = replace(EXECUTION, instance_id=InstanceId("a"))


def test_a_server_whose_breaker_is_open_gets_nothing() -> None:
    placement = Placement([server("a"), server("b", in_flight=1)], {"a": OPEN})

    assert placement.pool(None).free == 1
    assert [placed_on(placement) for _ in range(2)] == ["b", None]
    assert placed_on(placement, PINNED) is None


def test_a_half_open_breaker_lets_one_pass() -> None:
    placement = Placement([server("a")], {"a": HALF_OPEN})

    assert placement.pool(None).free == 1
    assert [placed_on(placement, PINNED) for _ in range(2)] == ["a", None]


def test_a_new_session_may_be_the_probe_of_a_server_that_was_unreachable_when_there_is_no_other() -> None:
    down, up = server("a", healthy=False), server("b", in_flight=1)

    assert placed_on(Placement([down], {"a": HALF_OPEN})) == "a"
    assert placed_on(Placement([down, up], {"a": HALF_OPEN})) == "b"


def test_a_probe_on_its_way_lets_no_other_pass() -> None:
    assert Placement([server("a")], {"a": PROBED}).pool(None).free == 0


@pytest.mark.parametrize(
    ("servers", "gates", "execution", "expected"),
    [
        pytest.param([server("a", in_flight=2)], {}, EXECUTION, PlaceWait(FULL), id="full"),
        pytest.param([], {}, EXECUTION, PlaceWait(AWAY), id="none at all"),
        pytest.param([server("a", status="draining")], {}, EXECUTION, PlaceWait(AWAY), id="only one that drains"),
        pytest.param([server("a", healthy=False)], {}, EXECUTION, PlaceWait(AWAY), id="unreachable"),
        pytest.param(
            [server("a", healthy=False, in_flight=2)], {}, PINNED, PlaceWait(FULL), id="its own, full, may be asked"
        ),
        pytest.param([server("a")], {"a": OPEN}, PINNED, PlaceWait(AWAY, 4), id="its own is open"),
        pytest.param([server("a"), server("b", in_flight=2)], {"a": OPEN}, EXECUTION, PlaceWait(FULL), id="other full"),
        pytest.param([server("a"), server("b")], {"a": OPEN, "b": PROBED}, EXECUTION, PlaceWait(AWAY, 1), id="soonest"),
    ],
)
def test_what_an_execution_without_a_place_waits_for(
    servers: list[Instance], gates: dict[str, Gate], execution: Execution, expected: PlaceWait
) -> None:
    assert Placement(servers, gates).wait_for(execution) == expected


@pytest.mark.parametrize(
    ("gates", "wait_s"),
    [
        pytest.param({"a": OPEN, "b": PROBED}, 1, id="both"),
        pytest.param({"a": OPEN}, None, id="one"),
        pytest.param({}, None, id="none"),
    ],
)
def test_all_are_away_when_every_breaker_is_open(gates: dict[str, Gate], wait_s: float | None) -> None:
    assert Placement([server("a"), server("b"), server("c", status="removed")], gates).pool(None).away_for_s == wait_s


@pytest.mark.parametrize(
    ("capacity", "recovered_ago_s", "takes"),
    [
        (50, None, 50),
        (50, 0.0, 10),
        (50, 15.0, 30),
        (50, 29.9, 49),
        (50, 30.0, 50),
        (50, 86_400.0, 50),
        (2, 0.0, 1),
        (1, 0.0, 1),
        (50, -3.0, 10),
    ],
)
def test_a_server_that_came_back_takes_a_fifth_at_first_and_all_after_half_a_minute(
    capacity: int, recovered_ago_s: float | None, takes: int
) -> None:
    assert takes_now(server("a", capacity_runs=capacity, recovered_ago_s=recovered_ago_s)) == takes


def test_a_server_that_came_back_gets_no_more_than_it_takes_now_also_of_its_own_sessions() -> None:
    back = server("a", capacity_runs=20, recovered_ago_s=0.0)
    placement = Placement([back, server("b", capacity_runs=20)])
    of_its_own = replace(EXECUTION, instance_id=InstanceId("a"))

    assert (placement.pool(None).free, sum((placement.pool(None).takes or {}).values())) == (24, 24)
    assert [placed_on(placement, of_its_own) for _ in range(5)] == ["a", "a", "a", "a", None]
    assert placement.wait_for(of_its_own) == PlaceWait(FULL)
    assert placed_on(placement) == "b"


def test_a_new_session_leaves_the_places_of_a_server_that_came_back_to_the_sessions_that_wait_for_it() -> None:
    back = server("a", capacity_runs=20, recovered_ago_s=0.0, awaited=4)
    placement = Placement([back, server("b", capacity_runs=20, in_flight=18)])
    of_its_own = replace(EXECUTION, instance_id=InstanceId("a"))

    new = [placed_on(placement) for _ in range(2)]
    own = [placed_on(placement, of_its_own) for _ in range(4)]

    assert (new, own) == (["b", "b"], ["a"] * 4)


def test_where_no_other_server_has_a_place_nothing_is_kept_free() -> None:
    back = server("a", capacity_runs=20, recovered_ago_s=0.0, awaited=9)

    assert placed_on(Placement([back, server("b", in_flight=2)])) == "a"


def test_what_got_its_place_is_not_waited_for_any_more() -> None:
    back = server("a", capacity_runs=20, recovered_ago_s=0.0, awaited=2)
    placement = Placement([back, server("b", capacity_runs=20, in_flight=19)])

    for _ in range(2):
        placed_on(placement, replace(EXECUTION, instance_id=InstanceId("a")))

    assert placed_on(placement) == "a"


def test_what_already_runs_there_is_not_counted_below_nothing() -> None:
    placement = Placement([server("a", capacity_runs=20, recovered_ago_s=0.0, in_flight=15)])

    assert placement.pool(None).free == 0
    assert placed_on(placement) is None


def test_a_strained_server_gets_no_new_session_while_another_is_fit_even_where_that_is_full() -> None:
    placement = Placement([server("a", strain="its memory grows"), server("b", in_flight=1)])

    assert [placed_on(placement) for _ in range(2)] == ["b", None]
    assert placement.wait_for(EXECUTION) == PlaceWait(FULL)


def test_a_session_goes_on_on_its_strained_server() -> None:
    placement = Placement([server("a", strain="its memory grows"), server("b")])

    assert placed_on(placement, replace(EXECUTION, instance_id=InstanceId("a"))) == "a"


@pytest.mark.parametrize("others", ["none", "strained", "away", "held back"])
def test_strained_servers_take_new_sessions_where_no_other_could(others: str) -> None:
    more = {
        "none": [],
        "strained": [server("b", strain="late", in_flight=1)],
        "away": [server("b", healthy=False)],
        "held back": [server("b")],
    }
    gates = {"b": OPEN} if others == "held back" else {}

    assert placed_on(Placement([server("a", strain="its memory grows"), *more[others]], gates)) == "a"


# --- organizations' own directories ----------------------------------------------------------------------------------

PATH = "/srv/opencode/directories"


def housing(name: str, *organizations: str, **more: object) -> Instance:
    """A shared server that makes directories and carries three; so many organizations have theirs there."""
    places = {"housed": frozenset(organizations), "directories_taken": len(organizations), "max_directories": 3}
    return server(name, **{"directories_path": PATH, "capacity_runs": 20, **places, **more})


def test_a_new_session_goes_where_its_organization_has_a_directory() -> None:
    placement = Placement([housing("a"), housing("b", "org_1", in_flight=3)])

    assert placed_on(placement) == "b"


def test_an_organization_spreads_once_a_quarter_of_its_server_is_busy() -> None:
    placement = Placement([housing("a"), housing("b", "org_1", in_flight=5)])

    assert placed_on(placement) == "a"


def test_a_directory_is_made_where_the_fewest_are_waited_for() -> None:
    placement = Placement(
        [housing("a", "org_2", directories_awaited=1), housing("b", in_flight=4), housing("c", "org_3", in_flight=4)]
    )

    assert placed_on(placement) == "b"


def test_a_burst_of_new_organizations_spreads_over_servers_that_do_nothing() -> None:
    placement = Placement([housing("a", "org_9"), housing("b"), housing("c")])
    burst = [replace(EXECUTION, organization_id=OrganizationId(f"org_{number}")) for number in range(1, 6)]

    assert [placed_on(placement, one) for one in burst] == ["b", "c", "a", "b", "c"]


def test_another_servers_free_place_is_taken_before_anybody_makes_room() -> None:
    full = housing("a", "org_2", "org_3", "org_4", directories_idle=3)
    placement = Placement([full, housing("b", "org_2", in_flight=10)])

    assert placed_on(placement) == "b"


def test_an_idle_directory_makes_room_once() -> None:
    placement = Placement([housing("a", "org_2", "org_3", "org_4", directories_idle=1)])

    assert placed_on(placement) == "a"
    assert placed_on(placement, replace(EXECUTION, organization_id=OrganizationId("org_5"))) is None


def test_a_batch_takes_no_more_places_than_there_are() -> None:
    placement = Placement([housing("a", "org_2")])
    batch = [replace(EXECUTION, organization_id=OrganizationId(f"org_{number}")) for number in (1, 3, 4, 1, 2)]

    assert [placed_on(placement, one) for one in batch] == ["a", "a", None, "a", "a"]
    assert placement.wait_for(batch[2]) == PlaceWait(ROOM)


def test_directories_that_are_being_unloaded_hold_their_places() -> None:
    placement = Placement([housing("a", "org_2", directories_taken=3)])

    assert placed_on(placement) is None
    assert placement.wait_for(EXECUTION) == PlaceWait(ROOM)


def test_a_full_server_says_so_whether_or_not_it_has_room_for_directories() -> None:
    placement = Placement([housing("a", "org_2", "org_3", "org_4", capacity_runs=2, in_flight=2)])

    assert placed_on(placement) is None
    assert placement.wait_for(EXECUTION) == PlaceWait(FULL)


def test_a_session_in_the_common_directory_stays_there_and_needs_no_place() -> None:
    known = replace(EXECUTION, instance_id=InstanceId("a"), opencode_session_id="ses_oc")
    full = housing("a", "org_2", "org_3", "org_4")

    assert placed_on(Placement([full]), known) == "a"
    assert placed_on(Placement([full]), replace(known, opencode_directory=f"{PATH}/org_1")) is None


def test_servers_without_directories_take_every_organization() -> None:
    placement = Placement([housing("a", "org_2", "org_3", "org_4"), server("plain", in_flight=1)])

    assert placed_on(placement) == "plain"


def test_a_dedicated_server_needs_no_directories() -> None:
    own = housing("own", organization_id=OrganizationId("org_1"), max_directories=0)

    chosen = Placement([own]).place(EXECUTION, DEDICATED)

    assert chosen is not None
    assert chosen.id == "own"
