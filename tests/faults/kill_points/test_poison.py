"""A request that kills whoever works on it is set aside; those that were in hand with it are answered."""

import asyncio
from pathlib import Path

from nubabel_workers.domain.wording import Language, say
from tests.faults.kill_points.conftest import LaneStores
from tests.faults.kill_points.conversations import answers, ask
from tests.faults.kill_points.lane import lane
from tests.faults.kill_points.processes import WORKER, forking

_QUESTIONS = 50
_POISON = "hemlock"


def test_one_poison_request_among_fifty_leaves_49_answers_and_one_dead_letter(
    lane_stores: LaneStores, tmp_path: Path
) -> None:
    async def played() -> None:
        async with lane(forking(), lane_stores.new(0), tmp_path, patience_s=90, poison=_POISON) as running:
            innocent = [ask(running, answers("Done.")) for _ in range(_QUESTIONS // 2)]
            poison = ask(running, f"{answers('Never.')} {_POISON}")
            innocent += [ask(running, answers("Done.")) for _ in range(_QUESTIONS - 1 - len(innocent))]

            await running.until(
                lambda: poison.told() and all(thread.told() for thread in innocent), "an outcome for everybody"
            )
            await running.until_quiet()

            for thread in innocent:
                thread.check("Done.")
            (apology,) = poison.told()
            assert apology.split("exe_")[0] == say("failed", Language.ENGLISH, reference="exe_").split("exe_")[0]
            assert await running.count("dead_letters") == 1
            assert await running.count("dead_letters WHERE reason = 'too-many-deliveries'") == 1
            assert running.processes[WORKER].kills > running.settings.max_lone_deliveries

    asyncio.run(played())
