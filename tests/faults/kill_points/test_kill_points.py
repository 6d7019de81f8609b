"""A process is killed before and after each call through a port and each commit: nothing lost, nothing twice.

Complete runs of every scenario say where calls are made; then each of these points is some process's last. What became
of it is read from the logs of the Slack and OpenCode simulators, the webhooks' receiver and the operator's rows.
"""

import asyncio
from pathlib import Path
from typing import get_type_hints

import pytest

from nubabel_workers.bootstrap import Adapters
from nubabel_workers.domain.wording import Language, say
from tests.faults.kill_points import points
from tests.faults.kill_points.campaign import Campaign, Case, play
from tests.faults.kill_points.conftest import LaneStores
from tests.faults.kill_points.conversations import nothing_to_stop
from tests.faults.kill_points.lane import lane
from tests.faults.kill_points.points import KillPoint, Moment
from tests.faults.kill_points.processes import WORKER, forking

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

_NOT_PORTS = {
    *("settings", "plans", "rollout", "clock", "chance", "metrics", "cache", "database", "cipher", "servers", "egress"),
}
_PLAYED_ELSEWHERE = {
    "groups",
    "admission",
    "answers",
    "calls",
    "directories",
    "documents",
    "id_owners",
    "orchestrators",
    "vitals",
}  # points says where


def test_every_port_has_its_adapter_in_the_list() -> None:
    assert points.ports_without_an_adapter_here() == set()


def test_every_adapter_of_the_composition_root_is_in_the_list() -> None:
    wrapped = {adapter for adapter, _ in points.ADAPTERS.values()}

    unknown = {name for name, kind in get_type_hints(Adapters).items() if kind not in wrapped}

    assert unknown - _NOT_PORTS - _PLAYED_ELSEWHERE == set()


def test_complete_runs_keep_every_promise(campaign: Campaign) -> None:
    assert {str(played.case): played.wrong for played in campaign.complete if played.wrong} == {}


def test_every_method_of_every_port_is_reached(campaign: Campaign) -> None:
    reached = {point.call for point in campaign.points}

    assert points.every_call() - reached == points.NOT_CALLED.keys()


def test_somebody_dies_at_every_point(campaign: Campaign) -> None:
    died = {played.case.point for played in campaign.killed if played.reached}

    assert campaign.points - died == set()


def test_every_promise_is_kept_whoever_dies_wherever(campaign: Campaign) -> None:
    assert {str(played.case): played.wrong for played in campaign.killed if played.wrong} == {}


def test_what_was_right_stays_right(campaign: Campaign) -> None:
    assert campaign.undone == []


def test_without_the_look_up_of_earlier_posts_the_same_kill_answers_twice(
    lane_stores: LaneStores, tmp_path: Path
) -> None:
    """The control: a rig that cannot fail proves nothing."""
    case = Case([nothing_to_stop], KillPoint(WORKER, "messenger.post", Moment.AFTER))

    async def played_blindly() -> str:
        async with lane(forking(), lane_stores.new(0), tmp_path, patience_s=8, blind=True) as running:
            played, _ = await play(running, case)
        return played.wrong

    nothing = say("nothing_to_stop", Language.ENGLISH)
    assert f"told: {[nothing, nothing]}" in asyncio.run(played_blindly())
