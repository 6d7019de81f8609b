"""What a prompt's text makes the simulated model do."""

import pytest

from nubabel_workers.simulators.opencode.directives import ReportedUsage, Script, ToolCall, script_of


def test_text_without_directives_is_echoed_with_the_size_of_its_context() -> None:
    words = script_of("hello there").words(context_messages=4, last_text="hello there", default_tokens=0)

    assert words == ["ECHO[4]: ", "hello ", "there "]


def test_directives_stand_anywhere_and_combine() -> None:
    script = script_of("please [[delay=1.5]] think [[reasoning=3]] and [[tokens=2]][[nousage]]")

    assert (script.delay_s, script.reasoning, script.tokens) == (1.5, 3, 2)
    assert script.words(context_messages=2, last_text="", default_tokens=9) == ["word0 ", "word1 "]
    assert script.reported_usage(2) is None


def test_what_the_tools_said_is_the_answer() -> None:
    words = script_of("[[result]]").words(context_messages=2, last_text="", default_tokens=9, tool_result="42")

    assert words == ["42"]


def test_tools_are_called_step_by_step_in_the_order_of_the_text() -> None:
    script = script_of('[[question]] [[tool=bash {"command":"a"}]] [[tools {"glob":{"p":1},"read":{"f":2}}]]')

    assert [call.name for call in script.tool_calls(0)] == ["question"]
    assert script.tool_calls(1) == (ToolCall("bash", {"command": "a"}),)
    assert [call.name for call in script.tool_calls(2)] == ["glob", "read"]
    assert script.tool_calls(3) == ()


def test_a_list_of_arguments_is_several_calls_in_one_step() -> None:
    script = script_of('[[tools {"read":[{"f":1},{"f":2}],"glob":{}}]]')

    assert script.tool_calls(0) == (ToolCall("read", {"f": 1}), ToolCall("read", {"f": 2}), ToolCall("glob", {}))
    assert script.tool_calls(1) == ()


def test_loop_never_ends() -> None:
    script = script_of('[[loop=bash {"command":"a"}]]')

    assert script.tool_calls(0) == script.tool_calls(999)


def test_directives_inside_of_arguments_are_left_to_their_reader() -> None:
    script = script_of('[[tool=task {"prompt":"[[status=429]] go"}]]')

    assert script.status is None
    assert script.tool_calls(0)[0].arguments == {"prompt": "[[status=429]] go"}


def test_troubles() -> None:
    assert script_of("[[hang]]").hang == "at_once"
    assert script_of("[[drop=mid]]").drop == "mid"
    assert script_of("[[status=429]] [[retry_after=2]] [[times=3]]").times == 3
    assert script_of("[[overflow]]").overflow
    assert script_of("[[badjson]]").bad_json


def test_usage_may_name_its_cached_part() -> None:
    assert script_of("[[usage=10,5]]").reported_usage(1) == ReportedUsage(10, 5)
    assert script_of("[[usage=10,5,4]]").reported_usage(1) == ReportedUsage(10, 5, 4)


@pytest.mark.parametrize(
    "text",
    [
        "[[",
        "[[]]",
        "[[delay=soon]]",
        "[[delay=-1]]",
        "[[delay=nan]]",
        "[[tokens=many]]",
        "[[usage=1]]",
        "[[usage=a,b]]",
        "[[tool=bash {]]",
        "[[tool=bash]]",
        "[[unknown=1]]",
    ],
)
def test_nonsense_is_ignored(text: str) -> None:
    assert script_of(text) == Script()
