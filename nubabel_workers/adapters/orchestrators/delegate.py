"""Another service that speaks the bridge contract: POST /delegate_task (DESIGN.md section 6)."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from nubabel_workers.adapters.orchestrators.statuses import require_success
from nubabel_workers.adapters.retry_after import read_retry_after
from nubabel_workers.domain.errors import (
    CredentialsError,
    NubabelError,
    PermanentError,
    TransientError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.executions import Usage
from nubabel_workers.domain.ports.orchestrators import Call, CallAnswer
from nubabel_workers.domain.trace import outgoing_headers

_NAME = "the delegate service"
_MODEL = "delegate"  # under which reports name what it used
_MAX_ANSWER_BYTES = 8 * 1024 * 1024
_SHORTEST_REST_S, _LONGEST_REST_S = 0.5, 10.0  # between two requests for one that goes on
_CONNECT_S = 5.0
_WAITS = 0.8  # of an exchange's time: what it is asked to wait, so that its answer still comes in time
_MOST_TOKENS = 10**12

_Tokens = Field(0, ge=0, le=_MOST_TOKENS)


class _ToldUsage(BaseModel):
    """What it says it used; numbers that cannot be are no answer."""

    model_config = ConfigDict(extra="ignore")

    input_tokens: int = _Tokens
    output_tokens: int = _Tokens
    reasoning_tokens: int = _Tokens
    cache_read_tokens: int = _Tokens
    cache_write_tokens: int = _Tokens
    cost_usd: float = Field(0.0, ge=0, le=1e6, allow_inf_nan=False)
    lower_bound: bool = False


class _Told(BaseModel):
    """The bridge contract's answer; what it says besides is not looked at."""

    model_config = ConfigDict(extra="ignore")

    session_id: str = Field(min_length=1, max_length=200)
    result: str = ""
    usage: _ToldUsage | None = None
    errors: list[Any] | None = None


class DelegateService:
    """Implements ports.orchestrators.CallableOrchestrator.

    A request that takes longer than one exchange is made again under its Idempotency-Key: it waits for the same task.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        url: str,
        token: SecretStr | None,
        now: Callable[[], datetime],
        exchange_s: float = 60.0,
    ) -> None:
        """url: of the service, without the path. exchange_s: seconds for one exchange; it is asked to wait for less."""
        self._client = client
        self._url = f"{url.rstrip('/')}/delegate_task"
        self._health_url = f"{url.rstrip('/')}/health"
        self._capabilities_url = f"{url.rstrip('/')}/capabilities"
        self._token = token
        self._now = now
        self._exchange_s = exchange_s

    async def check(self) -> str:
        """Whether it lives, and takes our token: of the contract's paths, the one that asks for it and does nothing."""
        await self._looked_at(self._health_url)
        try:
            await self._looked_at(self._capabilities_url)
        except CredentialsError:
            raise
        except NubabelError:  # not every service has it
            return "it answers; the first task shows whether it takes our token"
        return "it answers and takes our token"

    async def _looked_at(self, url: str) -> None:
        try:
            response = await self._client.get(url, headers=self._authorization(), timeout=_CONNECT_S)
        except httpx.HTTPError as error:
            raise UnavailableError(f"{_NAME} cannot be reached ({type(error).__name__})") from error
        require_success(response.status_code, response.headers, who=_NAME, now=self._now())

    async def answer(self, call: Call, *, timeout_s: float) -> CallAnswer:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + timeout_s
        taken_on = False
        while True:
            within_s = min(self._exchange_s, ends_at - loop.time())
            if within_s <= 0:
                raise UncertainError(f"{_NAME} did not finish within {timeout_s:g} s")
            try:
                status, headers, body = await self._exchange(call, within_s)
            except TransientError as error:
                if taken_on:  # it works on the task, whatever this exchange came to
                    raise UncertainError(f"{_NAME} works on it, and could not be asked: {error}") from error
                raise
            if status != HTTPStatus.ACCEPTED:
                return _answer_from(body)
            taken_on = True
            asked_s = read_retry_after(headers.get("retry-after", ""), self._now()) or _SHORTEST_REST_S
            await asyncio.sleep(min(max(asked_s, _SHORTEST_REST_S), _LONGEST_REST_S))

    async def _exchange(self, call: Call, within_s: float) -> tuple[int, httpx.Headers, bytes]:
        asked = {"idempotency-key": call.key, "prefer": f"wait={max(1, round(within_s * _WAITS))}"}
        try:
            async with self._client.stream(
                "POST",
                self._url,
                json=_body(call),
                headers={**asked, **outgoing_headers(), **self._authorization()},
                timeout=httpx.Timeout(within_s, connect=min(_CONNECT_S, within_s)),
            ) as response:
                require_success(response.status_code, response.headers, who=_NAME, now=self._now())
                return response.status_code, response.headers, await _limited(response)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise UnavailableError(f"{_NAME} cannot be reached ({type(error).__name__})") from error
        except httpx.HTTPError as error:  # also a body that cannot be decoded
            raise UncertainError(f"{_NAME} did not answer ({type(error).__name__})") from error

    def _authorization(self) -> dict[str, str]:
        return {} if self._token is None else {"authorization": f"Bearer {self._token.get_secret_value()}"}


def _body(call: Call) -> dict[str, Any]:
    body: dict[str, Any] = {"prompt": "\n\n".join(call.texts), "metadata": {"nubabel": dict(call.metadata)}}
    if call.category is not None:
        body |= {"category": call.category, "load_skills": list(call.skills)}
    if call.remote_session_id is not None:
        body["session_id"] = call.remote_session_id
    return body


async def _limited(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES:
            raise PermanentError(f"{_NAME} answered with more than {_MAX_ANSWER_BYTES} bytes", code="answer_too_large")
    return bytes(body)


def _answer_from(body: bytes) -> CallAnswer:
    try:
        told = _Told.model_validate_json(body)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, one["loc"])) or "the body" for one in error.errors(include_url=False)[:3])
        raise PermanentError(
            f"{_NAME} answered with something that is no bridge answer: {fields}", code="answer_unreadable"
        ) from None
    return CallAnswer(
        told.result,
        error=_error_of(told.errors),
        usage=_usage_of(told.usage),
        model=_MODEL if told.usage is not None else None,
        remote_session_id=told.session_id,
    )


def _usage_of(told: _ToldUsage | None) -> Usage | None:
    if told is None:
        return None
    return Usage(
        input_tokens=told.input_tokens,
        output_tokens=told.output_tokens,
        reasoning_tokens=told.reasoning_tokens,
        cache_read_tokens=told.cache_read_tokens,
        cache_write_tokens=told.cache_write_tokens,
        cost=told.cost_usd,
        lower_bound=told.lower_bound,
    )


def _error_of(errors: list[Any] | None) -> str | None:
    """One bounded line of whatever it calls an error."""
    if not errors:
        return None
    first = errors[0]
    words = [first.get("code"), first.get("message")] if isinstance(first, dict) else [first]
    return f"{_NAME} failed: " + ": ".join(str(word)[:500] for word in words if word)
