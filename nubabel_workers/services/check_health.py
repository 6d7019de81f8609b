"""Look at everything that the system depends on, and say in plain words what to do about what is broken."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from nubabel_workers.domain.administration import WorkspaceSummary
from nubabel_workers.domain.circuit_breaker import CLOSED, Gate
from nubabel_workers.domain.errors import CredentialsError, NubabelError, PermanentError, SecretUnreadableError
from nubabel_workers.domain.ports import Clock, InstanceStore, TenantStore
from nubabel_workers.domain.ports.administration import SlackIdentity, WorkspaceRegistry
from nubabel_workers.domain.rollout import Rollout
from nubabel_workers.domain.tenants import TOKEN_REVOKED, Instance, ServersPolicy, Workspace
from nubabel_workers.domain.unserved import Unserved
from nubabel_workers.services.find_unserved import FindUnserved
from nubabel_workers.services.manage_instances import ManageInstances
from nubabel_workers.services.manage_workspaces import ManageWorkspaces

_MAX_WORKSPACES = 20  # asked per run: Slack counts the calls
_ENDED_LATELY = timedelta(days=7)


@dataclass(frozen=True)
class Probe:
    """One thing to look at. check returns words about what it found, or raises NubabelError."""

    name: str
    check: Callable[[], Awaitable[str]]
    advice: str  # what to do when it fails
    needs: str | None = None  # name of the probe without whose success this one has nothing to look at


@dataclass(frozen=True)
class Finding:
    name: str
    ok: bool
    detail: str
    advice: str = ""  # empty when all is well
    latency_ms: float = 0.0


class _UnfitError(PermanentError):
    """An OpenCode server that answered or refused: what it said decides what to do about it."""

    def __init__(self, problem: str, *, advice: str) -> None:
        super().__init__(problem, code="instance_unfit")
        self.advice = advice


class CheckHealth:
    """dependencies: what can be asked without knowing any row. What is found in rows (servers, workspaces) is looked at
    after them, when the probes named needed_by_rows went well.
    """

    def __init__(
        self,
        dependencies: Sequence[Probe],
        needed_by_rows: frozenset[str],
        instances: InstanceStore,
        manage_instances: ManageInstances,
        find_unserved: FindUnserved,
        workspaces: WorkspaceRegistry,
        manage_workspaces: ManageWorkspaces,
        tenants: TenantStore,
        slack: SlackIdentity,
        rollout: Rollout,
        clock: Clock,
        *,
        timeout_s: float = 8.0,
    ) -> None:
        self._dependencies = dependencies
        self._needed_by_rows = needed_by_rows
        self._instances = instances
        self._manage_instances = manage_instances
        self._find_unserved = find_unserved
        self._workspaces = workspaces
        self._manage_workspaces = manage_workspaces
        self._tenants = tenants
        self._slack = slack
        self._rollout = rollout
        self._clock = clock
        self._timeout_s = timeout_s

    async def run(self) -> list[Finding]:
        """Each look within timeout_s seconds, those that don't depend on each other at once."""
        findings: list[Finding] = []
        left = list(self._dependencies)
        while left:
            looked_at = {finding.name for finding in findings}
            next_ones = [probe for probe in left if probe.needs is None or probe.needs in looked_at]
            if not next_ones:
                raise ValueError(f"nothing is named {left[0].needs}, which {left[0].name} needs")
            findings += await self._look_at_all(next_ones, findings)
            left = [probe for probe in left if probe not in next_ones]
        order = [probe.name for probe in self._dependencies]
        findings.sort(key=lambda finding: order.index(finding.name))
        if not all(finding.ok for finding in findings if finding.name in self._needed_by_rows):
            return findings
        for expand in (self._instance_probes, self._unserved_probes, self._workspace_probes):
            findings += await self._look_at_all(await expand())
        return findings

    async def _look_at_all(self, probes: Sequence[Probe], before: Sequence[Finding] = ()) -> list[Finding]:
        failed = {finding.name for finding in before if not finding.ok}
        return list(
            await asyncio.gather(
                *(_not_looked_at(probe) if probe.needs in failed else self._look_at(probe) for probe in probes)
            )
        )

    async def _look_at(self, probe: Probe) -> Finding:
        started, advice = self._clock.monotonic(), probe.advice
        try:
            async with asyncio.timeout(self._timeout_s):
                detail, ok = await probe.check(), True
        except TimeoutError:
            detail, ok = f"no answer within {self._timeout_s:g} s", False
        except _UnfitError as error:
            detail, ok, advice = str(error), False, error.advice
        except SecretUnreadableError:  # what to do about it is told once, by the probe of the keys
            detail, ok, advice = "not looked at: its stored secret cannot be decrypted", False, ""
        except NubabelError as error:
            detail, ok = str(error), False
        latency_ms = (self._clock.monotonic() - started) * 1000
        return Finding(probe.name, ok, detail, "" if ok else advice, round(latency_ms, 1))

    async def _instance_probes(self) -> list[Probe]:
        instances = await self._instances.loads()
        if not any(instance.status == "active" for instance in instances):
            none_needed = self._rollout.without_opencode
            return [Probe("OpenCode", partial(_no_instance, none_needed), _advice_without_active(instances))]
        gates = await self._manage_instances.gates()
        return [self._instance_probe(instance, gates.get(instance.id, CLOSED)) for instance in instances]

    def _instance_probe(self, instance: Instance, gate: Gate) -> Probe:
        out_of_use = f"; to take it out of use: nubabel instances drain {instance.id}"

        async def check() -> str:
            if instance.unreadable:
                raise SecretUnreadableError(instance.health_detail)
            found = await self._manage_instances.look_at(instance)
            breaker = "" if gate.lets_all else f"; circuit breaker {gate.words}"
            if found.problem is not None:
                raise _UnfitError(found.problem + breaker, advice=found.advice + out_of_use)
            busy = f"{instance.in_flight}/{instance.capacity_runs} runs"
            words = f"{instance.url}, version {found.version}, {len(found.agents)} agents, {busy}, {instance.status}"
            return words + breaker

        return Probe(f"OpenCode {instance.id}", check, f"see whether the server at {instance.url} runs" + out_of_use)

    async def _unserved_probes(self) -> list[Probe]:
        """None where every organization has a server. Looked for after the servers: they were seen just now."""
        instances = await self._instances.loads()
        if any(instance.unreadable for instance in instances):
            return []  # they may serve: what is missing is a key, not a server
        found = await self._find_unserved.all()
        if not any(one.status == "active" for one in instances):
            found = [one for one in found if one.servers is ServersPolicy.DEDICATED]  # the others are told of by then
        return [Probe(one.name, partial(_nobody_serves, one), one.advice) for one in found]

    async def _workspace_probes(self) -> list[Probe]:
        """Those in use, and those that ended lately: they are no failure, but somebody may wonder."""
        every, since = await self._workspaces.list(None), self._clock.now() - _ENDED_LATELY
        active = [one for one in every if one.active]
        ended = [one for one in every if one.revoked_at is not None and one.revoked_at > since]
        return [
            *(self._workspace_probe(one) for one in active[:_MAX_WORKSPACES]),
            *(Probe(_name_of(one), partial(_ended, one), "") for one in ended[:_MAX_WORKSPACES]),
        ]

    def _workspace_probe(self, summary: WorkspaceSummary) -> Probe:
        async def check() -> str:
            workspace = await self._tenants.workspace(summary.organization_id, summary.id, afresh=True)
            if workspace is None or not workspace.active:
                return "ended, or its organization is disabled: nothing to check"
            try:
                bot = await self._slack.auth_test(workspace.bot_token)
            except CredentialsError as refused:
                raise await self._after_refusal(workspace, refused) from refused
            if bot.team_id != workspace.team_id:
                raise CredentialsError(f"the stored token belongs to the workspace {bot.team_id}")
            return f"{bot.team_name or bot.team_id}, bot {bot.bot_user_id}"

        return Probe(
            _name_of(summary),
            check,
            f"install the app again, or give a new token: nubabel workspaces add {summary.organization_id}",
        )

    async def _after_refusal(self, asked: Workspace, refused: CredentialsError) -> CredentialsError:
        """A workspace whose token Slack took back is over, whoever hears of it first; other refusals may pass."""
        if refused.code not in TOKEN_REVOKED:
            return refused
        cancelled = await self._manage_workspaces.end_revoked(asked, actor="doctor", reason=refused.code)
        if cancelled is None:
            return refused
        words = f"{refused}: the workspace is ended now, {len(cancelled)} of its executions are cancelled"
        return CredentialsError(words, code=refused.code)


def _name_of(summary: WorkspaceSummary) -> str:
    return f"Slack {summary.team_name or summary.team_id}"


async def _ended(summary: WorkspaceSummary) -> str:
    why = f" ({summary.ended_reason})" if summary.ended_reason else ""
    return (
        f"ended {summary.revoked_at:%Y-%m-%d %H:%M} UTC{why}: nobody is answered there. To use it again: "
        f"nubabel workspaces add {summary.organization_id}"
    )


async def _not_looked_at(probe: Probe) -> Finding:
    return Finding(probe.name, ok=False, detail=f"not looked at, because of: {probe.needs}")


async def _no_instance(none_needed: str | None) -> str:
    words = "no active OpenCode server is registered"
    if none_needed is not None:
        return f"{words}, and {none_needed}"
    raise PermanentError(words, code="no_instance")


def _advice_without_active(instances: Sequence[Instance]) -> str:
    add = "register a server: nubabel instances add http://host:4096"
    if not instances:
        return add
    return f"nubabel instances activate {instances[0].id}, which is {instances[0].status}; or {add}"


async def _nobody_serves(found: Unserved) -> str:
    raise PermanentError(found.words, code="unserved")
