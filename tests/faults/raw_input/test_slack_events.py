"""What Slack's events endpoint is sent by somebody who knows the signing secret, so that it reaches every parser."""

from http import HTTPStatus
from urllib.parse import urlencode

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nubabel_workers.simulators.slack.delivery import signature_headers
from tests.faults.raw_input.amount import cases
from tests.faults.raw_input.conftest import SIGNING_SECRET, TEAM, Rows, Web
from tests.faults.raw_input.slack_payloads import good_event, json_bodies, numbers
from tests.faults.raw_input.values import RAW, TEXTS, VALUES, as_json

pytestmark = pytest.mark.integration

FORM = "application/x-www-form-urlencoded"
COMMAND = {"token": "t", "team_id": TEAM, "user_id": "U1", "command": "/nubabel", "text": "hi", "ssl_check": "1"}


def duplicated(raw: bytes) -> bytes:
    """Every name twice: the last one counts, for those who agree on that."""
    return raw[:-1] + b"," + raw[1:] if raw.startswith(b"{") and len(raw) > len(b"{}") else raw


def interactive(payload: bytes) -> bytes:
    return urlencode({"payload": payload}).encode()


fields = st.dictionaries(st.sampled_from(sorted(COMMAND)) | TEXTS, TEXTS | VALUES.map(str), max_size=6)
forms = (json_bodies | RAW).map(interactive) | fields.map(
    lambda given: urlencode({**COMMAND, **given}, errors="surrogatepass").encode()
)
bodies = st.one_of(
    json_bodies.map(lambda raw: (raw, "application/json")),
    json_bodies.map(duplicated).map(lambda raw: (raw, "application/json")),
    forms.map(lambda raw: (raw, FORM)),
    st.tuples(RAW, st.sampled_from(["application/json", FORM, "text/plain", "application/json; charset=utf-16", ""])),
)


def sent(web: Web, browser: httpx.Client, body: bytes, content_type: str) -> httpx.Response:
    headers = {**signature_headers(SIGNING_SECRET, body), "Content-Type": content_type}
    return browser.post(f"{web.url}/slack/events", content=body, headers=headers)


@given(given_body=bodies)
@cases(250)
def test_garbage_is_answered_and_what_comes_after_it_is_stored(
    web: Web, browser: httpx.Client, database: Rows, given_body: tuple[bytes, str]
) -> None:
    number = next(numbers)

    garbage = sent(web, browser, *given_body)
    accepted = sent(web, browser, as_json(good_event(number)), "application/json")

    assert garbage.status_code < HTTPStatus.INTERNAL_SERVER_ERROR
    assert b"Traceback" not in garbage.content
    if garbage.status_code >= HTTPStatus.BAD_REQUEST:
        assert garbage.headers["content-type"] == "application/problem+json"
    assert accepted.status_code == HTTPStatus.OK
    assert database.execute("SELECT FROM inbound_events WHERE provider_event_id = %s", (f"EvGood{number}",)).rowcount
    assert web.process.is_running
    assert web.crashes() == []
