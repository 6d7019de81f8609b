import pytest

from nubabel_workers.domain.trace import TraceContext, following, outgoing_headers

ENTROPY = bytes(range(1, 25))
GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_valid_traceparent_is_read_and_written_back() -> None:
    trace = TraceContext.parse(GIVEN)

    assert trace == TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)
    assert str(trace) == GIVEN


def test_the_sampling_decision_is_kept() -> None:
    trace = TraceContext.parse(GIVEN[:-1] + "0")

    assert trace is not None
    assert not trace.sampled
    assert str(trace.child(ENTROPY)).endswith("-00")


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        "nonsense",
        GIVEN.upper(),
        GIVEN + "-extra",
        GIVEN[:-3],
        "ff" + GIVEN[2:],
        "01" + GIVEN[2:] + "x",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
    ],
)
def test_a_malformed_traceparent_is_none(traceparent: str | None) -> None:
    assert TraceContext.parse(traceparent) is None


def test_a_later_version_is_read_by_its_first_four_fields() -> None:
    assert TraceContext.parse("01" + GIVEN[2:] + "-more") == TraceContext.parse(GIVEN)


def test_a_child_keeps_the_trace_and_gets_its_own_span() -> None:
    parent = TraceContext.new(ENTROPY)
    child = parent.child(b"\xaa" * 8)

    assert child.trace_id == parent.trace_id
    assert child.span_id == "aa" * 8


def test_ids_are_never_all_zeros() -> None:
    assert TraceContext.parse(str(TraceContext.new(bytes(24)))) is not None


def test_too_little_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="16 random bytes"):
        TraceContext.new(b"\x01")


def test_inside_another_request_its_own_trace_is_followed_and_then_the_outer_one_again() -> None:
    outer, inner = (f"00-{digit * 32}-00f067aa0ba902b7-01" for digit in "12")

    with following(outer):
        with following(inner):
            assert outgoing_headers() == {"traceparent": inner}
        assert outgoing_headers() == {"traceparent": outer}
    assert outgoing_headers() == {}
