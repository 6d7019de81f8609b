"""Loaded by Python itself in the control run's workers: an earlier post is never found, so that it is repeated."""

from nubabel_workers.services.deliver_to_slack import DeliverToSlack


async def _never_found(*_arguments: object, **_named: object) -> None:
    return None


DeliverToSlack._find = _never_found  # type: ignore[method-assign]
