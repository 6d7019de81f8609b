"""`python start_anew.py MANAGER URL`: asks a process manager to start the OpenCode server at that address anew."""

import sys
import urllib.request

if __name__ == "__main__":
    manager, server = sys.argv[1:]
    urllib.request.urlopen(manager, data=server.encode(), timeout=5).close()  # noqa: S310 - the rig's own address
