"""What a broker producer publishes, and how it makes sure. The broker itself: tests/integration/producers."""

import json
from typing import Any

import pytest
from pydantic import SecretStr

from nubabel_workers.client import BrokerProducer, Execution, NotAcceptedError, Published, Status, SubmitRequest
from nubabel_workers.client import broker as module
from nubabel_workers.client.errors import ConnectionFailedError
from nubabel_workers.domain.submission import check_signature, read_submission

SECRET = SecretStr("nbk_secret")
NOW = 1_795_224_041
EXECUTION = Execution.model_validate(
    {
        "id": "exe_1",
        "session_id": "ses_1",
        "status": Status.QUEUED,
        "final": False,
        "created_at": "2026-11-21T12:00:00Z",
    }
)


class RecordingProducer(BrokerProducer):
    """Keeps what would go to the broker."""

    def __init__(self, key_id: str = "key_1", secret: SecretStr | str = SECRET) -> None:
        super().__init__("redis://:hunter2@127.0.0.1:1/0", key_id=key_id, secret=secret, now=lambda: NOW)
        self.published: list[dict[str, Any]] = []
        self.down = False

    def _publish(self, submission: dict[str, Any], message_id: str, shown: str) -> None:
        if self.down:
            raise ConnectionFailedError("the broker did not answer")
        self.published.append(json.loads(json.dumps(submission)))


class Finder:
    """Finds the execution from the nth question on."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.asked: list[str] = []

    def find(self, idempotency_key: str) -> Execution | None:
        self.asked.append(idempotency_key)
        return EXECUTION if len(self.asked) > self.after else None


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_LOOK_S", 0.001)
    monkeypatch.setattr(module, "_LAST_LOOK_S", 0.001)


@pytest.mark.parametrize(
    ("key_id", "secret", "names"), [("", "nbk_x", "id"), ("key_1", " ", "secret"), ("key 1", "x", "id")]
)
def test_a_key_that_is_none_is_refused_when_the_producer_is_made(key_id: str, secret: str, names: str) -> None:
    with pytest.raises(ValueError, match=f"the submit key's {names}"):
        BrokerProducer("redis://127.0.0.1:1/0", key_id=key_id, secret=secret)


def test_white_space_around_a_key_is_no_part_of_it() -> None:
    producer = RecordingProducer(key_id="key_1\n", secret=f"{SECRET.get_secret_value()}\n")

    producer.submit("Hello")

    submission = read_submission(producer.published[0])
    assert submission.key_id == "key_1"
    check_signature(producer.published[0], SECRET, now_s=NOW)


def test_a_submission_is_signed_and_always_has_a_key() -> None:
    producer = RecordingProducer()

    published = producer.submit("Hello")

    (sent,) = producer.published
    check_signature(sent, SECRET, now_s=NOW)
    submission = read_submission(sent)
    assert (submission.key_id, submission.request.prompt) == ("key_1", "Hello")
    assert submission.request.idempotency_key == published.idempotency_key != ""


def test_every_submission_has_a_nonce_of_its_own() -> None:
    producer = RecordingProducer()
    request = SubmitRequest(prompt="Hello", idempotency_key="k")

    producer.submit(request)
    producer.submit(request)

    assert producer.published[0]["nonce"] != producer.published[1]["nonce"]


def test_waiting_ends_when_the_row_exists() -> None:
    producer, finder = RecordingProducer(), Finder(after=3)

    found = producer.wait_accepted(producer.submit("Hello"), finder, timeout_s=5)

    assert found is EXECUTION
    assert len(set(finder.asked)) == 1
    assert len(producer.published) == 1


def test_a_message_that_got_lost_is_published_again_under_the_same_key() -> None:
    producer, finder = RecordingProducer(), Finder(after=3)

    producer.wait_accepted(producer.submit("Hello"), finder, timeout_s=5, submit_again_after_s=0)

    keys = {sent["request"]["idempotency_key"] for sent in producer.published}
    assert len(producer.published) > 1
    assert keys == set(finder.asked)


def test_a_broker_that_is_away_meanwhile_is_no_reason_to_give_up() -> None:
    producer, finder = RecordingProducer(), Finder(after=3)
    published = producer.submit("Hello")
    producer.down = True

    assert producer.wait_accepted(published, finder, timeout_s=5, submit_again_after_s=0) is EXECUTION


def test_what_gets_no_row_is_told_in_time() -> None:
    published = Published(SubmitRequest(prompt="Hello", idempotency_key="k"), "m")

    with pytest.raises(NotAcceptedError, match="k after"):
        RecordingProducer().wait_accepted(published, Finder(after=10**9), timeout_s=0.05)


def test_a_broker_that_is_not_there_is_one_error_without_its_address() -> None:
    with BrokerProducer("redis://:hunter2@127.0.0.1:1/0", key_id="key_1", secret=SECRET) as producer:
        with pytest.raises(ConnectionFailedError) as raised:
            producer.submit("Hello")
        assert "hunter2" not in str(raised.value) + repr(producer) + repr(vars(producer))
