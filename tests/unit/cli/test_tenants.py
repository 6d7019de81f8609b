"""orgs, workspaces, tokens, submit-keys, webhooks, keys."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from nubabel_workers.cli.administration import Defaults
from nubabel_workers.domain.administration import AuditAction, AuditEntry, RotationReport
from nubabel_workers.domain.credentials import hash_token, operator_tokens
from nubabel_workers.domain.tenants import BusyPolicy
from tests.fakes.clock import START
from tests.unit.cli.bench import Bench, fails_with


def test_a_created_organization_is_printed_with_its_id(bench: Bench) -> None:
    result = bench.type("orgs", "create", "Beta", "--busy", "reject")

    assert result.exit_code == 0
    created = next(one for one in bench.organizations.rows.values() if one.name == "Beta")
    assert result.stdout == f"created {created.id} (Beta)\n"
    assert created.busy_policy is BusyPolicy.REJECT
    assert bench.organizations.actors == ["cli:anna"]


def test_a_taken_name_is_one_line_and_exit_code_two(bench: Bench) -> None:
    fails_with(bench.type("orgs", "create", "acme"), 2, "exists already")


def test_organizations_are_listed_for_people_and_for_programs(bench: Bench) -> None:
    people = bench.type("orgs", "list")

    assert people.stdout.split() == [
        *("ID", "NAME", "STATE", "WHEN", "BUSY", "SERVERS", "PLAN", "CREATED"),
        *("org_acme", "Acme", "active", "queue", "shared", "default", "never"),
    ]
    assert bench.json("orgs", "list")[0]["id"] == "org_acme"


def test_a_terminals_control_characters_in_a_name_are_not_obeyed(bench: Bench) -> None:
    bench.workspaces.rows.clear()
    bench.slack.bots["xoxb-1"] = type(bench.slack.bots["xoxb-1"])(team_name="\x1b[31m[bold]Ev\x07il")
    bench.type("workspaces", "add", "acme", typed="xoxb-1\n")

    listed = bench.type("workspaces", "list").stdout

    assert "\x1b" not in listed
    assert "\x07" not in listed
    assert "·[31m[bold]Ev·il" in listed


def test_a_workspace_that_is_over_is_listed_with_the_reason(bench: Bench) -> None:
    bench.type("workspaces", "add", "acme", typed="xoxb-1\n")
    (workspace_id,) = bench.workspaces.rows
    bench.type("workspaces", "remove", workspace_id, "--reason", "token_revoked")

    assert "ended: token_revoked" in bench.type("workspaces", "list").stdout


def test_an_organization_is_shown_with_what_belongs_to_it(bench: Bench) -> None:
    bench.type("workspaces", "add", "acme", typed="xoxb-1\n")
    bench.type("tokens", "create", "ci", "--org", "acme")

    shown = bench.type("orgs", "show", "ACME").stdout

    assert "org_acme" in shown
    assert "Acme (T1)  active" in shown
    assert "token ci  active" in shown
    assert set(bench.json("orgs", "show", "acme")) == {
        *("organization", "limits", "workspaces", "tokens", "submit_keys", "changes")
    }


def test_disabling_says_what_happens_and_how_to_undo_it(bench: Bench) -> None:
    disabled = bench.type("orgs", "disable", "acme")

    assert "refused within seconds" in disabled.stdout
    assert "nubabel orgs enable org_acme" in disabled.stderr
    assert bench.organizations.rows["org_acme"].disabled_at is not None
    bench.type("orgs", "enable", "acme")
    assert bench.organizations.rows["org_acme"].disabled_at is None


def test_a_policy_is_changed(bench: Bench) -> None:
    result = bench.type("orgs", "set-policy", "acme", "--busy", "interrupt")

    assert result.stdout == (
        "org_acme (Acme): when busy interrupt, plan default, masking mask, servers shared, near a cap keep, "
        "repeated questions run, budget approvers none\n"
    )
    assert "masking refuse," in bench.type("orgs", "set-policy", "acme", "--masking", "refuse").stdout
    assert "servers dedicated," in bench.type("orgs", "set-policy", "acme", "--servers", "dedicated").stdout
    assert "near a cap economize," in bench.type("orgs", "set-policy", "acme", "--near-cap", "economize").stdout
    assert "questions reuse," in bench.type("orgs", "set-policy", "acme", "--repeated-questions", "reuse").stdout
    fails_with(bench.type("orgs", "set-policy", "acme"), 2, "nothing to change")


def test_who_has_servers_of_its_own_is_listed(bench: Bench) -> None:
    bench.type("orgs", "set-policy", "acme", "--servers", "dedicated")

    listed = bench.type("orgs", "list").stdout.splitlines()

    assert "SERVERS" in listed[0]
    assert "dedicated" in listed[1]


def test_a_policy_that_leaves_an_organization_without_a_server_is_set_and_warned_about(bench: Bench) -> None:
    bench.type("instances", "add", "http://oc:4096")

    alone = bench.type("orgs", "set-policy", "acme", "--servers", "dedicated")
    other = bench.type("orgs", "set-policy", "acme", "--busy", "queue")  # asks about no servers, hears of none
    bench.type("instances", "add", "http://own:4096", "--org", "acme")
    served = bench.type("orgs", "set-policy", "acme", "--servers", "dedicated")

    assert alone.exit_code == 0
    assert "servers dedicated," in alone.stdout
    assert "beware: Acme runs only on servers of its own, and there is none: every request waits" in alone.stderr
    assert "nubabel instances add URL --org org_acme; or: nubabel orgs set-policy org_acme" in alone.stderr
    assert "beware" not in other.stderr + served.stderr
    fails_with(
        bench.type("orgs", "set-policy", "acme", "--busy", "nonsense"), 2, "'nonsense'", "nubabel orgs set-policy"
    )


def test_who_may_allow_more_is_named_by_slack_ids(bench: Bench) -> None:
    set_to = ("orgs", "set-policy", "acme", "--budget-approvers")

    assert bench.type(*set_to, "U024BE7LH, W012A3CDE,U024BE7LH").stdout.endswith("approvers U024BE7LH,W012A3CDE\n")
    fails_with(bench.type(*set_to, "@anna"), 2, "'@anna' is no Slack user id")
    assert "U024BE7LH,W012A3CDE" in bench.type("orgs", "show", "acme").stdout
    assert bench.type(*set_to, "none").stdout.endswith("approvers none\n")


def test_an_organization_is_exported_into_a_new_file(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "acme.zip"

    result = bench.type("orgs", "export", "acme", "--to", str(file))

    assert result.stdout == f"exported 2 rows of 2 tables to {file}\n"
    assert file.stat().st_mode & 0o077 == 0
    assert [(one.action, one.organization_id) for one in bench.audit.entries] == [("organization.exported", "org_acme")]
    fails_with(bench.type("orgs", "export", "acme", "--to", str(file)), 2, "exists already")
    fails_with(bench.type("orgs", "export", "nobody", "--to", str(tmp_path / "b.zip")), 2, "no organization")


def test_an_organization_is_erased_only_under_its_own_name(bench: Bench) -> None:
    fails_with(bench.type("orgs", "erase", "acme", "--confirm", "acme"), 2, "confirm its name")
    assert "org_acme" in bench.organizations.rows

    result = bench.type("orgs", "erase", "acme", "--confirm", "Acme")

    assert result.stdout == (
        "erased acme: 4 rows of 3 tables, 0 OpenCode sessions, 0 directories there, 0 connections\n"
    )
    assert "org_acme" not in bench.organizations.rows
    fails_with(bench.type("orgs", "erase", "acme", "--confirm", "Acme"), 2, "no organization")


def test_what_an_erased_organization_left_in_the_audit_log_is_shown_by_its_id(bench: Bench) -> None:
    bench.audit.entries.append(
        AuditEntry(
            "cli:anna", AuditAction.ORGANIZATION_ERASED, "org_gone", "org_gone", {"rows": {"executions": 3}}, START
        )
    )

    assert "cli:anna  organization.erased  org_gone" in bench.type("audit", "--org", "org_gone").stdout
    fails_with(bench.type("audit", "--org", "org_never"), 2, "there is no organization 'org_never'")


# --- workspaces ------------------------------------------------------------------------------------------------------


def test_a_workspace_is_added_by_the_token_on_standard_input(bench: Bench) -> None:
    result = bench.type("workspaces", "add", "acme", typed="xoxb-1\n")

    assert result.exit_code == 0
    assert "Acme (T1) for org_acme" in result.stdout
    assert list(bench.workspaces.tokens.values()) == [SecretStr("xoxb-1")]


def test_a_workspace_is_added_by_a_token_from_a_named_variable(bench: Bench) -> None:
    result = bench.type("workspaces", "add", "acme", "--token-env", "MY_TOKEN", env={"MY_TOKEN": "xoxb-1"})

    assert result.exit_code == 0
    fails_with(bench.type("workspaces", "add", "acme", "--token-env", "NOT_SET"), 2, "NOT_SET is empty")


def test_a_workspace_is_added_by_the_settings_token(bench: Bench) -> None:
    fails_with(bench.type("workspaces", "add", "acme", "--from-settings"), 2, "NUBABEL_SLACK_BOT_TOKEN is not set")

    bench.defaults = Defaults(slack_bot_token=SecretStr("xoxb-1"))

    assert bench.type("workspaces", "add", "acme", "--from-settings").exit_code == 0


@pytest.mark.parametrize(
    ("typed", "code", "says"),
    [("", 2, "the bot token is empty"), ("xapp-1\n", 2, "app-level token"), ("xoxb-bad\n", 1, "invalid_auth")],
)
def test_a_token_that_does_not_fit_is_refused_and_not_repeated(typed: str, code: int, says: str, bench: Bench) -> None:
    result = bench.type("workspaces", "add", "acme", typed=typed)

    fails_with(result, code, says)
    assert not typed.strip() or typed.strip() not in result.output


def test_removing_a_workspace_says_what_was_cancelled(bench: Bench) -> None:
    workspace_id = bench.json("workspaces", "add", "acme", typed="xoxb-1\n")["id"]
    bench.canceller.open_executions[workspace_id] = ["exe_1"]

    result = bench.type("workspaces", "remove", workspace_id)

    assert "1 execution cancelled" in result.stdout
    fails_with(bench.type("workspaces", "remove", "wsp_none"), 2, "nubabel workspaces list")


def test_installation_links_need_their_settings(bench: Bench) -> None:
    fails_with(bench.type("workspaces", "link", "acme"), 2, "NUBABEL_SLACK_CLIENT_ID", "NUBABEL_PUBLIC_URL")


# --- tokens and keys -------------------------------------------------------------------------------------------------


def test_a_token_is_the_only_thing_on_standard_output(bench: Bench) -> None:
    result = bench.type("tokens", "create", "ci", "--org", "acme", "--days", "30")

    text = result.stdout.strip()
    assert list(bench.access.hashes.values()) == [hash_token(text)]
    assert list(bench.access.lifetimes.values()) == [30 * 86_400]
    assert "not shown again" in result.stderr


def test_lists_never_hold_a_secret(bench: Bench) -> None:
    token = bench.json("tokens", "create", "ci", "--org", "acme")["text"]
    secret = bench.json("submit-keys", "create", "etl", "--org", "acme")["secret"]

    for words in (("tokens", "list"), ("submit-keys", "list"), ("tokens", "list", "--json"), ("orgs", "show", "acme")):
        output = bench.type(*words).output
        assert token not in output
        assert secret not in output


def test_a_token_needs_an_organization(bench: Bench) -> None:
    fails_with(bench.type("tokens", "create", "ci"), 2, "--org")


def test_an_operators_token_is_shown_once_and_the_settings_get_its_digest(bench: Bench) -> None:
    printed = bench.type("keys", "operator-token", "night-shift").stdout
    token, setting = (line.split()[1] for line in printed.splitlines())

    assert [one.is_of(token) for one in operator_tokens([setting])] == [True]
    assert token not in setting
    assert setting.startswith("night-shift:")
    fails_with(bench.type("keys", "operator-token", "Night Shift"), 2, "lower-case")


def test_revoking_names_what_was_revoked(bench: Bench) -> None:
    token_id = bench.json("tokens", "create", "ci", "--org", "acme")["token"]["id"]
    key_id = bench.json("submit-keys", "create", "etl", "--org", "acme")["key"]["id"]

    assert token_id in bench.type("tokens", "revoke", token_id).stdout
    assert key_id in bench.type("submit-keys", "revoke", key_id).stdout
    fails_with(bench.type("tokens", "revoke", "tok_none"), 2, "nubabel tokens list")


def test_a_webhook_secret_is_shown_once(bench: Bench) -> None:
    result = bench.type("webhooks", "secret", "acme")

    assert result.stdout.strip() == bench.organizations.secrets["org_acme"].get_secret_value()
    assert result.stdout.startswith("whsec_")


def test_the_webhook_secret_before_signs_for_a_day_as_well(bench: Bench) -> None:
    first = bench.type("webhooks", "secret", "acme").stdout.strip()

    second = bench.type("webhooks", "secret", "acme")

    assert bench.organizations.previous_secrets["org_acme"].get_secret_value() == first
    assert bench.organizations.overlaps_s["org_acme"] == 86400
    assert "24 h" in second.stderr
    assert "nubabel webhooks secret org_acme --end-old" in second.stderr


def test_the_webhook_secret_before_is_ended_before_its_time(bench: Bench) -> None:
    for _ in range(2):
        bench.type("webhooks", "secret", "acme")

    said = [bench.type("webhooks", "secret", "acme", "--end-old").stdout for _ in range(2)]

    assert said == ["nothing is signed with the old secret any more, within seconds\n", "there was no old secret\n"]


def test_a_leaked_webhook_secret_is_replaced_at_once(bench: Bench) -> None:
    bench.type("webhooks", "secret", "acme")

    result = bench.type("webhooks", "secret", "acme", "--end-now")

    assert bench.organizations.previous_secrets == {}
    assert result.stdout.strip() == bench.organizations.secrets["org_acme"].get_secret_value()
    fails_with(bench.type("webhooks", "secret", "acme", "--end-now", "--end-old"), 2, "one of --end-old, --end-now")


def test_a_third_webhook_secret_is_refused_while_two_sign(bench: Bench) -> None:
    for _ in range(2):
        bench.type("webhooks", "secret", "acme")
    before = dict(bench.organizations.secrets)

    refused = bench.type("webhooks", "secret", "acme")

    fails_with(refused, 2, "two secrets sign until 20", "--end-old", "--keep-old")
    assert bench.organizations.secrets == before
    bench.type("webhooks", "secret", "acme", "--end-old")
    assert bench.type("webhooks", "secret", "acme").exit_code == 0


def test_a_newest_webhook_secret_that_nobody_has_is_replaced_and_the_old_one_signs_on(bench: Bench) -> None:
    first = bench.type("webhooks", "secret", "acme").stdout.strip()
    fails_with(bench.type("webhooks", "secret", "acme", "--keep-old"), 2, "there is no old secret that signs")
    bench.type("webhooks", "secret", "acme")

    third = bench.type("webhooks", "secret", "acme", "--keep-old")

    assert bench.organizations.secrets["org_acme"].get_secret_value() == third.stdout.strip()
    assert bench.organizations.previous_secrets["org_acme"].get_secret_value() == first
    assert "as long as it would have" in third.stderr


def test_a_generated_key_needs_no_settings_and_is_a_fernet_key(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    bench.opening_fails = AssertionError("nothing is opened")

    result = bench.type("keys", "generate")

    assert len(result.stdout.strip()) == 44


def test_a_rotation_counts_what_it_did(bench: Bench) -> None:
    assert bench.type("keys", "rotate").stdout == "3 secrets re-encrypted, 4 were under the first key already\n"
    assert bench.audit.entries[0].actor == "cli:anna"


def test_a_rotation_that_could_not_read_a_secret_fails_and_names_it(bench: Bench) -> None:
    unreadable = (("workspaces", "wsp_1"), *(("instances", f"ins_{number}") for number in range(8)))
    bench.rotation.report = RotationReport(rotated=1, unreadable=unreadable)

    result = bench.type("keys", "rotate")

    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "9 secrets were encrypted with a key that is not in NUBABEL_ENCRYPTION_KEYS: put" in result.stderr
    assert "workspaces wsp_1, instances ins_0" in result.stderr
    assert "and 4 more" in result.stderr
    assert "new one" not in result.stderr
