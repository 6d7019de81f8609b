"""Servers that stay away are started anew."""

from dataclasses import dataclass, field

from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.services.restart_servers import RestartPace, RestartServers


@dataclass
class DueServers:
    due: list[Instance]
    asked: list[tuple[float, float, float]] = field(default_factory=list)

    async def take_restarts(self, *, after_s: float, every_s: float, drain_s: float) -> list[Instance]:
        self.asked.append((after_s, every_s, drain_s))
        return self.due


@dataclass
class FakeSupervisor:
    restarted: list[str] = field(default_factory=list)

    async def restart(self, instance: Instance) -> None:
        self.restarted.append(instance.id)
        if instance.id == "ins_bad":
            raise TransientError("the command ended with 3")


def server(name: str) -> Instance:
    return Instance(InstanceId(name), f"http://{name}", "opencode", None, healthy=False, health_detail="no answer")


async def test_each_that_is_due_is_started_anew_also_beside_one_that_cannot_be() -> None:
    store = DueServers([server("ins_bad"), server("ins_good")])
    supervisor = FakeSupervisor()

    told = await RestartServers(store, supervisor, pace=RestartPace(60, 300, 600)).run()

    assert told == 2
    assert sorted(supervisor.restarted) == ["ins_bad", "ins_good"]
    assert store.asked == [(60, 300, 600)]
