"""How much garbage: the same cases in each run of `make test`; with NUBABEL_FUZZ_SCALE=20 twenty times as many, and
others each time. hypothesis prints how to repeat a case that failed.
"""

import os

from hypothesis import HealthCheck, settings

_SCALE = int(os.environ.get("NUBABEL_FUZZ_SCALE", "0"))


def cases(number: int) -> settings:
    """The hypothesis settings of a test that usually takes this number of cases."""
    return settings(
        max_examples=number * max(1, _SCALE),
        derandomize=_SCALE == 0,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
