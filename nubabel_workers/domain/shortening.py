"""What has no room in a prompt: the newest that fit, and the mark where a text was cut."""

from collections.abc import Callable, Sequence


def newest_that_fit(lines: Sequence[str], *, room: int, size: Callable[[str], int]) -> list[str]:
    """In their order, and none that is older than one without room. room: as size counts."""
    kept: list[str] = []
    for line in reversed(lines):
        if size(line) > room:
            break
        kept.append(line)
        room -= size(line)
    return kept[::-1]


def cut_mark(left_out: int) -> str:
    """Between the beginning and the end of a text. left_out: characters."""
    return f"\n[… {left_out} characters left out …]\n"
