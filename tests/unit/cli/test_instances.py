"""nubabel instances."""

from dataclasses import replace

from pydantic import SecretStr

from nubabel_workers.domain.circuit_breaker import BreakerState, Gate
from tests.unit.cli.bench import Bench, fails_with


def test_an_added_server_is_looked_at(bench: Bench) -> None:
    result = bench.type("instances", "add", "http://oc:4096", "--password-stdin", "--capacity", "7", typed="pw\n")

    assert result.exit_code == 0
    (instance,) = bench.instances.rows.values()
    assert (instance.password, instance.capacity_runs, instance.submits_per_second) == (SecretStr("pw"), 7, 20)
    assert "OK" in result.stdout
    assert "version 1.18.33" in result.stdout


def test_an_added_server_that_does_not_answer_stays_registered_and_fails(bench: Bench) -> None:
    bench.servers.problem = "connection refused"

    result = bench.type("instances", "add", "http://oc:4096", "--password-env", "PW", env={"PW": "pw"})

    assert result.exit_code == 1
    assert "FAIL" in result.stdout
    assert "→ see whether a server runs at http://oc:4096" in result.stdout
    assert "no work until the listener finds it well" in result.stderr
    assert [one.healthy for one in bench.instances.rows.values()] == [False]


def test_a_server_without_a_password_is_warned_about(bench: Bench) -> None:
    assert "without a password" in bench.type("instances", "add", "http://oc:4096").stderr


def test_an_organizations_own_server_names_the_command_that_lets_it_be_used(bench: Bench) -> None:
    bench.type("orgs", "create", "Acme")

    told = bench.type("instances", "add", "http://oc:4096", "--org", "Acme").stderr

    assert "nubabel orgs set-policy org_" in told
    assert "--servers dedicated" in told


def test_one_that_has_its_own_servers_already_is_told_no_such_command(bench: Bench) -> None:
    bench.type("orgs", "set-policy", "acme", "--servers", "dedicated")

    told = bench.type("instances", "add", "http://oc:4096", "--org", "acme").stderr

    assert "set-policy" not in told


def test_taking_the_last_server_of_an_organization_away_is_done_and_warned_about(bench: Bench) -> None:
    bench.type("orgs", "set-policy", "acme", "--servers", "dedicated")
    for url in ("http://own-1:4096", "http://own-2:4096"):
        bench.type("instances", "add", url, "--org", "acme")
    first, last = bench.instances.rows

    one_left = bench.type("instances", "drain", first)
    drained = bench.type("instances", "drain", last)
    bench.type("instances", "remove", first)
    removed = bench.type("instances", "remove", last)

    assert "beware" not in one_left.stderr
    assert (drained.exit_code, bench.instances.rows[last].status) == (0, "removed")
    assert f"none takes work ({first} draining, {last} draining): new sessions wait" in drained.stderr
    assert f"→ nubabel instances activate {first}" in drained.stderr
    assert "beware: Acme runs only on servers of its own, and there is none: every request waits" in removed.stderr


def test_taking_the_last_shared_server_away_names_whom_it_served(bench: Bench) -> None:
    bench.type("orgs", "create", "Hanbit")
    bench.type("instances", "add", "http://oc:4096")
    bench.type("instances", "add", "http://own:4096", "--org", "acme")
    (shared, own) = bench.instances.rows

    owns = bench.type("instances", "remove", own)  # whom it belongs to does not use it
    last = bench.type("instances", "remove", shared)

    assert "beware" not in owns.stderr
    assert "beware: Acme and Hanbit run on shared servers, and there is none: every request waits" in last.stderr


def test_servers_are_listed_with_load_and_health(bench: Bench) -> None:
    bench.type("instances", "add", "http://oc:4096")

    listed = bench.type("instances", "list").stdout

    assert "http://oc:4096" in listed
    assert "0/50" in listed
    assert "healthy" in listed
    assert bench.json("instances", "list")[0]["url"] == "http://oc:4096"


def test_organizations_directories_are_listed_and_their_number_is_set(bench: Bench) -> None:
    bench.type("instances", "add", "http://oc:4096", "--max-directories", "9")
    bench.type("instances", "add", "http://own:4096", "--org", "acme")
    shared = next(one.id for one in bench.instances.rows.values() if one.organization_id is None)
    bench.instances.rows[shared] = replace(bench.instances.rows[shared], directories_taken=2)

    listed = {line.split()[1]: line.split() for line in bench.type("instances", "list").stdout.splitlines()[1:]}
    changed = bench.type("instances", "set", shared, "--max-directories", "30")

    assert "2/9" in listed["http://oc:4096"]
    assert "one" in listed["http://own:4096"]
    assert changed.stdout == f"{shared} takes 50 runs at once, 20 prompts a second, 30 directories\n"
    assert bench.instances.rows[shared].max_directories == 30
    fails_with(bench.type("instances", "set", shared, "--max-directories", "0"), 2, "at least 1")


def test_capacity_pace_and_password_of_a_server_are_changed_and_the_password_is_not_repeated(bench: Bench) -> None:
    bench.type("instances", "add", "http://oc:4096")
    (instance_id,) = bench.instances.rows

    sized = bench.type("instances", "set", instance_id, "--capacity", "80", "--submits-per-second", "30")
    entered = bench.type("instances", "set", instance_id, "--password-stdin", typed="hunter2\n")

    row = bench.instances.rows[instance_id]
    assert (row.capacity_runs, row.submits_per_second, row.password) == (80, 30, SecretStr("hunter2"))
    assert sized.stdout == f"{instance_id} takes 80 runs at once, 30 prompts a second, 20 directories\n"
    assert "OK" in entered.stdout
    assert "hunter2" not in entered.output
    assert bench.instances.actors[-2:] == ["cli:anna", "cli:anna"]


