"""Process: the same job in a straight line. One asyncio program, one coroutine per mention, no queue in between.

The SQL is that of our stores, on a database of its own; HTTP is bare aiohttp, Redis two commands; nothing is logged,
retried, leased again or limited. What the system takes beyond this is the price of queues and guarantees.
"""

import asyncio
import hmac
import time
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeVar

import aiohttp
import orjson
import uvloop
from aiohttp import web
from pydantic import SecretStr

from benchmarks.processes.commands import Json, serve
from benchmarks.system import ORGANIZATIONS, UNLIMITED, teams_of
from config.settings import Settings
from nubabel_workers.adapters.opencode import endpoints, wire
from nubabel_workers.adapters.opencode.event_stream import events
from nubabel_workers.adapters.opencode.transport import new_stream_session
from nubabel_workers.adapters.opencode.wire import Answer, Call
from nubabel_workers.bootstrap import Services, open_services
from nubabel_workers.domain import outcomes
from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.masking import Cleaning
from nubabel_workers.domain.notifications import SlackTarget
from nubabel_workers.domain.opencode_events import SessionIdle
from nubabel_workers.domain.placement import Placement
from nubabel_workers.domain.ports import PromptPart, SessionMapping
from nubabel_workers.domain.slack_events import SlackEventKind, classify
from nubabel_workers.domain.tenants import Instance, Workspace
from nubabel_workers.domain.verdict import IDLE, decide
from nubabel_workers.embedded.stack_tenants import create_tenant, register_server
from nubabel_workers.services.manage_instances import NewInstance
from nubabel_workers.services.process_slack_events import new_execution
from nubabel_workers.services.submit_prompt import ids_of
from nubabel_workers.simulators.slack.delivery import signature_headers
from nubabel_workers.simulators.slack.model import SlackWorld

_T = TypeVar("_T")

_AGENT = "Sisyphus - ultraworker"
_LEASE_S = 3600.0


