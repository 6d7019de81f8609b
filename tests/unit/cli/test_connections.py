"""connections: add, list, show, allow, authorize, check, disable, remove."""

from nubabel_workers.domain.errors import UnavailableError
from tests.unit.cli.bench import Bench, fails_with

SECRET = "t0ken-of-acme"


def add_github(bench: Bench) -> str:
    result = bench.type("connections", "add", "acme", "github", "--token-stdin", typed=f"{SECRET}\n")
    assert result.exit_code == 0, result.output
    (connection_id,) = bench.tool_connections.rows
    return connection_id


def test_a_connection_by_oauth_says_what_comes_next(bench: Bench) -> None:
    result = bench.type("connections", "add", "acme", "notion", "--tool", "search")

    (row,) = bench.tool_connections.rows.values()
    assert result.stdout == f"added {row.connection.id} (notion): pending_authorization\n"
    assert "nubabel connections authorize org_acme notion" in result.stderr
    assert row.connection.allowed_tools == frozenset({"search"})
    assert bench.tool_connections.actors == ["cli:anna"]


def test_a_token_is_read_and_never_shown(bench: Bench) -> None:
    add_github(bench)

    for words in (("list",), ("show", "acme", "github"), ("check", "acme", "github")):
        assert SECRET not in bench.type("connections", *words).output
        assert SECRET not in str(bench.json("connections", *words))


def test_an_empty_variable_is_no_secret(bench: Bench) -> None:
    result = bench.type("connections", "add", "acme", "github", "--token-env", "NOT_SET_HERE")

    fails_with(result, 2, "NOT_SET_HERE is empty")


def test_variables_of_a_command_server_come_from_the_shell(bench: Bench) -> None:
    result = bench.type(
        *("connections", "add", "acme", "--command", "files", "--env", "FILES_TOKEN"), env={"FILES_TOKEN": SECRET}
    )

    assert result.exit_code == 0
    (secrets,) = bench.tool_connections.secrets.values()
    assert secrets["FILES_TOKEN"].get_secret_value() == SECRET


def test_a_server_without_a_catalogue_entry_is_not_started(bench: Bench) -> None:
    fails_with(bench.type("connections", "add", "acme", "--command", "bash"), 2, "not in the operators' catalogue")


def test_connections_are_listed_with_their_state(bench: Bench) -> None:
    connection_id = add_github(bench)

    assert (
        f"{connection_id}  org_acme      github    active  token  -        all"
        in bench.type("connections", "list").stdout
    )
    assert bench.json("connections", "list", "--org", "acme")[0]["provider"] == "github"


def test_tools_are_allowed_by_name_or_all_of_them(bench: Bench) -> None:
    add_github(bench)

    some = bench.json("connections", "allow", "acme", "github", "b", "a")
    every = bench.json("connections", "allow", "acme", "github", "--all")

    assert (some["allowed_tools"], every["allowed_tools"]) == (["a", "b"], None)
    fails_with(bench.type("connections", "allow", "acme", "github"), 2, "name tools, or give --all")


def test_calls_are_repeated_by_name_never_or_as_the_server_says(bench: Bench) -> None:
    add_github(bench)

    some = bench.json("connections", "repeat", "acme", "github", "b", "a")
    never = bench.json("connections", "repeat", "acme", "github", "--never")
    shown = bench.type("connections", "show", "acme", "github").stdout
    as_told = bench.json("connections", "repeat", "acme", "github", "--as-told")

    assert [one["repeatable_tools"] for one in (some, never, as_told)] == [["a", "b"], [], None]
    assert "repeatable tools" in shown
    for words in ((), ("--never", "--as-told"), ("a", "--never")):
        fails_with(bench.type("connections", "repeat", "acme", "github", *words), 2, "name tools, or give one of")


def test_a_token_goes_into_the_header_that_is_named(bench: Bench) -> None:
    words = ("connections", "add", "acme", "--url", "https://mcp.example/mcp", "--name", "crm", "--token-stdin")

    result = bench.type(*words, "--token-header", "X-Api-Key", typed=f"{SECRET}\n")

    assert result.exit_code == 0, result.output
    assert "X-Api-Key" in bench.type("connections", "show", "acme", "crm").stdout
    fails_with(bench.type(*words, "--token-header", "Host", typed=f"{SECRET}\n"), 2, "has another meaning")


def test_one_connection_is_the_default(bench: Bench) -> None:
    add_github(bench)

    assert bench.json("connections", "set-default", "acme", "github")["is_default"] is True
    assert bench.json("connections", "set-default", "acme", "github", "--off")["is_default"] is False


def test_the_authorization_link_is_the_whole_output(bench: Bench) -> None:
    bench.type("connections", "add", "acme", "notion")

    result = bench.type("connections", "authorize", "acme", "notion")

    assert result.stdout.startswith("https://nubabel.example/connections/authorize?state=")
    assert result.stdout.count("\n") == 1


def test_without_a_public_url_nobody_can_come_back(bench: Bench) -> None:
    bench.public_url = None
    bench.type("connections", "add", "acme", "notion")

    fails_with(bench.type("connections", "authorize", "acme", "notion"), 2, "NUBABEL_PUBLIC_URL is not set")


def test_a_check_fails_when_a_server_does_not_answer(bench: Bench) -> None:
    add_github(bench)
    bench.tool_servers.answers = [["search"], UnavailableError("the server could not be spoken to")]

    well, broken = bench.type("connections", "check"), bench.type("connections", "check", "acme")

    assert (well.exit_code, broken.exit_code) == (0, 1)
    assert "OK" in well.stdout
    assert "FAIL" in broken.stdout
    assert "could not be spoken to" in bench.type("connections", "show", "acme", "github").stdout


def test_a_connection_is_disabled_enabled_and_removed(bench: Bench) -> None:
    connection_id = add_github(bench)

    disabled = bench.type("connections", "disable", "acme", "github")
    enabled = bench.type("connections", "enable", "acme", "github")
    replaced = bench.type("connections", "set-token", "acme", "github", typed="new\n")
    removed = bench.type("connections", "remove", "acme", connection_id)

    assert disabled.stdout == f"disabled {connection_id} (github)\n"
    assert enabled.stdout == f"{connection_id} (github): active\n"
    assert replaced.exit_code == 0
    assert removed.stdout == f"removed {connection_id} (github)\n"
    assert "the provider was not told" in removed.stderr
    fails_with(bench.type("connections", "show", "acme", "github"), 2, "no connection 'github'")
