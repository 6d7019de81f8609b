"""What a stack on this machine takes from the shell of whoever starts it."""

from pathlib import Path

from config.settings import Settings
from nubabel_workers.embedded.shell_settings import shell_settings


def test_how_the_system_behaves_is_taken_and_what_it_connects_to_is_not() -> None:
    shell = shell_settings(
        {
            "NUBABEL_ROLLOUT": "fallback:50:session",
            "NUBABEL_LATE_NOTICE_S": "5",
            "NUBABEL_DATABASE_URL": "postgresql://somebodys-own",
            "NUBABEL_SLACK_BOT_TOKEN": "xoxb-somebodys-own",
            "NUBABEL_SIDECAR_LISTEN": "127.0.0.1:3001",
            "NUBABEL_SIDECAR_WAIT_S": "7",
            "NUBABEL_ENV_FILE": ".env",
            "NUBABEL_LATE_NOTISE_S": "5",
            "NUBABEL_DELEGATE_URL": "",
            "PATH": "/bin",
        }
    )

    assert shell.taken == {"rollout": "fallback:50:session", "late_notice_s": "5", "sidecar_wait_s": "7"}
    assert shell.left_aside == ("NUBABEL_DATABASE_URL", "NUBABEL_SIDECAR_LISTEN", "NUBABEL_SLACK_BOT_TOKEN")
    assert shell.unknown == ("NUBABEL_LATE_NOTISE_S",)


def test_of_secrets_only_those_of_other_orchestrators_are_taken() -> None:
    secrets = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}

    taken = shell_settings({f"NUBABEL_{name.upper()}": "x" for name in secrets}).taken

    assert set(taken) == {"delegate_token", "fallback_api_key"}


def test_a_file_is_found_from_wherever_the_processes_are_started() -> None:
    taken = shell_settings(
        {"NUBABEL_PLANS_FILE": "my-plans.toml", "NUBABEL_ANALYSIS_RULES_FILE": "/etc/rules.toml"}
    ).taken

    assert taken == {"plans_file": str(Path.cwd() / "my-plans.toml"), "analysis_rules_file": "/etc/rules.toml"}
