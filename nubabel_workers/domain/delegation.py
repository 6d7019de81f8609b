"""The bridge contract: hand a task over by category and skills, and get its result. Pure."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.submission import Name, SubmitRequest

_OF_THE_BODY = "the request does not fit"


class DelegateRequest(BaseModel):
    """A task for the agent. Without category or load_skills the request analysis decides."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [
                {
                    "category": "ultrabrain",
                    "load_skills": ["debugging"],
                    "prompt": "Why does the invoice job deadlock?",
                    "metadata": {"ticket": "4711"},
                }
            ]
        },
    )

    category: Name | None = Field(None, description="Kind of work; `GET /capabilities` lists them.")
    load_skills: Annotated[list[Name], Field(max_length=20)] | None = Field(
        None, description="Skills that the agent loads; [] means none. `GET /capabilities` lists them."
    )
    prompt: str = Field(
        min_length=1, max_length=1_000_000, pattern=r"\S", description="What is asked, in any language."
    )
    session_id: str | None = Field(
        None, pattern=r"^ses_[0-9a-z]{26}$", description="Continue this session, as an earlier answer named it."
    )
    metadata: dict[str, Any] | None = Field(
        None,
        description="Anything of yours. `organization_id` and `user_id` in it must agree with the token and the "
        "headers; `user_id` appears in logs and reports.",
    )

    def claims(self) -> Mapping[str, Mapping[str, Any] | None]:
        return {"body.metadata": self.metadata}

    def as_submission(self, *, idempotency_key: str | None, user_id: str | None) -> SubmitRequest:
        """The same request as the one door takes it. Raises InvalidInputError for metadata that cannot be stored."""
        return checked_submission(
            prompt=self.prompt,
            category=self.category,
            skills=self.load_skills,
            session_id=self.session_id,
            metadata=self.metadata,
            idempotency_key=idempotency_key,
            user_id=user_id,
        )


def checked_submission(**fields: Any) -> SubmitRequest:
    """Raises InvalidInputError that names what is wrong, without the values."""
    try:
        return SubmitRequest(**fields)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        named = (f"{'.'.join(map(str, one['loc'])) or _OF_THE_BODY}: {one['msg']}" for one in problems[:5])
        raise InvalidInputError("; ".join(named), code="invalid_request") from None
