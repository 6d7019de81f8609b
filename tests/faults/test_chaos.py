"""A minute of chaos costs nothing but time; the same rig sees the double that a missing guard makes.

`make chaos` is the long form: five minutes, the waits and leases of production.
"""

import pytest

from nubabel_workers.simulators.slack import Fault, FaultKind
from tests.faults.chaos.book import directive
from tests.faults.chaos.ledger import Fate
from tests.faults.chaos.load import LoadOptions
from tests.faults.chaos.report import table
from tests.faults.chaos.rig import Rig, RigOptions

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

# Leases and waits are short, so that what a fault delays is over within the test.
_SHORT_WAITS = {
    "lease_s": "3",
    "listener_lease_s": "3",
    "scheduler_hint_after_s": "1",
    "scheduler_reconcile_s": "3",
    "retry_slack_events_max_wait_s": "5",
    "retry_orchestration_max_wait_s": "5",
    "retry_notifications_max_wait_s": "5",
    "opencode_give_up_after_s": "3",
}
_LOAD_S = 50.0


async def test_a_minute_of_chaos_loses_and_doubles_nothing() -> None:
    options = RigOptions(
        LoadOptions(seed=11, duration_s=_LOAD_S, rate=3),
        fault_every_s=2.5,
        stop_s=(4.0, 6.0),
        fleet_s=(2.0, 4.0),
        limit_s=(2.0, 4.0),
        given_up_s=(6.0, 8.0),
        settle_s=5.0,
        quiet_s=90.0,
        slack_time_scale=0.05,
        settings=_SHORT_WAITS,
    )

    async with Rig(options) as rig:
        result = await rig.run(rig.plan())

    assert result.accepted > _LOAD_S
    assert not result.broken, table(result)
    assert result.pauses > 0, table(result)


async def test_the_rig_sees_the_double_that_a_missing_look_up_makes() -> None:
    options = RigOptions(
        LoadOptions(seed=1, duration_s=0, rate=1),
        settle_s=5.0,
        slack_time_scale=0.05,
        quiet_s=120.0,
        control=True,
        copies=1,
        settings=_SHORT_WAITS,
    )

    async with Rig(options) as rig:
        tenant = rig.stack.tenants[0]
        rig.stack.slack.faults.plan(Fault("chat.postMessage", FaultKind.LOST_ANSWER, team=tenant.team))
        rig.load.new_thread(tenant, "C0CONTROL").ask(1, directive(1, 0.1))
        await rig.until_quiet()
        result = await rig.result()

    assert result.count(Fate.TWICE) == 1, table(result)
    assert result.broken
