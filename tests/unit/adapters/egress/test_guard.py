"""Every door out of our network that a URL from outside could open."""

import asyncio
import gzip
import ipaddress

import pytest
from aiohttp import web

from nubabel_workers.adapters.egress.guard import CheckedResolver, EgressGuard, EgressPolicy
from nubabel_workers.domain.errors import InvalidInputError, PermanentError, UnavailableError, UncertainError
from tests.unit.adapters.conftest import Receiver, ScriptedResolver

PRIVATE = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.8", "198.18.0.1", "224.0.0.1", "239.1.1.1"),
    *("240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    *("64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::", "2001:db8::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
]
PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
OPEN = EgressPolicy()


@pytest.mark.parametrize("address", PRIVATE)
async def test_name_that_leads_to_a_private_address_is_refused(address: str) -> None:
    resolver = ScriptedResolver([address])
    guard = EgressGuard(OPEN, resolver=resolver)

    with pytest.raises(PermanentError) as refused:
        await guard.request("POST", "https://hooks.example/in")

    assert refused.value.code == "egress_refused"
    assert resolver.asked == ["hooks.example"]
    await guard.close()


@pytest.mark.parametrize("address", PRIVATE)
def test_private_address_in_the_url_is_refused(address: str) -> None:
    host = f"[{address}]" if ":" in address else address

    with pytest.raises(InvalidInputError) as refused:
        EgressGuard(OPEN).check_url(f"https://{host}/in")

    assert refused.value.code == "egress_refused"


@pytest.mark.parametrize("address", PUBLIC)
async def test_public_addresses_are_allowed(address: str) -> None:
    host = f"[{address}]" if ":" in address else address

    resolved = await CheckedResolver(OPEN, ScriptedResolver([address])).resolve("hooks.example", 443)

    assert [result["host"] for result in resolved] == [address]
    assert EgressGuard(OPEN).check_url(f"https://{host}/in").host is not None


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "hooks.localhost"])
def test_this_machines_own_name_is_refused_before_it_is_looked_up(host: str) -> None:
    with pytest.raises(InvalidInputError, match="not public"):
        EgressGuard(OPEN).check_url(f"https://{host}/in")


def test_this_machines_own_name_may_be_an_exception() -> None:
    assert EgressGuard(EgressPolicy.parse(["localhost:9000"])).check_url("http://localhost:9000/in").port == 9000


async def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    resolver = CheckedResolver(OPEN, ScriptedResolver(["8.8.8.8", "10.0.0.1"]))

    with pytest.raises(PermanentError, match="not public"):
        await resolver.resolve("hooks.example", 443)


@pytest.mark.parametrize("host", ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.1."])
async def test_other_spellings_of_loopback_are_refused(host: str) -> None:
    guard = EgressGuard(OPEN)  # the system's resolver, which knows these spellings without asking anybody

    with pytest.raises((PermanentError, UnavailableError)):
        await guard.request("POST", f"https://{host}/in")

    await guard.close()


@pytest.mark.parametrize(
    "url",
    [
        *("", "hooks.example", "/in", "https://", "https:///in", "//hooks.example/in", "javascript:alert(1)"),
        *("https://[::1", "https://a..b\x00/", "https://user:pass@hooks.example/", "https://user@hooks.example/"),
        *("http://hooks.example/in", "ftp://hooks.example/in", "file:///etc/passwd", "gopher://hooks.example/"),
        *("https://hooks.example:99999/", f"https://hooks.example/{'x' * 2_048}"),
    ],
)
def test_url_that_is_no_plain_https_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError):
        EgressGuard(OPEN).check_url(url)


def guard_to(receiver: Receiver, *answers: list[str], timeout_s: float = 5) -> tuple[EgressGuard, ScriptedResolver]:
    """A guard that lets hooks.example through to the receiver."""
    resolver = ScriptedResolver(*(answers or (["127.0.0.1"],)))
    policy = EgressPolicy.parse([f"hooks.example:{receiver.port}"])
    return EgressGuard(policy, resolver=resolver, timeout_s=timeout_s), resolver


async def test_connection_goes_to_the_address_that_was_checked(receiver: Receiver) -> None:
    guard, resolver = guard_to(receiver)

    response = await guard.request("POST", f"http://hooks.example:{receiver.port}/in", body=b"{}")

    assert (response.status, resolver.asked) == (204, ["hooks.example"])
    assert receiver.requests[0][1]["host"] == f"hooks.example:{receiver.port}"
    await guard.close()


