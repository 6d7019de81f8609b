"""Organizations whose requests can only wait: no server that may serve them takes work. Which, why, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass

from nubabel_workers.domain.tenants import Instance, Organization, ServersPolicy

_NAMED = 3  # organizations, in a sentence


@dataclass(frozen=True)
class Unserved:
    """organizations: at least one, and just one where it has servers of its own. registered: the servers for them."""

    servers: ServersPolicy
    organizations: Sequence[Organization]
    registered: Sequence[Instance]

    @property
    def name(self) -> str:
        """Of what is amiss, for a list of findings."""
        if self.servers is ServersPolicy.SHARED:
            return "shared servers"
        return f"servers of {self.organizations[0].name}"

    @property
    def words(self) -> str:
        names = [one.name for one in self.organizations[:_NAMED]]
        if (others := len(self.organizations) - _NAMED) > 0:
            names.append(f"{others} more")
        one_alone = len(names) == 1
        whose = "only on servers of its own" if self.servers is ServersPolicy.DEDICATED else "on shared servers"
        who = names[0] if one_alone else f"{', '.join(names[:-1])} and {names[-1]}"
        states = ", ".join(f"{one.id} {_state(one)}" for one in self.registered)
        none = f"none takes work ({states})" if states else "there is none"
        # Sessions that live on a draining server go on there.
        goes_on = any(one.status == "draining" for one in self.registered)
        waits = "new sessions wait" if goes_on else "every request waits"
        return f"{who} {'runs' if one_alone else 'run'} {whose}, and {none}: {waits}, and may run out of time"

    @property
    def advice(self) -> str:
        """Commands, any of which helps."""
        drained = [f"nubabel instances activate {one.id}" for one in self.registered if one.status == "draining"]
        unfit = [f"see to {one.id}: nubabel instances check {one.id}" for one in self.registered if _is_unfit(one)]
        if self.servers is ServersPolicy.SHARED:
            return "; or: ".join([*drained, *unfit, "nubabel instances add URL"])
        (organization,) = self.organizations
        add = f"nubabel instances add URL --org {organization.id}"
        share = f"nubabel orgs set-policy {organization.id} --servers shared"
        return "; or: ".join([*drained, *unfit, add, share])


def unserved(organizations: Sequence[Organization], instances: Sequence[Instance]) -> list[Unserved]:
    """Of organizations that are not disabled: those on shared servers together, each that has its own by itself."""
    enabled = [one for one in organizations if one.disabled_at is None]
    shared = [one for one in enabled if one.servers is ServersPolicy.SHARED]
    groups = [Unserved(ServersPolicy.SHARED, shared, _registered(instances, None))] if shared else []
    groups += [
        Unserved(ServersPolicy.DEDICATED, (one,), _registered(instances, one.id))
        for one in enabled
        if one.servers is ServersPolicy.DEDICATED
    ]
    return [group for group in groups if not any(_takes_work(one) for one in group.registered)]


def _registered(instances: Sequence[Instance], organization_id: str | None) -> list[Instance]:
    return [one for one in instances if one.organization_id == organization_id and one.status != "removed"]


def _takes_work(instance: Instance) -> bool:
    return instance.status == "active" and instance.healthy


def _is_unfit(instance: Instance) -> bool:
    return instance.status == "active" and not instance.healthy


def _state(instance: Instance) -> str:
    return "unfit" if _is_unfit(instance) else instance.status
