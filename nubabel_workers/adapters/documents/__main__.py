"""What reads one document: content on stdin, form as argument, one JSON object on stdout. A process of its own.

Documents come from outside, and one that is made to be expensive can only be stopped with its process.
"""

import json
import os
import resource
import sys
from contextlib import suppress

from nubabel_workers.adapters.documents.extraction import read
from nubabel_workers.domain.documents import DocumentForm, Unread

_CPU_S = 20  # the reader stops waiting earlier; this ends a process whose reader is gone
_NICENESS = 10  # the worker renews leases meanwhile
_MEMORY_BYTES = 768 * 1024 * 1024


def main() -> None:
    _limit()
    content = sys.stdin.buffer.read()
    found = read(content, DocumentForm(sys.argv[1]))
    said = {"unread": found.value} if isinstance(found, Unread) else {"text": found.text, "unseen": found.unseen}
    sys.stdout.write(json.dumps(said))


def _limit() -> None:
    os.nice(_NICENESS)
    for what, most in (
        (resource.RLIMIT_CPU, _CPU_S),
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):  # not every system has each of them
            resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    main()
