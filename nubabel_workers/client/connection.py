"""What both clients say to the transport: address, token, time limits. No I/O."""

from collections.abc import Callable
from dataclasses import dataclass

import httpx
from pydantic import SecretStr

from nubabel_workers.client.credentials import checked_credential
from nubabel_workers.client.protocol import Request, Response

USER_AGENT = "nubabel-client/1"
# Everything that may come out of a transport instead of an answer.
TRANSPORT_ERRORS = (httpx.TransportError, httpx.StreamError, OSError)


@dataclass(frozen=True)
class Timeouts:
    """Seconds. read: between two pieces of an answer; stream_read: of an event stream, which has a heartbeat at least
    every 15 s.
    """

    connect_s: float = 5.0
    read_s: float = 30.0
    stream_read_s: float = 45.0


@dataclass(frozen=True)
class Address:
    base_url: str
    token: SecretStr

    @classmethod
    def of(cls, base_url: str, token: SecretStr | str) -> "Address":
        if not base_url.startswith(("https://", "http://")):
            raise ValueError("base_url begins with https:// (or http:// inside of one machine)")
        return cls(base_url.rstrip("/"), checked_credential(token, "the token"))

    def url(self, request: Request) -> str:
        return self.base_url + request.path

    def headers(self, request: Request) -> dict[str, str]:
        token = self.token.get_secret_value()
        return {"user-agent": USER_AGENT, **request.headers, "authorization": f"Bearer {token}"}


def countdown(timeout_s: float, now: Callable[[], float]) -> Callable[[], float]:
    """How many seconds are left of those that a caller gave, whenever it is asked; never less than 0."""
    ends_at = now() + timeout_s
    return lambda: max(0.0, ends_at - now())


def limits_of(timeouts: Timeouts, *, read_s: float) -> httpx.Timeout:
    return httpx.Timeout(read_s, connect=timeouts.connect_s, pool=timeouts.connect_s)


def response_of(answer: httpx.Response) -> Response:
    return Response(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.content)


def reason_of(error: BaseException) -> str:
    """The class alone: texts of transport errors may hold addresses."""
    return f"the gateway did not answer ({type(error).__name__})"
