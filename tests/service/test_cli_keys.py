import json
from contextlib import closing
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from router.access.keys import well_formed
from router.cli.keys import keys
from router.cli.ledger import ledger
from router.ledger.sqlite import FILE, Database
from tests.service.ledgers import Books


def run(data: Path, group: click.Group, *arguments: str) -> Result:
    result = CliRunner().invoke(group, [*arguments, "--data", str(data)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def use(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the books to the commands, as an operator's environment does."""
    monkeypatch.setenv("ROUTER_DATABASE_URL", books.url or "")


def created(data: Path, *options: str) -> dict[str, str]:
    made: dict[str, str] = json.loads(run(data, keys, "create", "--name", "me", "--json", *options).stdout)
    return made


def test_create_before_the_first_start_makes_a_private_folder(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    result = run(data, keys, "create", "--name", "me", "--credit", "12.5", "--json")
    assert result.exit_code == 0
    assert '"credit_usd":12.5}' in result.stdout
    made = json.loads(result.stdout)
    assert set(made) == {"id", "key", "name", "credit_usd"}
    assert well_formed(made["key"])
    assert data.stat().st_mode & 0o777 == 0o700
    assert (data / FILE).stat().st_mode & 0o777 == 0o600


def test_the_key_is_alone_on_its_line(tmp_path: Path) -> None:
    lines = run(tmp_path, keys, "create", "--name", "me").stdout.splitlines()
    assert [line for line in lines if well_formed(line)]


def test_a_glob_that_matches_no_model_is_told(tmp_path: Path) -> None:
    globs = ("deepseek/*", "openrouter:*", "nope/*")
    result = run(
        tmp_path, keys, "create", "--name", "me", "--json", *(x for g in globs for x in ("--models", g))
    )

    assert result.stderr == "Note: 'nope/*' matches no model of the catalog (`router catalog show`).\n"
    assert json.loads(result.stdout)["name"] == "me"


def test_credit_is_null_where_none_is_needed(tmp_path: Path) -> None:
    assert created(tmp_path)["credit_usd"] is None


def test_list_topup_and_revoke(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    use(books, monkeypatch)
    tmp_path = books.data
    made = created(tmp_path, "--credit", "1", "--rpm", "10", "--models", "a/*", "--models", "b/*")
    assert run(tmp_path, keys, "topup", made["id"], "0.5", "--reference", "r1").exit_code == 0
    again = run(tmp_path, keys, "topup", made["id"], "0.5", "--reference", "r1")
    assert "booked before" in again.stdout
    assert run(tmp_path, keys, "revoke", made["id"]).exit_code == 0
    (listed,) = json.loads(run(tmp_path, keys, "list", "--json").stdout)
    assert listed["credit_usd"] == 1.5
    assert listed["rpm"] == 10
    assert listed["models"] == ["a/*", "b/*"]
    assert listed["state"] == "revoked"
    assert "key" not in listed
    shown = run(tmp_path, keys, "list").stdout
    assert made["id"] in shown
    assert made["key"] not in shown


def test_an_empty_list_says_how_to_make_a_key(tmp_path: Path) -> None:
    assert "router keys create" in run(tmp_path, keys, "list").stdout
    with closing(Database(tmp_path / FILE)):
        assert "router keys create" in run(tmp_path, keys, "list").stdout


def test_a_list_before_the_first_start_is_empty_and_says_where_it_looked(tmp_path: Path) -> None:
    assert f"no database in {tmp_path / 'typo'}" in run(tmp_path / "typo", keys, "list").stdout
    listed = run(tmp_path / "typo", keys, "list", "--json")
    assert (listed.exit_code, json.loads(listed.stdout)) == (0, [])
    assert f"no database in {tmp_path / 'typo'}" in listed.stderr
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("group", "arguments"),
    [
        (ledger, ["export"]),
        (ledger, ["export", "--json"]),
        (ledger, ["check"]),
        (keys, ["topup", "key_x", "1"]),
        (keys, ["revoke", "key_x"]),
    ],
)
def test_a_folder_without_a_database_is_refused_and_stays_as_it_is(
    tmp_path: Path, group: click.Group, arguments: list[str]
) -> None:
    for data in (tmp_path / "typo", tmp_path):
        result = run(data, group, *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"there is no database in {data}: name the service's folder with --data" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("create", "--name", "me", "--credit", "abc"), "not an amount in USD"),
        (("create", "--name", "me", "--credit=-5"), "cannot be negative"),
        (("create", "--name", "me", "--rpm", "0"), "--rpm"),
        (("create", "--name", ""), "needs a name"),
        (("create", "--name", "me", "--expires", "soon"), "--expires"),
        (("topup", "key_x", "5"), "router keys list"),
        (("revoke", "key_x"), "router keys list"),
    ],
)
def test_mistakes_end_with_a_message(
    books: Books, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], why: str
) -> None:
    use(books, monkeypatch)
    tmp_path = books.data
    created(tmp_path)
    result = run(tmp_path, keys, *arguments)
    assert result.exit_code != 0
    assert why in result.output


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(tmp_path / "file" / "data", keys, "list")
    assert result.exit_code == 1
    assert "ROUTER_DATA" in result.output


def test_the_environment_names_the_folder(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        keys, ["create", "--name", "me"], env={"ROUTER_DATA": str(tmp_path / "there")}
    )
    assert result.exit_code == 0
    assert (tmp_path / "there" / FILE).exists()


def test_export_and_check(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    use(books, monkeypatch)
    tmp_path = books.data
    made = created(tmp_path, "--credit", "5")
    (line,) = run(tmp_path, ledger, "export", "--json").stdout.splitlines()
    row = json.loads(line)
    assert list(row) == [
        "request_id",
        "client_request_id",
        "account",
        "kind",
        "amount_nusd",
        "upstream_cost_nusd",
        "balance_after_nusd",
        "prompt_tokens",
        "completion_tokens",
        "model",
        "provider",
        "catalog",
        "estimated",
        "idempotency_key",
        "created_at",
    ]
    assert (row["account"], row["kind"], row["amount_nusd"]) == (made["id"], "topup", 5_000_000_000)
    assert "topup" in run(tmp_path, ledger, "export").stdout
    assert run(tmp_path, ledger, "check").exit_code == 0
    books.execute("UPDATE accounts SET balance_nusd = balance_nusd + 1")
    tampered = run(tmp_path, ledger, "check")
    assert tampered.exit_code == 1
    assert "5.000000001" in tampered.output


@pytest.mark.parametrize(
    ("group", "arguments"),
    [(keys, ["list"]), (keys, ["create", "--name", "me"]), (ledger, ["check"]), (ledger, ["export"])],
)
def test_a_database_that_is_away_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: click.Group, arguments: list[str]
) -> None:
    monkeypatch.setenv("ROUTER_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/books")
    result = run(tmp_path, group, *arguments)
    assert result.exit_code == 1
    assert "cannot use the PostgreSQL database me@127.0.0.1:1/books" in result.output
    assert "ROUTER_DATABASE_URL" in result.output
    assert "hunter2" not in result.output


def test_a_settings_file_names_the_folder_and_the_database(tmp_path: Path) -> None:
    config = tmp_path / "other.toml"
    config.write_text(f'data = "{tmp_path / "there"}"')
    result = CliRunner().invoke(keys, ["create", "--name", "me", "--config", str(config)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "there" / FILE).exists()
    config.write_text('database_url = "mysql://me:hunter2@host/x"')
    result = CliRunner().invoke(keys, ["list", "--config", str(config)])
    assert (result.exit_code, "postgresql://" in result.output) == (1, True)
    assert "hunter2" not in result.output


@pytest.mark.parametrize(
    "options",
    [
        ("--rpm", str(10**19)),
        ("--tpm", str(2**31)),
        ("--expires", "9999-12-31"),
        ("--expires", "2020-01-01"),
        ("--models", "a\n"),
    ],
)
def test_what_no_database_holds_is_refused_in_words(tmp_path: Path, options: tuple[str, str]) -> None:
    refused = run(tmp_path, keys, "create", "--name", "me", *options)
    assert (refused.exit_code, refused.stderr.startswith("Error: ")) == (1, True)


def test_a_topup_that_no_account_holds_is_refused_in_words(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(books, monkeypatch)
    made = created(books.data, "--credit", "9000000000")
    refused = run(books.data, keys, "topup", made["id"], "9000000000")
    assert (refused.exit_code, "beyond what an account can hold" in refused.stderr) == (1, True)
    (listed,) = json.loads(run(books.data, keys, "list", "--json").stdout)
    assert listed["credit_usd"] == 9_000_000_000
    odd = run(books.data, keys, "topup", "a\0b", "1")
    assert (odd.exit_code, "no key has the id" in odd.stderr) == (1, True)
