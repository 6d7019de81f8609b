"""Ports for embedded servers, each given to one caller only."""

import atexit
import secrets
import socket
from collections import deque
from contextlib import suppress

_HOST = "127.0.0.1"
# Below those that the system gives to outgoing connections, which would take one of them at any moment (Linux from
# 32768 on, others from 49152).
_PORTS = range(20_000, 32_000)
_TRIES = 200
# A claim has to last until its server listens, over a restart of it too. Each holds a file descriptor.
_CLAIMS_KEPT = 128

_claims: deque[socket.socket] = deque()


def free_port() -> int:
    """A port that nobody listens on and that no other caller of this function, in any process, is given meanwhile.

    A server listens a while after its port was chosen; until then the port is claimed by a UDP socket of the same
    number, which the system gives to one process and takes back when that ends. TCP does not notice it.

    Raises OSError when no port is free.
    """
    for _ in range(_TRIES):
        port = secrets.choice(_PORTS)
        if (claim := _claim(port)) is not None:
            _keep(claim)
            return port
    raise OSError(f"no free port between {_PORTS.start} and {_PORTS.stop}")


def _claim(port: int) -> socket.socket | None:
    claim = socket.socket(type=socket.SOCK_DGRAM)
    with suppress(OSError):
        claim.bind((_HOST, port))
        with socket.socket() as probe:
            probe.bind((_HOST, port))
            return claim
    claim.close()
    return None


def _keep(claim: socket.socket) -> None:
    if not _claims:
        atexit.register(_give_back)
    _claims.append(claim)
    if len(_claims) > _CLAIMS_KEPT:
        _claims.popleft().close()


def _give_back() -> None:
    """The system would do it by itself; Python complains of sockets that nobody has closed."""
    while _claims:
        _claims.popleft().close()
