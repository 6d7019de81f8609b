"""Whom a caller says it acts for."""

import pytest

from nubabel_workers.domain.identity import Claims, Mismatch


def claims(organization: str | None = None, user: str | None = None, **body: object) -> Claims:
    return Claims.of(organization=organization, user=user, parts={"body": body, "body.context": None})


def test_who_says_nothing_agrees() -> None:
    assert claims().mismatch("org_a") is None
    assert claims().user_id is None


def test_header_and_body_that_say_the_same_agree() -> None:
    said = claims("org_a", "anna", organizationId="org_a", userId="anna")

    assert said.mismatch("org_a") is None
    assert said.user_id == "anna"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (claims("org_b"), Mismatch("organization", "header X-Organization-ID")),
        (claims(""), Mismatch("organization", "header X-Organization-ID")),
        (claims(organizationId="org_b"), Mismatch("organization", "body.organizationId")),
        (claims("org_a", organization_id="org_b"), Mismatch("organization", "body.organization_id")),
        (claims(organization_id=["org_a"]), Mismatch("organization", "body.organization_id")),
        (claims(None, "anna", userId="bert"), Mismatch("user", "body.userId")),
        (claims(user_id="anna", userId="bert"), Mismatch("user", "body.userId")),
    ],
)
def test_one_place_that_disagrees_is_named(said: Claims, expected: Mismatch) -> None:
    assert said.mismatch("org_a") == expected
