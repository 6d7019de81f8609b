"""Create organizations, change their policies, disable them, give them a secret for their webhooks."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC

from pydantic import SecretStr

from nubabel_workers.domain.budget_button import checked_approvers
from nubabel_workers.domain.credentials import ENTROPY_BYTES, WEBHOOK_OVERLAP_S, webhook_secret_text
from nubabel_workers.domain.errors import InvalidInputError, NotFoundError
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.limits import DEFAULT_PLAN
from nubabel_workers.domain.names import checked_name
from nubabel_workers.domain.ports import Chance
from nubabel_workers.domain.ports.administration import OrganizationRegistry
from nubabel_workers.domain.tenants import BusyPolicy, Organization, PolicyChange


class ManageOrganizations:
    """random_bytes: a cryptographic source, e.g. `secrets.token_bytes`."""

    def __init__(
        self, organizations: OrganizationRegistry, chance: Chance, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._organizations = organizations
        self._chance = chance
        self._random_bytes = random_bytes

    async def create(
        self, name: str, *, plan: str = DEFAULT_PLAN, busy_policy: BusyPolicy = BusyPolicy.QUEUE, actor: str
    ) -> Organization:
        """Raises InvalidInputError when the name is taken."""
        new = Organization(
            OrganizationId(self._chance.new_id("org")),
            checked_name(name, "an organization's name"),
            checked_name(plan, "a plan"),
            busy_policy,
        )
        created = await self._organizations.create(new, actor=actor)
        if created is None:
            raise InvalidInputError(f"an organization named {new.name!r} exists already: choose another name")
        return created

    async def list(self, *, include_disabled: bool = True) -> list[Organization]:
        found = await self._organizations.list()
        return [one for one in found if include_disabled or one.disabled_at is None]

    async def resolve(self, id_or_name: str) -> Organization:
        """The organization that a person means. Raises NotFoundError; InvalidInputError when several have the name."""
        found = await self._organizations.named(id_or_name)
        exact = [one for one in found if one.id == id_or_name]
        if exact:
            return exact[0]
        if not found:
            raise NotFoundError(f"there is no organization {id_or_name!r}; `nubabel orgs list` shows them")
        if len(found) > 1:
            ids = ", ".join(one.id for one in found)
            raise InvalidInputError(f"several organizations are named {id_or_name!r}: use one of the ids {ids}")
        return found[0]

    async def by_id(self, organization_id: str) -> Organization:
        """Raises NotFoundError. A name is no id: programs that change something say exactly whose."""
        found = [one for one in await self._organizations.named(organization_id) if one.id == organization_id]
        if not found:
            raise NotFoundError("there is no such organization", code="organization_not_found")
        return found[0]

    async def set_policy(
        self,
        organization: Organization,
        change: PolicyChange,
        *,
        actor: str,
    ) -> Organization:
        """Change what is given. Raises InvalidInputError when nothing is.

        Of servers: what runs ends where it is, new sessions begin in the new place, older ones go on there with their
        earlier turns.
        """
        if not change.changes():
            raise InvalidInputError("nothing to change: give at least one policy, or a plan")
        if change.plan is not None:
            change = replace(change, plan=checked_name(change.plan, "a plan"))
        if change.budget_approvers is not None:
            change = replace(change, budget_approvers=checked_approvers(change.budget_approvers))
        changed = await self._organizations.set_policy(organization.id, change, actor=actor)
        return _still_there(changed, organization)

    async def disable(self, organization: Organization, *, actor: str) -> Organization:
        """From now on its tokens, keys and workspaces are refused; what it has running goes on."""
        changed = await self._organizations.set_disabled(organization.id, disabled=True, actor=actor)
        return _still_there(changed, organization)

    async def enable(self, organization: Organization, *, actor: str) -> Organization:
        """Raises InvalidInputError for one that is being erased."""
        changed = await self._organizations.set_disabled(organization.id, disabled=False, actor=actor)
        enabled = _still_there(changed, organization)
        if enabled.disabled_at is not None:
            raise InvalidInputError(f"the organization {organization.id} is being erased: it cannot come back")
        return enabled

    async def new_webhook_secret(
        self, organization: Organization, *, actor: str, overlap_s: float = WEBHOOK_OVERLAP_S
    ) -> SecretStr:
        """Webhooks are signed with the one before as well for overlap_s. The result can be shown this once.

        A third is refused while two sign (InvalidInputError): which of them the receivers have, only people know.
        """
        secret = webhook_secret_text(self._random_bytes(ENTROPY_BYTES))
        changed = await self._organizations.set_webhook_secret(
            organization.id, secret, overlap_s=overlap_s, actor=actor
        )
        if changed is None and (until := await self._organizations.old_webhook_secret_until(organization.id)):
            raise InvalidInputError(
                f"two secrets sign until {until.astimezone(UTC):%Y-%m-%d %H:%M} UTC, a third would end the older one at"
                " once. Where the receivers have the newest, end the older one first: --end-old. Where nobody has the"
                " newest, replace that one: --keep-old"
            )
        _still_there(changed, organization)
        return secret

    async def replace_newest_webhook_secret(self, organization: Organization, *, actor: str) -> SecretStr:
        """For one that nobody was given: it ends at once, the older one signs on. Raises InvalidInputError without."""
        secret = webhook_secret_text(self._random_bytes(ENTROPY_BYTES))
        if await self._organizations.replace_newest_webhook_secret(organization.id, secret, actor=actor) is None:
            raise InvalidInputError("there is no old secret that signs; without --keep-old the newest becomes it")
        return secret

    async def end_previous_webhook_secret(self, organization: Organization, *, actor: str) -> bool:
        """Whether there was one. Nothing is signed with it any more within seconds."""
        return await self._organizations.end_previous_webhook_secret(organization.id, actor=actor)


def _still_there(changed: Organization | None, organization: Organization) -> Organization:
    if changed is None:
        raise NotFoundError(f"the organization {organization.id} does not exist any more")
    return changed
