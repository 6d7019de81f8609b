"""Submit one claimed execution to its OpenCode server: session, attempt, prompt, running.

Before each effect the row says what is about to happen; after a crash anywhere the next dispatch finds out what did.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from nubabel_workers.domain.budgets import BudgetReachedError
from nubabel_workers.domain.earlier_turns import MOST_EARLIER_TURNS
from nubabel_workers.domain.errors import (
    ForeignSessionError,
    LeaseLostError,
    NotFoundError,
    NubabelError,
    TransientError,
    UncertainError,
)
from nubabel_workers.domain.executions import Execution, SessionLeft
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.masking import Masked, MaskingPolicy
from nubabel_workers.domain.opencode_ids import PromptIds, prompt_ids
from nubabel_workers.domain.ports import (
    ExecutionStore,
    Incident,
    Incidents,
    OpenCodeServer,
    OpenCodeServers,
    PromptPart,
    SessionMapping,
    SessionMappings,
    Started,
)
from nubabel_workers.domain.ports.budgets import Hold
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.domain.verdict import IDLE, Role, VerdictKind, decide
from nubabel_workers.domain.wording import language_of, say
from nubabel_workers.services.gather_context import GatherContext, Gathered
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.keep_budgets import KeepBudgets
from nubabel_workers.services.keep_directories import KeepDirectories
from nubabel_workers.services.mask_prompt import MASKED_WITHIN_S, READING, MaskPrompt, Outgoing
from nubabel_workers.services.plan_runs import PlanRuns, RunPlan
from nubabel_workers.services.report_foreign_session import ReportForeignSession
from nubabel_workers.services.stop_stray_runs import StopStrayRuns
from nubabel_workers.services.written_down import in_doubt_unless_written

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RunLimits:
    """Seconds: submit_timeout_s for one POST, first_check_s until a run is looked at without news."""

    submit_timeout_s: float = 8.0
    first_check_s: float = 30.0
    earlier_turns_bytes: int = 24_000
    default_model: str | None = None  # "provider/model" for requests that name none


@dataclass(frozen=True)
class _Request:
    """One execution, and what was made ready for it. by: of the loop's clock, when all of it should be masked.

    outgoing: None where its session has the question already, if that is still there and not empty.
    """

    execution: Execution
    instance: Instance
    lease: Lease
    masking: MaskingPolicy
    by: float
    run: RunPlan
    hold: Hold | None
    directory: str | None
    gathered: Gathered
    outgoing: Outgoing | None


@dataclass(frozen=True)
class _Plan:
    """Everything that one submit needs, once its session is known.

    begins: whether its session holds nothing yet, so that the prompt brings all there is to know.
    """

    request: _Request
    opencode_session_id: str
    outgoing: Outgoing
    begins: bool
    known_assistant_ids: tuple[str, ...] = ()

    @property
    def message_id(self) -> str:
        return ids_of(self.request.execution, self.opencode_session_id).message_id

    @property
    def notes(self) -> Sequence[str]:
        """What is said beside the answer."""
        return self.request.gathered.noting(self.outgoing.notes).notes


@dataclass(frozen=True)
class _LeftThere:
    """What earlier attempts left in their session. empty: no prompt has arrived there at all."""

    assistant_ids: tuple[str, ...] = ()
    empty: bool = False


class SubmitPrompt:
    """Raises the errors of the OpenCode port; NotFoundError never leaves it: a lost session is replaced."""

    def __init__(
        self,
        executions: ExecutionStore,
        servers: OpenCodeServers,
        mappings: SessionMappings,
        context: GatherContext,
        leases: LeaseHolder,
        strays: StopStrayRuns,
        incidents: Incidents,
        foreign: ReportForeignSession,
        masking: MaskPrompt,
        budgets: KeepBudgets,
        directories: KeepDirectories,
        plan_runs: PlanRuns,
        *,
        limits: RunLimits,
    ) -> None:
        self._executions = executions
        self._servers = servers
        self._mappings = mappings
        self._context = context
        self._leases = leases
        self._strays = strays
        self._incidents = incidents
        self._foreign = foreign
        self._masking = masking
        self._budgets = budgets
        self._directories = directories
        self._plan_runs = plan_runs
        self._limits = limits

    async def resume(self, execution: Execution, instance: Instance, lease: Lease) -> Started | None:
        """Go on with the prompt of an earlier delivery, if it arrived; None: it did not. Ask before repeating."""
        session_id = execution.opencode_session_id
        if session_id is None or execution.instance_id != instance.id:
            return None
        try:
            arrived = await self._servers.server(instance).has_message(
                session_id, ids_of(execution, session_id).message_id
            )
        except NotFoundError:
            return None
        except TransientError as error:
            raise UncertainError(f"whether the prompt arrived could not be asked: {error}") from error
        if not arrived:
            return None
        log.info("opencode.prompt_found", attempt=execution.attempt)
        # What it did meanwhile is news that may have passed while nobody held the row: look at once.
        return await self._mark_running(execution, lease, check_after_s=0)

    async def submit(
        self,
        execution: Execution,
        instance: Instance,
        lease: Lease,
        *,
        masking: MaskingPolicy,
        left: SessionLeft | None = None,
    ) -> Started:
        """left: why its session's server was left, where it is another than this instance.

        Raises ForeignSessionError when the server mixes sessions up; then nothing more is asked of that session.

        Raises PromptRefusedError when the policy lets the prompt not leave, NotLookedThroughError when there was no
        time to find that out, BudgetReachedError where one of the organization's caps leaves no room for it,
        DirectoryWaitError while its directory cannot be used: it was not sent.
        """
        try:
            return await self._submit(execution, instance, lease, masking, left)
        except ForeignSessionError as error:
            await self._foreign.run(execution, instance.id, error)
            await self._leave_session(execution, lease, SessionLeft.FOREIGN)
            raise

    async def _submit(
        self,
        execution: Execution,
        instance: Instance,
        lease: Lease,
        masking: MaskingPolicy,
        left: SessionLeft | None,
    ) -> Started:
        request = await self._made_ready(execution, instance, lease, masking)
        session_id = execution.opencode_session_id
        if session_id is None:
            return await self._post_into_a_new_session(request)
        if execution.instance_id != instance.id:
            log.warning("opencode.server_left", instance_id=execution.instance_id, because=left)
            await self._leave_session(execution, lease, left)
            return await self._post_into_a_new_session(request)
        try:
            return await self._post_into(session_id, request)
        except NotFoundError:
            log.warning("opencode.session_lost", opencode_session_id=session_id)
            await self._leave_session(execution, lease, SessionLeft.LOST)
            directory = await self._directories.for_new_session(instance, execution.organization_id)
            return await self._post_into_a_new_session(replace(request, directory=directory))

    async def _made_ready(
        self, execution: Execution, instance: Instance, lease: Lease, masking: MaskingPolicy
    ) -> _Request:
        by = asyncio.get_running_loop().time() + MASKED_WITHIN_S
        run = await self._plan_runs.of(execution, instance.agents)
        hold = await self._budgets.hold_for(execution, run.analysis.category)
        if hold is not None and (shortage := await self._budgets.shortage_before(execution, hold)) is not None:
            raise BudgetReachedError(shortage)
        directory = await self._directories.for_session_of(instance, execution)
        continues = _only_continues(execution, instance)
        question = None if continues else await self._masking.question(execution, masking, by=by)
        gathered = (await self._context.gather(execution, ends_at=READING.ends_at(by))).noting(run.notes)
        request = _Request(execution, instance, lease, masking, by, run, hold, directory, gathered, outgoing=None)
        return request if question is None else replace(request, outgoing=await self._masked(request, question))

    async def _post_into(self, session_id: str, request: _Request) -> Started:
        """Raises NotFoundError when that session is no longer there."""
        execution = request.execution
        there = await self._left_in(self._servers.server(request.instance), execution, session_id)
        if there is None:
            return await self._mark_running(execution, request.lease, check_after_s=0)
        if there.empty:
            log.warning("opencode.session_empty", opencode_session_id=session_id)
            outgoing = await self._told_anew(request)
        elif request.outgoing is None:  # what was said of its question then is said in the end
            outgoing = Outgoing(notes=execution.notes)
        else:
            outgoing = request.outgoing
        return await self._post(_Plan(request, session_id, outgoing, there.empty, there.assistant_ids))

    async def _post_into_a_new_session(self, request: _Request) -> Started:
        outgoing = await self._told_anew(request)
        return await self._post(_Plan(request, await self._new_session(request), outgoing, begins=True))

    async def _told_anew(self, request: _Request) -> Outgoing:
        """What a session that knows nothing is told: the turns before this one as well."""
        execution, masking, by, outgoing = request.execution, request.masking, request.by, request.outgoing
        if outgoing is None:
            outgoing = await self._masked(request, await self._masking.question(execution, masking, by=by))
        if execution.begins_session:
            return outgoing
        max_bytes = self._limits.earlier_turns_bytes
        turns = await self._executions.earlier_turns(execution, limit=MOST_EARLIER_TURNS, max_bytes=max_bytes)
        return outgoing.after(await self._masking.earlier(execution, masking, turns, max_bytes=max_bytes, by=by))

    async def _masked(self, request: _Request, question: Masked) -> Outgoing:
        gathered = request.gathered
        return await self._masking.run(
            request.execution,
            request.masking,
            question,
            context=[gathered.thread] if gathered.thread else [],
            files=gathered.files,
            by=request.by,
            about_context=gathered.about_thread,
        )

    async def _leave_session(self, execution: Execution, lease: Lease, because: SessionLeft | None) -> None:
        await self._executions.forget_opencode_session(execution, lease, because=because)
        await self._mappings.forget(execution.organization_id, execution.session_id)

    async def _left_in(self, server: OpenCodeServer, execution: Execution, session_id: str) -> _LeftThere | None:
        """None: what an earlier attempt began still goes on, or has got its answer by now.

        A session that was written down, but whose first prompt did not arrive, is begun again: leaving it would leave a
        prompt in it that is only late, and repeating that one under its ids has no effect. So is one in which no
        earlier turn has arrived: the turn that it was made for may have ended before.
        """
        if execution.attempt == 0 and await self._executions.has_submitted_to(execution, session_id):
            return _LeftThere()
        message_id = ids_of(execution, session_id).message_id
        busy = await server.busy_sessions(execution.opencode_directory)
        messages = await server.run_messages(session_id, since=message_id)
        earlier = decide(
            messages,
            my_message_id=message_id,
            state=busy.get(session_id, IDLE),
            settled=True,
            known_assistant_ids=frozenset(execution.known_assistant_ids),
        )
        if earlier.kind in {VerdictKind.RUNNING, VerdictKind.SUCCEEDED}:
            log.info("opencode.earlier_run_found", attempt=execution.attempt, verdict=earlier.kind)
            return None
        # What has ended is no answer to the next attempt; one that is open may still get its end.
        ended = tuple(m.id for m in messages if m.role is Role.ASSISTANT and (m.completed or m.error))
        return _LeftThere(ended, empty=not messages)

    async def _new_session(self, request: _Request) -> str:
        # A crash before begin_attempt leaves an unused session on the server, which harms nobody.
        execution = request.execution
        return await self._servers.server(request.instance).create_session(
            title=f"Nubabel {execution.session_id}",
            metadata={"organization_id": execution.organization_id, "session_id": execution.session_id},
            directory=request.directory,
        )

    async def _post(self, plan: _Plan) -> Started:
        request = plan.request
        execution, lease, analysis = request.execution, request.lease, request.run.analysis
        await self._executions.begin_attempt(
            execution,
            lease,
            instance_id=request.instance.id,
            opencode_session_id=plan.opencode_session_id,
            opencode_directory=request.directory,
            message_id=plan.message_id,
            known_assistant_ids=plan.known_assistant_ids,
            analysis=analysis.as_dict(),
            context=request.gathered.remembered,
            notes=plan.notes,
            cleaning=plan.outgoing.cleaning,
            run_deadline_s=request.run.deadline_s,
            hold=request.hold,
        )
        if plan.begins:
            await self._claim_session(plan)
        await self._servers.server(request.instance).submit(
            plan.opencode_session_id,
            message_id=plan.message_id,
            parts=_parts(plan),
            agent=analysis.agent,
            model=analysis.model or self._limits.default_model,
            system=analysis.instructions or None,
            timeout_s=self._leases.time_to_act_s(lease, self._limits.submit_timeout_s),
        )
        try:
            return await self._mark_running(execution, lease, check_after_s=self._limits.first_check_s)
        except LeaseLostError:
            await self._regret(request.instance, plan.opencode_session_id)
            raise

    async def _claim_session(self, plan: _Plan) -> None:
        """After it was written down: of two organizations that got one session at once, both see the other."""
        execution, instance = plan.request.execution, plan.request.instance
        if await self._executions.owned_by_another(execution, instance.id, plan.opencode_session_id):
            raise ForeignSessionError("as a new session the server gave one of another organization")
        mapping = SessionMapping(instance.id, plan.opencode_session_id, plan.request.directory)
        await self._mappings.remember(execution.organization_id, execution.session_id, mapping)

    async def _regret(self, instance: Instance, opencode_session_id: str) -> None:
        """The prompt came late: another process had taken the row. While that one's run goes on, this was a repeat
        without effect; a run that nobody waits for is stopped, now or by the next comparison with the server.
        """
        self._incidents.count(Incident.LATE_PROMPT)
        log.warning("opencode.late_prompt", opencode_session_id=opencode_session_id)
        try:
            await self._strays.stop(instance, [opencode_session_id])
        except NubabelError as error:
            log.warning("opencode.late_prompt_not_stopped", error=str(error))

    async def _mark_running(self, execution: Execution, lease: Lease, *, check_after_s: float) -> Started:
        with in_doubt_unless_written("OpenCode has the prompt"):
            return await self._executions.mark_running(execution, lease, check_after_s=check_after_s)


def ids_of(execution: Execution, opencode_session_id: str, *, parts: int = 1) -> PromptIds:
    """The ids of an execution's prompt in that session: the same for every attempt, others for each replay and for
    each time that it goes on after a pause.

    A replay may come after later prompts of the session, and posting an older message again then answers the newest
    (measured on opencode 1.18.33).
    """
    name = f"{execution.id}#{execution.replays}" if execution.replays else str(execution.id)
    return prompt_ids(
        execution.organization_id,
        opencode_session_id,
        f"{name}+{execution.pauses}" if execution.pauses else name,
        created_ms=execution.message_created_ms,
        parts=parts,
    )


def _only_continues(execution: Execution, instance: Instance) -> bool:
    """Whether its session, if that is there and not empty, has its question already."""
    return bool(execution.pauses and execution.opencode_session_id) and execution.instance_id == instance.id


def _parts(plan: _Plan) -> list[PromptPart]:
    execution = plan.request.execution
    if execution.pauses and not plan.begins:
        (part_id,) = ids_of(execution, plan.opencode_session_id).part_ids
        return [PromptPart(part_id, text=say("continue", language_of(execution.prompt)))]
    texts = [text for text in plan.outgoing.texts if text]
    files = plan.outgoing.files
    part_ids = ids_of(execution, plan.opencode_session_id, parts=len(texts) + len(files)).part_ids
    return [
        *(PromptPart(part_id, text=text) for part_id, text in zip(part_ids, texts, strict=False)),
        *(
            PromptPart(part_id, file_url=file.data_url, mime_type=file.mime_type, filename=file.name)
            for part_id, file in zip(part_ids[len(texts) :], files, strict=True)
        ),
    ]
