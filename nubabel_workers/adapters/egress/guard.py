"""The one way out to addresses that somebody else names: webhooks, MCP servers and their authorization servers.

An address is checked where it is used: the name is resolved by us, and the connection goes to the checked address, so
that a DNS answer that changes in between (rebinding) changes nothing.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from nubabel_workers.domain.errors import InvalidInputError, PermanentError, UnavailableError, UncertainError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

EGRESS_REFUSED: Final = "egress_refused"
INVALID_URL: Final = "invalid_url"
MAX_URL_CHARS: Final = 2_048

_CHUNK_BYTES: Final = 16 * 1024
_LOCALHOST: Final = re.compile(r"(?:.+\.)?localhost\.?", re.IGNORECASE)  # leads nowhere else: RFC 6761, section 6.3
_EMBEDDED_IPV4: Final = ipaddress.ip_network("64:ff9b::/96")  # NAT64: the last 32 bits are an IPv4 address
# Not reachable for others although `is_global` says so: Azure's host, site-local, deprecated 6to4 relays, local NAT64.
_ALSO_PRIVATE: Final = tuple(
    ipaddress.ip_network(network)
    for network in ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "3fff::/20", "64:ff9b:1::/48")
)


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """The operator's exceptions. Whatever is listed may be private and plain http; all else is public and https.

    hosts: (name or literal address, port or None for any); they never reach link-local addresses, where clouds keep
    their metadata. networks: addresses allowed whatever name leads to them (plain http for literal addresses only).
    """

    hosts: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """Entries like `hooks.internal`, `localhost:9000`, `[::1]:9000` or `10.1.0.0/16`.

        Raises InvalidInputError saying which is none of these, without showing it: it may hold a password.
        """
        hosts: set[tuple[str, int | None]] = set()
        networks: list[Network] = []
        for position, entry in enumerate(entries, start=1):
            try:
                if "/" in entry:
                    networks.append(ipaddress.ip_network(entry))
                else:
                    hosts.add(_host_and_port(entry))
            except ValueError:
                raise InvalidInputError(
                    f"entry {position} must be host:port, a host or a network, e.g. hooks.internal:9000 or 10.1.0.0/16"
                ) from None
        return cls(frozenset(hosts), tuple(networks))

    def lists(self, host: str, port: int | None) -> bool:
        return not self.hosts.isdisjoint({(host.lower(), port), (host.lower(), None)})

    def permits(self, host: str, port: int | None, address: Address) -> bool:
        actual = _actual(address)
        if any(actual in network for network in self.networks):
            return True
        if actual.is_multicast or actual.is_unspecified or actual.is_link_local:
            return False
        return self.lists(host, port) or _is_public(actual)


def _host_and_port(entry: str) -> tuple[str, int | None]:
    url = URL(f"//{entry}")
    if not url.host or url.user is not None:
        raise ValueError(entry)
    return url.host.lower(), url.explicit_port


def _actual(address: Address) -> Address:
    """The IPv4 address inside a mapped, NAT64 or 6to4 one; it is where the packets end up."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _EMBEDDED_IPV4:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_public(address: Address) -> bool:
    if not address.is_global or address.is_reserved:
        return False
    return not any(address in network for network in _ALSO_PRIVATE)


class CheckedResolver(AbstractResolver):
    """Resolves for the connector, and refuses a name when any of its addresses is out of bounds."""

    def __init__(self, policy: EgressPolicy, inner: AbstractResolver) -> None:
        self._policy = policy
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        results = await self._inner.resolve(host, port, family)
        for result in results:
            if not self._policy.permits(host, port, ipaddress.ip_address(result["host"])):
                raise PermanentError("the URL's host leads to an address that is not public", code=EGRESS_REFUSED)
        return results

    async def close(self) -> None:
        await self._inner.close()


@dataclass(frozen=True, slots=True)
class EgressResponse:
    """body: at most the bytes asked for; truncated when there were more."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    truncated: bool = False


class EgressGuard:
    """HTTP to outside URLs. No redirects, no proxies, no cookies, bounded time and size."""

    def __init__(
        self, policy: EgressPolicy, *, timeout_s: float = 10.0, resolver: AbstractResolver | None = None
    ) -> None:
        """resolver: for tests; the system's otherwise."""
        self._policy = policy
        self._timeout_s = timeout_s
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def check_url(self, url: str) -> URL:
        """Refuse what no resolving is needed to refuse; also right when a URL is registered. InvalidInputError."""
        try:
            target = URL(url) if len(url) <= MAX_URL_CHARS and url.isprintable() and " " not in url else URL()
            host, port = target.host, target.port
        except ValueError:
            host = port = None
        if not host or port is None:
            raise InvalidInputError("the URL must be absolute and at most 2,048 characters long", code=INVALID_URL)
        if target.user is not None or target.password is not None:
            raise InvalidInputError("the URL must not contain credentials", code=INVALID_URL)
        address = _literal(host)
        is_this_machine = _LOCALHOST.fullmatch(host) is not None and not self._policy.lists(host, port)
        if is_this_machine or (address is not None and not self._policy.permits(host, port, address)):
            raise InvalidInputError("the URL's address is not public", code=EGRESS_REFUSED)
        if target.scheme != "https" and not (target.scheme == "http" and self._may_be_plain(host, port, address)):
            raise InvalidInputError("the URL must begin with https://", code=EGRESS_REFUSED)
        return target

    def _may_be_plain(self, host: str, port: int, address: Address | None) -> bool:
        if self._policy.lists(host, port):
            return True
        return address is not None and any(_actual(address) in network for network in self._policy.networks)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        max_response_bytes: int = 64 * 1024,
        timeout_s: float | None = None,
    ) -> EgressResponse:
        """One request; any status is an answer, redirects included. max_response_bytes=0 leaves the body unread.

        Raises InvalidInputError or PermanentError(code="egress_refused") when the address is out of bounds,
        UnavailableError when nothing was sent, UncertainError when the answer is missing.
        """
        target = self.check_url(url)
        try:
            async with (
                asyncio.timeout(timeout_s or self._timeout_s),
                self._connected().request(
                    method, target, headers=headers, data=body, allow_redirects=False
                ) as response,
            ):
                content, truncated = await _read_bounded(response, max_response_bytes)
                return EgressResponse(response.status, dict(response.headers), content, truncated)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise UnavailableError(f"{target.host} could not be reached ({type(error).__name__})") from None
        except (aiohttp.InvalidURL, UnicodeError) as error:
            raise InvalidInputError(f"the URL is not usable ({type(error).__name__})", code=INVALID_URL) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UncertainError(f"{target.host} gave no answer ({type(error).__name__})") from None

    def new_session(self) -> aiohttp.ClientSession:
        """Connections that lead to checked addresses only; whoever asks closes it, and calls `check_url` for each URL.

        Literal addresses are not resolved, hence not checked here.
        """
        resolver = CheckedResolver(self._policy, self._resolver or ThreadedResolver())
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=self._timeout_s / 2),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # a small answer must stay small
            headers={"User-Agent": "nubabel-workers", "Accept-Encoding": "identity"},
        )

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = self.new_session()
        return self._session


async def _read_bounded(response: aiohttp.ClientResponse, max_bytes: int) -> tuple[bytes, bool]:
    if max_bytes == 0:  # only the status matters; a body that stalls must not spoil it
        return b"", True
    content = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        content += chunk
        if len(content) > max_bytes:
            return bytes(content[:max_bytes]), True
    return bytes(content), False


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
