"""What operators read about a model that a server does not have."""

from nubabel_workers.domain.opencode_models import missing_model


def test_a_model_that_the_server_has_is_not_missing() -> None:
    assert missing_model("stub/echo", ["stub/echo"], is_default=False) is None


def test_the_caller_is_to_name_one_that_there_is() -> None:
    words = missing_model("stub/nosuch", ["stub/echo"], is_default=False)

    assert words is not None
    assert "no model 'stub/nosuch'; it has: stub/echo." in words
    assert "name one of these in the request's `model`" in words


def test_where_the_request_named_none_the_setting_is_to_change() -> None:
    words = missing_model("stub/nosuch", ["stub/echo"], is_default=True)

    assert words is not None
    assert "set NUBABEL_OPENCODE_DEFAULT_MODEL" in words


def test_of_many_models_a_few_are_named_those_of_the_same_provider_first() -> None:
    known = [*(f"aaa/{number:02d}" for number in range(20)), "zzz/echo"]

    words = missing_model("zzz/nosuch", known, is_default=False)

    assert words is not None
    assert "it has: zzz/echo, aaa/00, aaa/01," in words
    assert "aaa/08 and 11 more." in words


def test_a_server_without_any_model_says_so() -> None:
    assert "it has: none." in (missing_model("stub/echo", [], is_default=False) or "")