def test_a_change_of_a_server_to_nothing_names_what_can_change(bench: Bench) -> None:
    fails_with(bench.type("instances", "set", "ins_1"), 2, "nubabel instances set --help")


def test_a_server_that_is_taken_back_is_listed_with_what_it_takes_now(bench: Bench) -> None:
    bench.type("instances", "add", "http://oc:4096")
    ((instance_id, row),) = bench.instances.rows.items()

    bench.instances.rows[instance_id] = replace(row, recovered_ago_s=15.0)

    assert "0/30 of 50" in bench.type("instances", "list").stdout


def test_a_strained_server_is_listed_with_what_is_wrong_and_its_check_fails(bench: Bench) -> None:
    bench.type("instances", "add", "http://oc:4096")
    ((instance_id, row),) = bench.instances.rows.items()
    assert "strained" not in bench.type("instances", "list").stdout

    reason = "its memory is 3.2 GB, the bound 3.0 GB"
    bench.instances.rows[instance_id] = replace(row, strain=reason, memory_bytes=3_210_000_000, event_lag_s=0.25)

    listed = bench.type("instances", "list").stdout
    assert "strained" in listed
    assert "3.2 GB" in listed
    assert "0.2 s" in listed
    checked = bench.type("instances", "check")
    assert checked.exit_code == 1
    assert reason in checked.stdout
    assert bench.instances.rows[instance_id].healthy  # it answers: sessions go on there


def test_one_server_is_shown_with_what_is_known_of_it_and_without_its_password(bench: Bench) -> None:
    bench.type("instances", "add", "http://oc:4096", "--password-stdin", typed="hunter2\n")
    ((instance_id, row),) = bench.instances.rows.items()
    before = bench.type("instances", "show", instance_id).output
    bench.instances.rows[instance_id] = replace(
        row, strain="its events come 14 s late", memory_bytes=900_000_000, event_lag_s=14.0
    )

    shown = bench.type("instances", "show", instance_id).output

    assert "because      -" in before
    for words in ("health       strained", "because      its events come 14 s late", "0.9 GB", "14.0 s late", "0/50"):
        assert words in shown
    assert bench.json("instances", "show", instance_id)["strain"] == "its events come 14 s late"
    assert "hunter2" not in before + shown + bench.type("instances", "show", instance_id, "--json").output
    fails_with(bench.type("instances", "show", "ins_none"), 2, "nubabel instances list")


def test_an_open_circuit_breaker_is_listed(bench: Bench) -> None:
    bench.type("instances", "add", "http://oc:4096")
    assert "closed" in bench.type("instances", "list").stdout
    (instance_id,) = bench.instances.rows

    bench.breakers.at[instance_id] = Gate(BreakerState.OPEN, wait_s=12.3)

    assert "open, next try in 12 s" in bench.type("instances", "list").stdout
    assert bench.json("instances", "list")[0]["breaker"] == "open"


def test_a_callback_key_is_shown_once_and_the_one_before_stays_good_until_it_is_ended(bench: Bench) -> None:
    bench.type("instances", "add", "http://oc:4096")
    (instance_id,) = bench.instances.rows

    first = bench.type("instances", "callback-key", instance_id).stdout.strip()
    second = bench.json("instances", "callback-key", instance_id)["callback_key"]
    good = [key.get_secret_value() for key in bench.instances.keys[instance_id]]
    ended = bench.type("instances", "callback-key", instance_id, "--end-old").stdout

    assert first.startswith("nck_")
    assert first != second
    assert good == [second, first]
    assert "refused" in ended
    assert [key.get_secret_value() for key in bench.instances.keys[instance_id]] == [second]
    assert "there was no old key" in bench.type("instances", "callback-key", instance_id, "--end-old").stdout


def test_a_callback_key_of_an_unknown_server_is_refused(bench: Bench) -> None:
    fails_with(bench.type("instances", "callback-key", "ins_none"), 2, "nubabel instances list")


def test_a_password_never_leaves_in_json(bench: Bench) -> None:
    bench.type("instances", "add", "http://oc:4096", "--password-stdin", typed="hunter2\n")

    for words in (("list", "--json"), ("check", "--json"), ("list",)):
        assert "hunter2" not in bench.type("instances", *words).output


def test_checking_fails_when_one_server_is_unfit(bench: Bench) -> None:
    bench.type("instances", "add", "http://oc:4096")
    assert bench.type("instances", "check").exit_code == 0

    bench.servers.problem = "connection refused"

    result = bench.type("instances", "check")
    assert result.exit_code == 1
    assert "connection refused" in result.stdout


def test_a_server_is_drained_activated_and_removed(bench: Bench) -> None:
    instance_id = bench.json("instances", "add", "http://oc:4096")["instance"]["id"]

    assert "draining" in bench.type("instances", "drain", instance_id).stdout
    assert "active again" in bench.type("instances", "activate", instance_id).stdout
    assert "removed" in bench.type("instances", "remove", instance_id).stdout
    assert "no OpenCode server yet" in bench.type("instances", "list").stdout


def test_bad_input_is_one_line(bench: Bench) -> None:
    fails_with(bench.type("instances", "add", "oc:4096"), 2, "http://host:4096")
    fails_with(bench.type("instances", "drain", "ins_none"), 2, "nubabel instances list")
    fails_with(bench.type("instances", "add", "http://oc", "--password-stdin", typed=""), 2, "password is empty")
