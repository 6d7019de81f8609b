import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nubabel_workers.adapters.broker.messages import check_content, compose_message, plain_headers

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
NAMED = {"task": "orchestration.submit", "id": "1"}


def test_the_content_of_a_composed_message_is_not_shown_to_logs() -> None:
    message = json.loads(
        compose_message("dead-letter", "dead_letters.park", {"text": "private"}, task_id="t", delivery_tag="d")
    )

    assert json.loads(base64.b64decode(message["body"])) == [[{"text": "private"}], {}, {}]
    assert message["headers"]["argsrepr"] == "(...)"
    assert message["properties"]["delivery_info"]["routing_key"] == "dead-letter"


@pytest.mark.parametrize("headers", [{}, {"task": "a"}, {"id": "1"}, {"task": 1, "id": "1"}, {"task": "a", "id": ""}])
def test_headers_without_a_usable_task_and_id_are_refused(headers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="texts"):
        plain_headers(headers)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (NOW + timedelta(seconds=30), True),
        (NOW - timedelta(days=1), False),
        (NOW + timedelta(seconds=61), False),
        ((NOW + timedelta(seconds=30)).replace(tzinfo=None), True),
    ],
)
def test_only_a_short_countdown_is_kept(given: datetime, kept: bool) -> None:
    plain = plain_headers({**NAMED, "eta": given.isoformat()}, now=NOW)

    assert (plain["eta"] is not None) is kept


@pytest.mark.parametrize("eta", ["soon", 12, {"a": 1}, "0001-01-01T00:00:00+14:00"])
def test_a_countdown_that_cannot_be_read_is_dropped(eta: object) -> None:
    assert plain_headers({**NAMED, "eta": eta}, now=NOW)["eta"] is None


def test_nothing_expires_and_nothing_of_groups_is_kept() -> None:
    plain = plain_headers({**NAMED, "expires": "2020-01-01", "group": "g", "timelimit": 7, "argsrepr": "x" * 999})

    assert plain["expires"] is None
    assert not {"group", "timelimit"} & set(plain)
    assert len(plain["argsrepr"]) == 200


@pytest.mark.parametrize(("given", "kept"), [(3, 3), (-1, 0), ("3", 0), (10**9, 0), (None, 0)])
def test_retries_are_a_count_or_nothing(given: object, kept: int) -> None:
    assert plain_headers({**NAMED, "retries": given})["retries"] == kept


@pytest.mark.parametrize("content", [[[], {}, {}], [["a"], {}, None], ([], {}, {"callbacks": None, "chain": []})])
def test_three_parts_are_content(content: Any) -> None:
    check_content(content)


@pytest.mark.parametrize(
    "content",
    [None, 7, "abc", {"args": []}, [], [[], {}], [1, {}, {}], [[], [], {}], [[], {}, [1]], [[], {}, {"chain": ["x"]}]],
)
def test_anything_else_is_not(content: Any) -> None:
    with pytest.raises(ValueError, match=r"body|arguments|embedded|links"):
        check_content(content)
