"""docker-compose.yml: valid, complete, the same processes as the Procfile, no secret in it."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from config.settings import Settings
from nubabel_workers.adapters.storage.encryption import generate_key
from tests.unit.deployment.files import ROOT, SETTING_NAMES, compose, environment_of, processes

STORES = {"valkey", "postgres"}
NOT_IN_THE_PROCFILE = STORES | {"opencode", "migrate"}
WORKERS = {"worker-events", "worker-orchestration", "worker-notifications", "worker-dead-letters"}
# Fixed inside a container.
SET_BY_THE_IMAGE = {"NUBABEL_HTTP_HOST", "NUBABEL_HTTP_PORT", "NUBABEL_METRICS_HOST", "NUBABEL_FLOWER_HOST"}
SET_BY_THE_IMAGE |= {"NUBABEL_FLOWER_PORT"}

GIVEN = {
    "POSTGRES_PASSWORD": "ownerpassword",
    "TENANT_PASSWORD": "tenantpassword",
    "SYSTEM_PASSWORD": "systempassword",
    "VALKEY_PASSWORD": "valkeypassword",
    "OPENCODE_SERVER_PASSWORD": "opencodepassword",
    "OPENCODE_MODEL": "stub/echo",
    "ANTHROPIC_API_KEY": "providerkey",
    "NUBABEL_ENCRYPTION_KEYS": generate_key().get_secret_value(),
    "NUBABEL_FLOWER_BASIC_AUTH": "operator:flowerpassword",
}
_SECRET = re.compile(r"PASSWORD|SECRET|TOKEN$|_KEYS?$|_AUTH$|_URL$")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    content: dict[str, Any] = compose()["services"]
    return content


def ours(services: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in services.items() if name not in STORES | {"opencode"}}


def test_file_fits_the_compose_specification() -> None:
    # check-jsonschema carries the specification's schema; importing it is not needed for that.
    package = importlib.util.find_spec("check_jsonschema")
    assert package is not None, "check-jsonschema is missing"
    assert package.origin is not None
    schema = Path(package.origin).parent / "builtin_schemas" / "vendor" / "compose-spec.json"

    jsonschema.validate(compose(), json.loads(schema.read_text()))


def test_docker_compose_itself_accepts_the_file_where_it_is_installed(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        return  # the schema's test stands for it
    env_file = tmp_path / "env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in GIVEN.items()))

    done = subprocess.run(
        [docker, "compose", "--env-file", env_file, "--profile", "slack", "config", "--quiet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_services_are_the_processes_of_the_procfile(services: dict[str, Any]) -> None:
    assert set(services) - NOT_IN_THE_PROCFILE == set(processes())


def test_services_run_the_commands_of_the_procfile(services: dict[str, Any]) -> None:
    assert {name: services[name]["command"] for name in processes()} == processes()


@pytest.mark.parametrize("missing", sorted(set(GIVEN) - {"ANTHROPIC_API_KEY"}))
def test_forgotten_variable_is_refused_with_its_name(missing: str, services: dict[str, Any]) -> None:
    given = {name: value for name, value in GIVEN.items() if name != missing}

    with pytest.raises(AssertionError, match=missing):
        _ = [environment_of(service, given) for service in services.values()]


def test_every_process_gets_settings_that_are_valid_in_production(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in ours(services).values():
        environment = environment_of(service, GIVEN)
        with monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)

            assert Settings(_env_file=None).environment == "production"


def test_every_setting_reaches_the_processes(services: dict[str, Any]) -> None:
    for service in ours(services).values():
        passed = {name for name in service["environment"] if name.startswith("NUBABEL_")}

        assert passed - SETTING_NAMES == set(), "docker-compose.yml passes on what is no setting"
        assert SETTING_NAMES - passed - SET_BY_THE_IMAGE == set(), "add these to x-settings in docker-compose.yml"


def test_setting_of_the_env_file_reaches_a_process(services: dict[str, Any]) -> None:
    seen = environment_of(services["worker-orchestration"], GIVEN | {"NUBABEL_RUN_DEADLINE_S": "77"})

    assert seen["NUBABEL_RUN_DEADLINE_S"] == "77"


def test_no_secret_is_written_in_the_file(services: dict[str, Any]) -> None:
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if _SECRET.search(name) and value is not None and name != "HEALTH_URL":
                assert "${" in str(value), name


def test_only_the_migration_gets_the_owner_of_the_tables(services: dict[str, Any]) -> None:
    holders = {name for name, one in services.items() if "ownerpassword" in str(environment_of(one, GIVEN))}

    assert holders == {"postgres", "migrate"}


def test_providers_keys_stay_with_opencode(services: dict[str, Any]) -> None:
    holders = {name for name, one in services.items() if "providerkey" in environment_of(one, GIVEN).values()}

    assert holders == {"opencode"}


def test_opencode_reaches_no_store(services: dict[str, Any]) -> None:
    networks = compose()["networks"]

    assert all(services[name]["networks"] == ["stores"] for name in STORES)
    assert networks["stores"]["internal"] is True
    assert "stores" not in services["opencode"]["networks"]


def test_published_ports_are_for_this_machine_only(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_processes_wait_for_the_schema_and_the_broker(services: dict[str, Any]) -> None:
    for name in processes():
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert services[name]["depends_on"]["valkey"]["condition"] == "service_healthy"
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_workers_get_the_time_that_their_tasks_need(services: dict[str, Any]) -> None:
    for name in WORKERS:
        assert int(services[name]["stop_grace_period"].removesuffix("s")) >= 70


def test_everything_that_lasts_is_restarted_and_watched(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name == "migrate":
            assert service["restart"] == "no"
            continue
        assert service["restart"] == "unless-stopped", name
        # The images of ours have a health check of their own.
        assert "healthcheck" in service or "build" in service, name


def test_health_of_each_process_is_asked_where_it_answers(services: dict[str, Any]) -> None:
    urls = {name: environment_of(services[name], GIVEN)["HEALTH_URL"] for name in processes()}

    assert urls.pop("web") == "http://127.0.0.1:8000/health"
    assert urls.pop("flower") == "http://127.0.0.1:5555/healthcheck"
    assert set(urls.values()) == {"http://127.0.0.1:9100/metrics"}
    assert environment_of(services["listener"], GIVEN)["NUBABEL_METRICS_PORT"] == "9100"


def test_broker_forgets_nothing(services: dict[str, Any]) -> None:
    command = services["valkey"]["command"][-1]

    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command
    assert services["valkey"]["volumes"]


def test_opencode_can_be_restarted_by_its_health_check(services: dict[str, Any]) -> None:
    assert services["opencode"]["init"] is True
    assert environment_of(services["opencode"], GIVEN)["OPENCODE_RESTART_AFTER"] == "4"
