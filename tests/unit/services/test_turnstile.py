"""At most one claim runs in a process and one waits; whoever comes then is served by that one."""

import asyncio

from nubabel_workers.services.turnstile import Turnstile


async def test_who_comes_while_one_passes_waits_and_who_comes_then_need_not() -> None:
    turnstile = Turnstile()
    order: list[str] = []

    async def second() -> None:
        async with turnstile.passing():
            order.append("second")

    async with turnstile.passing():
        assert not turnstile.somebody_waits
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        assert turnstile.somebody_waits
        order.append("first")
    await waiting

    assert order == ["first", "second"]
    assert not turnstile.somebody_waits


async def test_one_that_gives_up_waiting_serves_nobody() -> None:
    turnstile = Turnstile()

    async def second() -> None:
        async with turnstile.passing():
            raise AssertionError("never its turn")

    async with turnstile.passing():
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert not turnstile.somebody_waits


async def test_a_failure_lets_the_next_pass() -> None:
    turnstile = Turnstile()

    async def fails() -> None:
        async with turnstile.passing():
            raise ValueError

    await asyncio.gather(fails(), return_exceptions=True)

    async with asyncio.timeout(1), turnstile.passing():
        pass
