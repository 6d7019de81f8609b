"""Clients of one OpenCode server, async and sync, over the same pure calls: they carry bytes and keep time limits."""

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Concatenate, ParamSpec, TypeVar

import httpx
from pydantic import SecretStr

from nubabel_workers.adapters.opencode import endpoints, transport, wire
from nubabel_workers.adapters.opencode.transport import (
    DEFAULT_TIMEOUTS,
    MAX_ANSWER_BYTES,
    TRANSPORT_ERRORS,
    AsyncHttp,
    Timeouts,
    answer_too_long,
)
from nubabel_workers.adapters.opencode.wire import Answer, Call
from nubabel_workers.domain.trace import outgoing_headers

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class CallReport:
    """What a hook is told of every call that was not cancelled. status: None when no answer came.

    sent: whether it may have reached the server. path: without the query. Bodies are texts of users and answers of
    models: they are given to a client made with `with_bodies` only, never those that hold credentials, and stay out of
    the repr.
    """

    name: str
    status: int | None
    seconds: float
    sent: bool = True
    method: str = ""
    path: str = ""
    request_bytes: int = 0
    answer_bytes: int = 0
    request_body: bytes | None = field(default=None, repr=False)
    answer_body: bytes | None = field(default=None, repr=False)


OnCall = Callable[[CallReport], None]


class _Connection:
    """What both clients know of their server."""

    def __init__(
        self,
        base_url: str,
        *,
        username: str = wire.DEFAULT_USERNAME,
        password: SecretStr | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        on_call: OnCall | None = None,
        with_bodies: bool = False,
    ) -> None:
        """password: None for a server without one. on_call: called after every call, answered or not, unless it was
        cancelled. with_bodies: the hook is also given what was sent and answered.
        """
        self.base_url = wire.checked_base_url(base_url)
        self._authorization = wire.basic_authorization(username, password)
        self._timeouts = timeouts
        self._on_call = on_call
        self._with_bodies = with_bodies

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"

    def _headers(self, call: Call[_T]) -> dict[str, str]:
        headers = {"accept-encoding": "identity", **outgoing_headers()}
        if self._authorization is not None:
            headers["authorization"] = self._authorization.get_secret_value()
        if call.body is not None:
            headers["content-type"] = "application/json"
        return headers

    def _total_s(self, call: Call[_T], timeout_s: float | None) -> float:
        if timeout_s is not None:
            return timeout_s
        return self._timeouts.total_s if call.patience_s is None else call.patience_s

    def _limits(self, call: Call[_T], total_s: float) -> tuple[float, float]:
        """Seconds to connect and to wait between two pieces of an answer, neither above those for all of it."""
        read_s = self._timeouts.read_s if call.patience_s is None else call.patience_s
        return min(self._timeouts.connect_s, total_s), min(read_s, total_s)

    def _report(self, call: Call[_T], started: float, answer: Answer | None, *, sent: bool = True) -> None:
        if self._on_call is None:
            return
        shown = self._with_bodies and not call.secret
        self._on_call(
            CallReport(
                name=call.name,
                status=answer.status if answer is not None else None,
                seconds=time.monotonic() - started,
                sent=sent,
                method=call.method,
                path=call.target.partition("?")[0],
                request_bytes=len(call.body or b""),
                answer_bytes=len(answer.body) if answer is not None else 0,
                request_body=call.body if shown else None,
                answer_body=answer.body if shown and answer is not None else None,
            )
        )

    def _failure(self, call: Call[_T], started: float, error: BaseException) -> Exception:
        sent = transport.was_sent(error)
        self._report(call, started, None, sent=sent)
        told = wire.no_answer if sent else wire.not_sent
        return told(call, transport.reason(error))


