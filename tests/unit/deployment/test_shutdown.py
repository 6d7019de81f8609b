"""What process web does at its end, one thing after the other, fits into the time that it is given."""

from nubabel_workers.adapters.mcp.pool import CLOSE_S
from nubabel_workers.gateway.__main__ import GRACEFUL_S
from nubabel_workers.services.grant_tool_access import RefreshLimits
from nubabel_workers.services.invoke_tool import InvokeLimits
from tests.unit.deployment.files import compose

_STORES_S = 3  # connections to the stores


def test_the_end_of_web_comes_before_it_is_killed() -> None:
    calls = InvokeLimits()

    needed_s = GRACEFUL_S + calls.close_s + calls.give_up_s + CLOSE_S + RefreshLimits().close_s + _STORES_S

    assert needed_s <= int(compose()["services"]["web"]["stop_grace_period"].removesuffix("s"))