class _StraightLine:
    def __init__(self, parts: AsyncExitStack) -> None:
        self._parts = parts
        self._running: set[asyncio.Task[None]] = set()
        self._idle: dict[str, asyncio.Future[None]] = {}
        self._workspaces: dict[str, Workspace] = {}
        self._failed = 0

    async def open(self, given: Json) -> str:
        """settings: of the system, with a database and a cache of our own. Returns where Slack's events go."""
        self._settings = Settings.model_validate(given["settings"])
        self._services = await self._parts.enter_async_context(
            open_services(self._settings, application_name="nubabel-floor")
        )
        await self._seed(self._services, given["opencode_url"], SecretStr(given["opencode_password"]))
        self._http = await self._parts.enter_async_context(aiohttp.ClientSession())
        streams = await self._parts.enter_async_context(new_stream_session())
        self._keep(self._listen(streams))
        runner = web.ServerRunner(web.Server(self._take))
        await runner.setup()
        self._parts.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/"

    async def failures(self, _given: Json) -> int:
        return self._failed

    async def _seed(self, services: Services, url: str, password: SecretStr) -> None:
        server = NewInstance(url, "opencode", password, UNLIMITED, UNLIMITED)
        self._instance: Instance = await register_server(services, server)
        world = SlackWorld(emit=lambda *_: "", echo_own_messages=False)
        for number, (name, count) in enumerate(ORGANIZATIONS.items(), start=1):
            installed = [world.add_workspace(team) for team in teams_of(number, count)]
            tenant = await create_tenant(services, name, installed)
            for summary in tenant.workspaces:
                workspace = await services.tenants.workspace(tenant.id, summary.id)
                if workspace is not None:
                    self._workspaces[summary.team_id] = workspace
        headers = wire.basic_authorization("opencode", password)
        self._opencode_headers = {"authorization": headers.get_secret_value()} if headers else {}

    def _keep(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed += 1
            asyncio.get_running_loop().call_exception_handler({"message": "floor failed", "exception": error})

    async def _listen(self, streams: aiohttp.ClientSession) -> None:
        stream = events(streams, self._instance.url, password=self._instance.password)
        async with aclosing(stream) as bursts:
            async for burst in bursts:
                for event in burst:
                    if isinstance(event, SessionIdle):
                        self._idle_of(event.session_id).set_result(None)

    def _idle_of(self, session_id: str) -> "asyncio.Future[None]":
        if session_id not in self._idle:
            self._idle[session_id] = asyncio.get_running_loop().create_future()
        return self._idle[session_id]

    async def _take(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        secret = self._settings.slack_signing_secret
        expected = signature_headers(
            secret.get_secret_value() if secret else "",
            body,
            now=float(request.headers["x-slack-request-timestamp"]),
        )["X-Slack-Signature"]
        if not hmac.compare_digest(expected, request.headers["x-slack-signature"]):
            return web.Response(status=401)
        payload = orjson.loads(body)
        workspace = self._workspaces[payload["team_id"]]
        event = classify(payload, workspace.bot_user_id)
        if event.kind in {SlackEventKind.IGNORED, SlackEventKind.EDITED}:
            return web.Response()
        services = self._services
        event_id = await services.inbound.add(
            workspace,
            event,
            correlation_id=services.chance.new_id("cor"),
            traceparent=services.chance.new_traceparent(),
        )
        if event_id is not None:
            self._keep(self._answer(workspace, event_id))
        return web.Response()

    async def _answer(self, workspace: Workspace, event_id: str) -> None:
        services = self._services
        lease = Lease(services.chance.new_id("lse"), time.monotonic() + _LEASE_S)
        (claimed,) = await services.inbound.claim(event_id=event_id, limit=1, lease=lease)
        target = SlackTarget(workspace.id, claimed.event.channel, claimed.event.thread_ts, claimed.event.ts)
        await services.executions.accept(
            new_execution(claimed, target), working=None, answer_by_s=_LEASE_S, inbound_event=(event_id, lease)
        )
        reaction = {"channel": target.channel, "timestamp": target.message_ts, "name": "eyes"}
        await self._slack(workspace, "reactions.add", reaction)
        execution, session_id = await self._submit(lease)
        await self._idle_of(session_id)
        del self._idle[session_id]
        await self._post(execution, await self._finish(execution.id, session_id, lease))
        ready = await services.notifications.claim(notification_id=None, limit=1, lease=lease)
        for notification in ready:
            await services.notifications.sent(notification, lease, ["1"])
        await self._slack(workspace, "reactions.remove", reaction)

    async def _submit(self, lease: Lease) -> tuple[Execution, str]:
        """The one whose turn it is: of two that come at once, each may work on the other's."""
        services = self._services
        (claimed,) = await services.executions.claim_queued(
            pool=Placement([self._instance]).pool(None), limit=1, lease=lease
        )
        execution = claimed.execution
        created = await self._opencode(endpoints.create_session(title=execution.id))
        ids = ids_of(execution, created.id, parts=1)
        await services.executions.begin_attempt(
            execution,
            lease,
            instance_id=self._instance.id,
            opencode_session_id=created.id,
            opencode_directory=None,
            message_id=ids.message_id,
            known_assistant_ids=(),
            analysis={},
            context=None,
            notes=(),
            cleaning=Cleaning(),
            run_deadline_s=_LEASE_S,
        )
        mapping = SessionMapping(self._instance.id, created.id, None)
        await services.mappings.remember(execution.organization_id, execution.session_id, mapping)
        await self._opencode(
            endpoints.submit_prompt(
                created.id,
                message_id=ids.message_id,
                parts=[PromptPart(ids.part_ids[0], text=execution.prompt)],
                agent=_AGENT,
                model=None,
                system=None,
            )
        )
        await services.executions.mark_running(execution, lease, check_after_s=0.0)
        return execution, created.id

    async def _finish(self, execution_id: str, session_id: str, lease: Lease) -> str:
        services = self._services
        (check,) = await services.executions.claim_checks(execution_id=execution_id, limit=1, lease=lease)
        page = await self._opencode(endpoints.list_messages(session_id))
        busy = await self._opencode(endpoints.session_status())
        verdict = decide(
            page.messages,
            my_message_id=ids_of(check.execution, session_id).message_id,
            state=busy.get(session_id, IDLE),
            settled=True,
            known_assistant_ids=frozenset(),
        )
        finish = outcomes.answered(check.execution, verdict, ())
        await services.executions.finish(check.execution, lease, finish)
        return finish.output or ""

    async def _post(self, execution: Execution, markdown: str) -> None:
        post = {
            "channel": execution.reply["channel"],
            "thread_ts": execution.reply["thread_ts"],
            "text": markdown,
            "blocks": [{"type": "markdown", "text": markdown}],
        }
        asked_in = next(one for one in self._workspaces.values() if one.id == execution.reply["workspace_id"])
        await self._slack(asked_in, "chat.postMessage", post)

    async def _opencode(self, call: Call[_T]) -> _T:
        headers = self._opencode_headers | ({"content-type": "application/json"} if call.body is not None else {})
        url = self._instance.url + call.target
        async with self._http.request(call.method, url, data=call.body, headers=headers) as response:
            answer = Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, await response.read())
        return wire.read_answer(call, answer)

    async def _slack(self, workspace: Workspace, method: str, arguments: Json) -> None:
        headers = {
            "authorization": f"Bearer {workspace.bot_token.get_secret_value()}",
            "content-type": "application/json",
        }
        url = f"{self._settings.slack_api_base_url}/{method}"
        async with self._http.post(url, data=orjson.dumps(arguments), headers=headers) as response:
            answer = orjson.loads(await response.read())
        if not answer["ok"]:
            raise RuntimeError(f"{method}: {answer['error']}")


async def main() -> None:
    async with AsyncExitStack() as parts:
        line = _StraightLine(parts)
        await serve({"open": line.open, "failures": line.failures})


if __name__ == "__main__":
    uvloop.run(main())
