"""Who is served by no OpenCode server, in words."""

from nubabel_workers.domain.ids import InstanceId, OrganizationId
from nubabel_workers.domain.tenants import Instance, Organization, ServersPolicy
from nubabel_workers.domain.unserved import unserved
from tests.fakes.clock import START


def _organization(name: str, servers: ServersPolicy = ServersPolicy.SHARED, *, disabled: bool = False) -> Organization:
    return Organization(
        OrganizationId(f"org_{name}"), name.title(), servers=servers, disabled_at=START if disabled else None
    )


def _server(name: str, owner: str | None = None, *, status: str = "active", healthy: bool = True) -> Instance:
    return Instance(
        InstanceId(f"ins_{name}"),
        f"http://{name}",
        "opencode",
        None,
        organization_id=OrganizationId(owner) if owner else None,
        status=status,
        healthy=healthy,
    )


def test_nothing_is_amiss_where_each_has_a_server_that_takes_work() -> None:
    organizations = [_organization("acme"), _organization("own", ServersPolicy.DEDICATED)]

    assert unserved(organizations, [_server("1"), _server("2", "org_own")]) == []


def test_a_server_of_somebody_else_serves_nobody_else() -> None:
    (found,) = unserved([_organization("own", ServersPolicy.DEDICATED)], [_server("1"), _server("2", "org_other")])

    assert found.words == (
        "Own runs only on servers of its own, and there is none: every request waits, and may run out of time"
    )


def test_what_is_wrong_with_each_server_is_told_with_what_helps() -> None:
    servers = [_server("1", "org_own", status="draining"), _server("2", "org_own", healthy=False)]

    (found,) = unserved([_organization("own", ServersPolicy.DEDICATED)], servers)

    assert "none takes work (ins_1 draining, ins_2 unfit): new sessions wait" in found.words
    assert found.advice.split("; or: ") == [
        "nubabel instances activate ins_1",
        "see to ins_2: nubabel instances check ins_2",
        "nubabel instances add URL --org org_own",
        "nubabel orgs set-policy org_own --servers shared",
    ]


def test_those_on_shared_servers_are_told_together_and_only_so_many_are_named() -> None:
    (found,) = unserved([_organization(name) for name in ("a", "b", "c", "d", "e")], [])

    assert found.words.startswith("A, B, C and 2 more run on shared servers, and there is none")


def test_a_disabled_organization_needs_no_server() -> None:
    assert unserved([_organization("own", ServersPolicy.DEDICATED, disabled=True)], []) == []
