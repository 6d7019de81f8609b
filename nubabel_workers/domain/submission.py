"""What an upstream service asks for, and the signature under which it may ask straight through the broker. Pure.

The task `orchestration.submit` takes one JSON object: `request`, and for a signed one also `key_id`, `issued_at`
(Unix seconds), `nonce` and `signature`: HMAC-SHA256, in hex, over the object without `signature` in the canonical
form of RFC 8785 (https://www.rfc-editor.org/rfc/rfc8785).
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from nubabel_workers.domain.errors import CredentialsError, InvalidInputError

BATCH = "batch"  # a priority
SUBMIT_TASK = "orchestration.submit"
SUBMIT_QUEUE = "orchestration"
SUBMIT_VERSION = 1
NEWER_VERSION = "newer_version"  # code of the error for a submission that a later release knows
SIGNATURE_WINDOW_S = 300
MAX_METADATA_BYTES = 16_384
MAX_NUMBER = 2**53 - 1  # RFC 7493, section 2.2
_MAX_DEPTH = 16
_SIGNED_BUT_NOT_ASKED = frozenset({"idempotency_key", "traceparent"})

_READ_STRICTLY = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

Name = Annotated[str, Field(min_length=1, max_length=100)]
Key = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]


CallbackUrl = Annotated[str, Field(max_length=2000, pattern=r"^https?://[^\s/]")]
Traceparent = Annotated[str, Field(max_length=128)]


class AskedRequest(BaseModel):
    """What is asked of the agent. What is left out is decided by the request analysis, or by the organization."""

    model_config = _READ_STRICTLY

    prompt: str = Field(
        min_length=1, max_length=1_000_000, pattern=r"\S", description="What is asked, in any language."
    )
    session_id: str | None = Field(
        None, pattern=r"^ses_[0-9a-z]{26}$", description="Continue this session, as an earlier answer named it."
    )
    session_key: Key | None = Field(
        None, description="Your own name for the conversation: requests with the same key share one session."
    )
    category: Name | None = Field(None, description="Overrides the category that the analysis would choose.")
    skills: list[Name] | None = Field(None, max_length=20, description="Overrides the chosen skills; [] means none.")
    agent: Name | None = Field(None, description="Overrides the agent.")
    model: str | None = Field(
        None, max_length=200, pattern=r"^[^/\s]+/\S+$", description="Overrides the model: provider/model."
    )
    user_id: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="Whom you ask for, in your own words; appears in logs and reports."
    )
    metadata: dict[str, Any] | None = Field(
        None, description=f"Anything of yours, returned with the outcome; at most {MAX_METADATA_BYTES} bytes of JSON."
    )
    deadline_s: int | None = Field(None, ge=1, le=86_400, description="Seconds that the run may take.")
    priority: Literal["interactive", "batch"] | None = Field(
        None,
        description="batch: may wait behind interactive requests of your organization, and leaves some capacity to "
        "those of all. Without it: interactive.",
    )

    @model_validator(mode="after")
    def _can_be_stored(self) -> Self:
        if self.session_id is not None and self.session_key is not None:
            raise ValueError("give session_id or session_key, not both")
        refuse_unstorable(self.model_dump(exclude_none=True))
        if self.metadata is not None:
            try:
                size = len(canonical_json(self.metadata))
            except InvalidInputError as error:
                raise ValueError(f"metadata: {error}") from None
            if size > MAX_METADATA_BYTES:
                raise ValueError(f"metadata is larger than {MAX_METADATA_BYTES} bytes of JSON")
        return self

    def content_hash(self) -> str:
        """Tells the same request apart from another one under the same idempotency key."""
        return _content_hash(self)


class SubmitRequest(AskedRequest):
    """One request to the agent. What is left out is decided by the request analysis, or by the organization."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "Which tests are missing for the invoice module?"},
                {
                    "prompt": "Write them.",
                    "session_key": "invoice-4711",
                    "idempotency_key": "invoice-4711-step-2",
                    "skills": ["git-master"],
                    "callback_url": "https://upstream.example.com/nubabel",
                    "metadata": {"invoice": "4711"},
                },
            ]
        },
    )

    idempotency_key: Key | None = Field(
        None, description="Your own name for this request: sent again, it is the same request. Over HTTP: the header."
    )
    callback_url: CallbackUrl | None = Field(
        None,
        description="Where the outcome is sent, signed after the Standard Webhooks spec. A public https address, "
        "unless an operator has made an exception.",
    )
    traceparent: Traceparent | None = Field(None, description="W3C trace context. Over HTTP: the header.")


class BatchRequest(BaseModel):
    """Several requests that are accepted together and told in one reply. Each is an execution like any other."""

    model_config = ConfigDict(
        **_READ_STRICTLY,
        json_schema_extra={
            "examples": [
                {
                    "requests": [{"prompt": "Review invoice.py."}, {"prompt": "Review tax.py.", "category": "quick"}],
                    "idempotency_key": "review-4711",
                    "callback_url": "https://upstream.example.com/nubabel",
                }
            ]
        },
    )

    requests: list[AskedRequest] = Field(
        min_length=1, description="Told in this order. Those that share a session run one after the other."
    )
    on_failure: Literal["report", "cancel_rest"] = Field(
        "report", description="What becomes of the others when one fails: they go on, or they are cancelled."
    )
    idempotency_key: Key | None = Field(
        None, description="Your own name for this batch: sent again, it is the same batch. Over HTTP: the header."
    )
    callback_url: CallbackUrl | None = Field(
        None,
        description="Where the combined outcome is sent, signed after the Standard Webhooks spec. A public https "
        "address, unless an operator has made an exception.",
    )
    traceparent: Traceparent | None = Field(None, description="W3C trace context. Over HTTP: the header.")

    @model_validator(mode="after")
    def _can_be_stored(self) -> Self:
        refuse_unstorable(self.callback_url)
        return self

    def content_hash(self) -> str:
        return _content_hash(self)


