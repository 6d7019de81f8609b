"""Command: what an operator's supervisor does with a server, done to a simulated one: it ends, and starts well.

`python restart.py URL`; by itself, since it runs without the environment of the benchmarks.
"""

import json
import sys
import urllib.request

_LIMIT_S = 5.0


def _post(url: str, body: dict[str, object]) -> None:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})  # noqa: S310 - a simulator's
    urllib.request.urlopen(request, timeout=_LIMIT_S).close()  # noqa: S310 - the same


if __name__ == "__main__":
    _post(f"{sys.argv[1]}/_sim/faults", {"slow_s": 0, "mute_events": False})
    _post(f"{sys.argv[1]}/_sim/crash", {"down_s": 1})
