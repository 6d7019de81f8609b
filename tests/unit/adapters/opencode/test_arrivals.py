"""How late events come, by the times in their ids."""

import pytest

from nubabel_workers.adapters.opencode.arrivals import ArrivalWatch

NOW = 1_795_216_193.0
_WRAPS_AT = 1_856_000_000.0 // (2**36 / 1000) * (2**36 / 1000)  # the 36 bits of milliseconds begin anew


def frame(made_at: float, text: str = "") -> bytes:
    head = ((int(made_at * 1000) << 12) + 1) & ((1 << 48) - 1)
    head_text = f'data: {{"directory":"/d","payload":{{"id":"evt_{head:012x}hfKq3yUmlu972N"'
    return f'{head_text},"type":"session.idle","properties":{{"t":"{text}"}}}}}}\n\n'.encode()


class Reader:
    """Reads on a clock of its own; checks last a second."""

    def __init__(self, *, clocks_apart_s: float = 0.0, now: float = NOW) -> None:
        self.watch = ArrivalWatch(check_s=1.0)
        self.now = now
        self.apart_s = clocks_apart_s
        self.lags: list[float] = []
        self.waits(frame(now + clocks_apart_s), after_s=1.0)  # server.connected: not late

    def waits(self, chunk: bytes, *, after_s: float) -> None:
        """Asks for a chunk, which comes after_s later."""
        asked_at, self.now = self.now, self.now + after_s
        self.lags += [lag.seconds for lag in self.watch.saw(chunk, asked_at=asked_at, read_at=self.now)]

    def is_busy(self, seconds: float) -> None:
        self.now += seconds

    def made(self, ago_s: float, text: str = "") -> bytes:
        return frame(self.now - ago_s + self.apart_s, text)


@pytest.mark.parametrize("apart_s", [0.0, 90.0, -90.0], ids=["clocks agree", "ahead", "behind"])
def test_an_event_that_was_waited_for_is_late_by_its_age(apart_s: float) -> None:
    reader = Reader(clocks_apart_s=apart_s)
    for _ in range(3):
        reader.waits(frame(reader.now + 0.5 - 4.0 + apart_s), after_s=0.5)

    assert reader.lags == pytest.approx([3.0], abs=1.1)  # the first frame of the connection was a second old


def test_events_in_time_have_no_lag_and_each_check_ends_with_one_figure() -> None:
    reader = Reader()
    for _ in range(50):
        reader.waits(frame(reader.now + 0.1), after_s=0.1)

    assert len(reader.lags) == pytest.approx(5, abs=1)
    assert max(reader.lags) <= 0.01


def test_what_the_reader_was_too_busy_to_read_is_not_the_servers_lag() -> None:
    reader = Reader()
    for _ in range(4):
        made = reader.made(0.0)
        reader.is_busy(5.0)
        reader.waits(made, after_s=0.001)

    assert max(reader.lags) <= 0.01


def test_behind_a_read_that_left_something_nothing_is_known_of_the_server() -> None:
    reader = Reader()
    reader.waits(frame(reader.now) + b"x" * 200_000, after_s=0.001)
    reader.is_busy(5.0)
    reader.waits(reader.made(9.0), after_s=0.001)

    assert reader.lags in ([], [0.0])


def test_text_of_a_model_cannot_be_taken_for_an_id() -> None:
    reader = Reader()
    for _ in range(3):
        told = reader.made(-0.5, text=r"\"id\":\"evt_000000000001")
        reader.waits(told[told.index(b"session.idle") :] + reader.made(-0.5), after_s=0.5)

    assert reader.lags
    assert max(reader.lags) <= 0.01


def test_ids_whose_time_begins_anew_are_read_as_the_nearest_moment() -> None:
    reader = Reader(now=_WRAPS_AT - 2.0)
    for _ in range(8):
        reader.waits(frame(reader.now + 0.5), after_s=0.5)

    assert max(reader.lags) <= 0.01
