"""Give the same answer again to the same question, for organizations that want that."""

from nubabel_workers.domain.executions import Execution, Status
from nubabel_workers.domain.ports import AnswerMemory, Clock, Finish, TenantStore
from nubabel_workers.domain.repeats import RememberedAnswer, question_of
from nubabel_workers.domain.tenants import RepeatedQuestions


class ReuseAnswers:
    """Of an organization that does not want it nothing is remembered either."""

    def __init__(self, memory: AnswerMemory, tenants: TenantStore, clock: Clock) -> None:
        self._memory = memory
        self._tenants = tenants
        self._clock = clock

    async def find(self, execution: Execution) -> RememberedAnswer | None:
        question = await self._question(execution)
        return None if question is None else await self._memory.find(execution.organization_id, question)

    async def keep(self, execution: Execution, finish: Finish) -> None:
        """finish: of an execution that was worked on; one that failed or was cut is no answer to anybody else."""
        if finish.status is not Status.COMPLETED or finish.output_cut or not finish.output or finish.notes:
            return
        question = await self._question(execution)
        if question is not None:
            answer = RememberedAnswer(finish.output, execution.id, self._clock.now())
            await self._memory.remember(execution.organization_id, question, answer)

    async def _question(self, execution: Execution) -> str | None:
        organization = await self._tenants.organization(execution.organization_id)
        if organization is None or organization.repeated_questions is RepeatedQuestions.RUN:
            return None
        return question_of(execution)