async def test_name_that_changes_its_address_is_checked_for_every_connection(receiver: Receiver) -> None:
    receiver.answer = lambda _request: web.Response(headers={"Connection": "close"})
    guard, _ = guard_to(receiver, ["127.0.0.1"], ["169.254.169.254"])
    url = f"http://hooks.example:{receiver.port}/in"

    await guard.request("POST", url)
    with pytest.raises(PermanentError) as refused:
        await guard.request("POST", url)

    assert refused.value.code == "egress_refused"
    assert len(receiver.requests) == 1
    await guard.close()


async def test_redirect_is_an_answer_and_not_followed(receiver: Receiver) -> None:
    receiver.answer = lambda _request: web.Response(status=302, headers={"Location": "/elsewhere"})
    guard, _ = guard_to(receiver)

    response = await guard.request("GET", f"http://hooks.example:{receiver.port}/in")

    assert response.status == 302
    assert [path for path, _, _ in receiver.requests] == ["/in"]
    await guard.close()


async def test_listed_host_is_listed_with_its_port_only(receiver: Receiver) -> None:
    guard, _ = guard_to(receiver)

    with pytest.raises(InvalidInputError):
        await guard.request("GET", f"http://hooks.example:{receiver.port + 1}/in")

    await guard.close()


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1"])
def test_listed_host_never_reaches_metadata_or_multicast(address: str) -> None:
    policy = EgressPolicy.parse(["hooks.example"])

    assert not policy.permits("hooks.example", 443, ipaddress.ip_address(address))
    assert policy.permits("HOOKS.example", 443, ipaddress.ip_address("10.0.0.1"))


def test_listed_network_opens_its_addresses_whatever_leads_there() -> None:
    policy = EgressPolicy.parse(["10.1.0.0/16", "169.254.170.2/32"])
    guard = EgressGuard(policy)

    assert policy.permits("any.example", 443, ipaddress.ip_address("10.1.2.3"))
    assert policy.permits("any.example", 443, ipaddress.ip_address("::ffff:10.1.2.3"))
    assert policy.permits("any.example", 80, ipaddress.ip_address("169.254.170.2"))
    assert not policy.permits("any.example", 443, ipaddress.ip_address("10.2.0.1"))
    assert guard.check_url("http://10.1.2.3/in").port == 80
    with pytest.raises(InvalidInputError):
        guard.check_url("http://any.example/in")


@pytest.mark.parametrize("entry", ["", "10.0.0.1/8", "user:secret@host", "a/b", "http://10.0.0.1:9000", "host:port"])
def test_unreadable_exception_is_refused_when_it_is_read(entry: str) -> None:
    with pytest.raises(InvalidInputError, match="entry 2 must be host:port") as refused:
        EgressPolicy.parse(["hooks.example", entry])

    assert "secret" not in str(refused.value)


def test_ipv6_exception_is_understood() -> None:
    assert EgressGuard(EgressPolicy.parse(["[::1]:9000"])).check_url("http://[::1]:9000/").port == 9000


async def test_answer_is_bounded_and_not_unpacked(receiver: Receiver) -> None:
    bomb = gzip.compress(b"x" * 1_000_000)
    receiver.answer = lambda _request: web.Response(body=bomb, headers={"Content-Encoding": "gzip"})
    guard, _ = guard_to(receiver)

    response = await guard.request("GET", f"http://hooks.example:{receiver.port}/", max_response_bytes=100)

    assert (response.body, response.truncated) == (bomb[:100], True)
    await guard.close()


async def test_silent_receiver_is_uncertain_after_the_time_limit() -> None:
    never = asyncio.Event()

    async def silent(_request: web.Request) -> web.StreamResponse:
        await never.wait()
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/", silent)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    guard = EgressGuard(EgressPolicy.parse(["127.0.0.1"]), timeout_s=0.1)

    with pytest.raises(UncertainError, match="no answer"):
        await guard.request("GET", f"http://127.0.0.1:{port}/")

    never.set()
    await guard.close()
    await runner.cleanup()


async def test_unreachable_receiver_got_nothing() -> None:
    guard = EgressGuard(EgressPolicy.parse(["127.0.0.1:9"]))

    with pytest.raises(UnavailableError, match="could not be reached"):
        await guard.request("POST", "http://127.0.0.1:9/")

    await guard.close()