def _async(
    endpoint: Callable[_P, Call[_T]],
) -> "Callable[Concatenate[OpenCodeClient, _P], Coroutine[None, None, _T]]":
    @functools.wraps(endpoint)
    async def method(self: "OpenCodeClient", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self.call(endpoint(*args, **kwargs))

    return method


def _sync(endpoint: Callable[_P, Call[_T]]) -> "Callable[Concatenate[SyncOpenCodeClient, _P], _T]":
    @functools.wraps(endpoint)
    def method(self: "SyncOpenCodeClient", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self.call(endpoint(*args, **kwargs))

    return method


class OpenCodeClient(_Connection):
    """One server, async. Methods and their arguments: see `endpoints`; errors: see `domain.errors`."""

    def __init__(
        self,
        http: AsyncHttp,
        base_url: str,
        *,
        username: str = wire.DEFAULT_USERNAME,
        password: SecretStr | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        on_call: OnCall | None = None,
        with_bodies: bool = False,
    ) -> None:
        """http: from `new_http_client()`, shared by everything in the process, closed by whoever made it."""
        super().__init__(
            base_url,
            username=username,
            password=password,
            timeouts=timeouts,
            on_call=on_call,
            with_bodies=with_bodies,
        )
        self._http = http

    async def call(self, call: Call[_T], *, timeout_s: float | None = None) -> _T:
        """Send and decode. timeout_s: for all of it, instead of the usual limit.

        Raises UnavailableError when nothing was sent, UncertainError when a call that must not be repeated blindly got
        no clear answer, and otherwise what the answer says.
        """
        total_s = self._total_s(call, timeout_s)
        started = time.monotonic()
        try:
            async with asyncio.timeout(total_s):
                connect_s, read_s = self._limits(call, total_s)
                answer = await self._http.exchange(
                    call.method,
                    self.base_url + call.target,
                    headers=self._headers(call),
                    body=call.body,
                    connect_s=connect_s,
                    read_s=read_s,
                )
        except TRANSPORT_ERRORS as error:
            raise self._failure(call, started, error) from error
        self._report(call, started, answer)
        return wire.read_answer(call, answer)

    health = _async(endpoints.health)
    create_session = _async(endpoints.create_session)
    list_sessions = _async(endpoints.list_sessions)
    get_session = _async(endpoints.get_session)
    update_session = _async(endpoints.update_session)
    delete_session = _async(endpoints.delete_session)
    fork_session = _async(endpoints.fork_session)
    summarize_session = _async(endpoints.summarize_session)
    children = _async(endpoints.children)
    submit_prompt = _async(endpoints.submit_prompt)
    send_message = _async(endpoints.send_message)
    list_messages = _async(endpoints.list_messages)
    get_message = _async(endpoints.get_message)
    tool_calls = _async(endpoints.tool_calls)
    session_status = _async(endpoints.session_status)
    abort = _async(endpoints.abort)
    agents = _async(endpoints.agents)
    config = _async(endpoints.config)
    providers = _async(endpoints.providers)
    connected_providers = _async(endpoints.connected_providers)
    provider_auth_methods = _async(endpoints.provider_auth_methods)
    set_provider_key = _async(endpoints.set_provider_key)
    remove_provider_key = _async(endpoints.remove_provider_key)
    skills = _async(endpoints.skills)
    mcp_servers = _async(endpoints.mcp_servers)
    list_permissions = _async(endpoints.list_permissions)
    reply_permission = _async(endpoints.reply_permission)
    list_questions = _async(endpoints.list_questions)
    reply_question = _async(endpoints.reply_question)
    reject_question = _async(endpoints.reject_question)
    dispose = _async(endpoints.dispose)


class SyncOpenCodeClient(_Connection):
    """The same for code without an event loop. Threads may share it."""

    def __init__(
        self,
        http: httpx.Client,
        base_url: str,
        *,
        username: str = wire.DEFAULT_USERNAME,
        password: SecretStr | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        on_call: OnCall | None = None,
        with_bodies: bool = False,
    ) -> None:
        """http: from `new_sync_http_client()`, closed by whoever made it."""
        super().__init__(
            base_url,
            username=username,
            password=password,
            timeouts=timeouts,
            on_call=on_call,
            with_bodies=with_bodies,
        )
        self._http = http

    def call(self, call: Call[_T], *, timeout_s: float | None = None) -> _T:
        """As OpenCodeClient.call. The limit is looked at between two pieces of the answer."""
        total_s = self._total_s(call, timeout_s)
        started = time.monotonic()
        try:
            answer = self._exchange(self._request(call, total_s), deadline=started + total_s)
        except TRANSPORT_ERRORS as error:
            raise self._failure(call, started, error) from error
        self._report(call, started, answer)
        return wire.read_answer(call, answer)

    def _request(self, call: Call[_T], total_s: float) -> httpx.Request:
        connect_s, read_s = self._limits(call, total_s)
        timeout = httpx.Timeout(connect=connect_s, pool=connect_s, read=read_s, write=read_s)
        url = self.base_url + call.target
        return self._http.build_request(
            call.method, url, content=call.body, headers=self._headers(call), timeout=timeout
        )

    def _exchange(self, request: httpx.Request, *, deadline: float) -> Answer:
        response = self._http.send(request, stream=True)
        try:
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise answer_too_long()
                if time.monotonic() > deadline:
                    raise TimeoutError
            return Answer(response.status_code, response.headers, bytes(body))
        finally:
            response.close()

    health = _sync(endpoints.health)
    create_session = _sync(endpoints.create_session)
    list_sessions = _sync(endpoints.list_sessions)
    get_session = _sync(endpoints.get_session)
    update_session = _sync(endpoints.update_session)
    delete_session = _sync(endpoints.delete_session)
    fork_session = _sync(endpoints.fork_session)
    summarize_session = _sync(endpoints.summarize_session)
    children = _sync(endpoints.children)
    submit_prompt = _sync(endpoints.submit_prompt)
    send_message = _sync(endpoints.send_message)
    list_messages = _sync(endpoints.list_messages)
    get_message = _sync(endpoints.get_message)
    tool_calls = _sync(endpoints.tool_calls)
    session_status = _sync(endpoints.session_status)
    abort = _sync(endpoints.abort)
    agents = _sync(endpoints.agents)
    config = _sync(endpoints.config)
    providers = _sync(endpoints.providers)
    connected_providers = _sync(endpoints.connected_providers)
    provider_auth_methods = _sync(endpoints.provider_auth_methods)
    set_provider_key = _sync(endpoints.set_provider_key)
    remove_provider_key = _sync(endpoints.remove_provider_key)
    skills = _sync(endpoints.skills)
    mcp_servers = _sync(endpoints.mcp_servers)
    list_permissions = _sync(endpoints.list_permissions)
    reply_permission = _sync(endpoints.reply_permission)
    list_questions = _sync(endpoints.list_questions)
    reply_question = _sync(endpoints.reply_question)
    reject_question = _sync(endpoints.reject_question)
    dispose = _sync(endpoints.dispose)