class Submission(BaseModel):
    """The one argument of the task `orchestration.submit`. Without a signature it is refused, unless an operator has
    named the organization that this broker is trusted for.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, title="orchestration.submit"
    )

    version: Literal[1] = 1
    request: SubmitRequest
    key_id: str | None = Field(None, min_length=1, max_length=64, description="Which submit key signed this.")
    issued_at: int | None = Field(
        None, ge=0, description=f"When it was signed, Unix seconds; refused when more than {SIGNATURE_WINDOW_S} s old."
    )
    nonce: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_-]{16,128}$", description="Random, never used before with this key."
    )
    signature: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="HMAC-SHA256 with the submit key, in hex, over this object without `signature`, as RFC 8785 "
        "canonical JSON in UTF-8.",
    )

    @model_validator(mode="after")
    def _signed_whole(self) -> Self:
        given = [part is not None for part in (self.key_id, self.issued_at, self.nonce, self.signature)]
        if any(given) and not all(given):
            raise ValueError("key_id, issued_at, nonce and signature come together")
        return self

    @property
    def is_signed(self) -> bool:
        return self.signature is not None


def read_submission(raw: Any) -> Submission:
    """Raises InvalidInputError that names what is wrong, without the values; its code is NEWER_VERSION for a version
    that we do not know yet.
    """
    version = raw.get("version") if isinstance(raw, Mapping) else None
    if type(version) is int and version > SUBMIT_VERSION:
        raise InvalidInputError(
            f"version {version} of the submission is for a later release; this one reads version {SUBMIT_VERSION}",
            code=NEWER_VERSION,
        )
    try:
        return Submission.model_validate(raw)
    except ValidationError as error:
        raise InvalidInputError(_explain(error), code="invalid_submission") from None


def sign(request: Mapping[str, Any], *, key_id: str, secret: SecretStr, issued_at: int, nonce: str) -> dict[str, Any]:
    """The argument of the task, signed. request: the fields of SubmitRequest, as JSON."""
    unsigned = {"version": 1, "request": dict(request), "key_id": key_id, "issued_at": issued_at, "nonce": nonce}
    return {**unsigned, "signature": signature_of(unsigned, secret)}


def signature_of(unsigned: Mapping[str, Any], secret: SecretStr) -> str:
    return hmac.new(secret.get_secret_value().encode(), canonical_json(unsigned), hashlib.sha256).hexdigest()


def check_signature(
    raw: Mapping[str, Any], secret: SecretStr, *, now_s: float, window_s: float = SIGNATURE_WINDOW_S
) -> None:
    """Raises CredentialsError. raw: the argument as it came, for the signature is over what was sent, not over what
    we read from it. now_s: Unix seconds.
    """
    unsigned = {name: value for name, value in raw.items() if name != "signature"}
    expected = signature_of(unsigned, secret)
    if not hmac.compare_digest(expected.encode(), str(raw.get("signature")).encode()):
        raise CredentialsError("the signature does not fit", code="bad_signature")
    if abs(now_s - int(raw["issued_at"])) > window_s:
        raise CredentialsError(
            f"issued_at is more than {window_s:g} s away from now; submit again", code="signature_too_old"
        )


def _content_hash(asked: BaseModel) -> str:
    content = asked.model_dump(exclude_none=True, exclude=set(_SIGNED_BUT_NOT_ASKED))
    return hashlib.sha256(canonical_json(content)).hexdigest()


def canonical_json(value: Any) -> bytes:
    """RFC 8785. Raises InvalidInputError for what it cannot express: lone surrogates, NaN, integers beyond 2^53."""
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise InvalidInputError("this is not interoperable JSON (RFC 7493)", code="not_json") from error


def refuse_unstorable(value: Any, *, depth: int = 0) -> None:
    """Raises ValueError for what PostgreSQL cannot hold, or what nobody sends in good faith."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, str):
        _refuse_text(value)
    elif isinstance(value, float) and abs(value) > MAX_NUMBER:
        # PostgreSQL's jsonb gives it back as an integer of many digits, which few JSON readers take.
        raise ValueError("numbers beyond 2^53 are not interoperable JSON")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _refuse_text(name)
            refuse_unstorable(item, depth=depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_unstorable(item, depth=depth + 1)


def _refuse_text(text: object) -> None:
    if isinstance(text, str) and "\x00" in text:
        raise ValueError("text must not contain the character U+0000")


def _explain(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    named = (f"{'.'.join(str(part) for part in problem['loc']) or 'it'}: {problem['msg']}" for problem in problems[:5])
    return "; ".join(named)
