"""Embedded servers of several stacks start at the same time; each needs a port that no other one is given."""

import socket
import subprocess
import sys

from nubabel_workers.embedded.ports import free_port

_CHOOSE = """
import sys
from nubabel_workers.embedded.ports import free_port
print(*(free_port() for _ in range(100)), flush=True)
sys.stdin.read()
"""


def test_no_port_is_given_twice_in_one_process() -> None:
    ports = [free_port() for _ in range(100)]

    assert len(set(ports)) == len(ports)


def test_no_port_is_given_to_two_processes() -> None:
    choosers = [
        subprocess.Popen([sys.executable, "-c", _CHOOSE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    try:
        ports = [port for chooser in choosers if chooser.stdout for port in chooser.stdout.readline().split()]
    finally:
        for chooser in choosers:
            chooser.communicate("")

    assert len(ports) == 400
    assert len(set(ports)) == len(ports)


def test_a_server_can_listen_on_the_port_it_was_given() -> None:
    port = free_port()

    with socket.create_server(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


def test_a_process_that_ends_leaves_no_port_open() -> None:
    chooser = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", _CHOOSE],
        input="",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (chooser.returncode, chooser.stderr) == (0, "")
