"""`router doctor`: each thing that can be wrong is found, and its line ends with the fix."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import sys
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from router.classifier.model import ARTEFACT, WEIGHTS_FILE
from router.doctor import configuration, machine, offers, service, storage
from router.doctor.finding import Finding
from router.doctor.installed import again
from router.doctor.payments import payments
from router.ledger.sqlite import FILE, Database
from router.settings import Settings
from tests.router import Offered, write_catalog

TODAY = date(2026, 11, 22)
BASE = {"acme": "https://api.acme.test/v1"}
KEYED = 'key_env = "ACME_API_KEY"'


def one(found: Iterable[Finding], state: str) -> Finding:
    """Return the only finding of a state."""
    (wanted,) = [finding for finding in found if finding.state == state]
    return wanted


def states(found: Iterable[Finding]) -> set[str]:
    return {finding.state for finding in found}


def test_trouble_without_a_fix_cannot_be_said() -> None:
    with pytest.raises(ValueError, match="needs a fix"):
        Finding("x", "failure", "it is broken")


def test_an_old_python_fails() -> None:
    assert machine.python((3, 10, 4)).state == "failure"
    assert machine.python().state == "ok"


def test_packages_are_compared_with_what_the_distribution_asks() -> None:
    assert machine.packages().state == "ok"
    assert machine.packages("no-such-distribution").state == "note"


@pytest.mark.parametrize(
    ("installer", "origin", "command"),
    [
        ("uv", None, "uv pip install --python {python} --force-reinstall 'llm-router[otel]==0.1.0'"),
        (
            "uv",
            {"url": "file:///src/llm%20router", "dir_info": {"editable": True}},
            "uv pip install --python {python} --force-reinstall --editable '/src/llm router[otel]'",
        ),
        (
            "uv",
            {"url": "file:///src/router", "dir_info": {}},
            "uv pip install --python {python} --force-reinstall '/src/router[otel]'",
        ),
        (
            "uv",
            {"url": "https://example.test/router.whl", "archive_info": {}},
            "uv pip install --python {python} --force-reinstall 'llm-router[otel] @ https://example.test/router.whl'",
        ),
    ],
)
def test_the_command_that_installs_again_is_that_of_this_installation(
    tmp_path: Path, installer: str, origin: dict[str, object] | None, command: str
) -> None:
    (tmp_path / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-router\nVersion: 0.1.0\n")
    (tmp_path / "INSTALLER").write_text(f"{installer}\n")
    if origin is not None:
        (tmp_path / "direct_url.json").write_text(json.dumps(origin))
    assert again("[otel]", tmp_path) == command.format(python=shlex.quote(sys.executable))


@pytest.mark.parametrize(
    ("requirement", "said"),
    [
        ("no-such-package>=1", ["no-such-package is missing"]),
        ("msgspec>=99", ["msgspec is"]),
        ("msgspec<0.1", ["msgspec is"]),
        ("msgspec>=0.1,<99", []),
        ("msgspec>=0.1.0; sys_platform != 'nowhere'", []),
        ('no-such-package; extra == "otel"', []),
    ],
)
def test_a_requirement_is_met_or_named(requirement: str, said: list[str]) -> None:
    found = list(machine._wrong(requirement))
    assert len(found) == len(said)
    assert all(start in line for start, line in zip(said, found, strict=True))


def test_too_few_open_files_name_the_limit_and_the_setting() -> None:
    found = machine.open_files(Settings(max_connections=10_000), hard=4_096)
    assert found.state == "warning"
    assert "LimitNOFILE" in found.fix
    assert "ROUTER_MAX_CONNECTIONS to 1948" in found.fix
    assert machine.open_files(Settings(max_connections=1_948), hard=4_096).state == "ok"


@pytest.mark.parametrize(("free_gib", "state"), [(0.01, "failure"), (1.0, "warning"), (9.0, "ok")])
def test_the_disk_has_room_for_the_logs(tmp_path: Path, free_gib: float, state: str) -> None:
    assert machine.disk(Settings(data=tmp_path), int(free_gib * 2**30)).state == state


def test_a_clock_that_nobody_sets_or_that_cannot_be_true_is_found() -> None:
    now = datetime.now(UTC)
    assert machine.clock(now, 0).state == "ok"
    assert machine.clock(now, 5).state == "warning"
    assert machine.clock(datetime(1990, 1, 1, tzinfo=UTC), 0).state == "failure"


def test_a_wrong_setting_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "router.toml"
    file.write_text('log = "json"\n\nport = "many"\nprot = 1\n')
    settings, found = configuration.read(file, {})
    assert settings is None
    said = sorted(finding.message for finding in found)
    assert [line.split(": ")[0] for line in said] == [f"{file}:3", f"{file}:4"]
    assert states(found) == {"failure"}


def test_settings_that_contradict_each_other_and_broken_toml_are_failures(tmp_path: Path) -> None:
    file = tmp_path / "router.toml"
    for text in ('host = "0.0.0.0"\naccess = "open"\n', "port = \n"):
        file.write_text(text)
        settings, found = configuration.read(file, {})
        assert settings is None
        assert states(found) == {"failure"}
    assert configuration.read(tmp_path / "none.toml", {})[1][0].fix.startswith("name a file")


def test_a_mistyped_variable_is_found_with_what_was_meant(tmp_path: Path) -> None:
    (tmp_path / "router.toml").write_text("")
    _, found = configuration.read(tmp_path / "router.toml", {"ROUTER_PROT": "1", "ROUTER_PORT": "8402"})
    wrong = one(found, "warning")
    assert "ROUTER_PROT" in wrong.message
    assert "ROUTER_PORT" in wrong.fix


def test_open_access_on_a_public_address_warns() -> None:
    assert states(configuration.access(Settings())) == {"ok"}
    public = list(configuration.access(Settings(host="0.0.0.0", access="open", insecure_open=True)))
    assert "spends your money" in one(public, "warning").message
    assert states(configuration.access(Settings(host="0.0.0.0"))) == {"ok", "note"}


def test_prompts_that_are_kept_are_told() -> None:
    assert not list(configuration.kept_words(Settings()))
    kept = one(list(configuration.kept_words(Settings(keep_prompts=True))), "warning")
    assert "prompts and answers are kept" in kept.message
    nothing = one(list(configuration.kept_words(Settings(keep_prompts=True, history_requests=0))), "warning")
    assert "keeps nothing" in nothing.message


@pytest.mark.parametrize(
    "settings",
    [Settings(cors_origins=("*",)), Settings(admin_key="hunter2")],
    ids=["CORS", "short admin key"],
)
def test_unsafe_settings_warn(settings: Settings) -> None:
    assert one(configuration.access(settings), "warning").fix


def test_what_others_can_read_is_named_with_the_command(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    (data / "wallet.key").write_text("secret")
    (data / "wallet.key").chmod(0o644)
    config = tmp_path / "router.toml"
    config.write_text('admin_key = "long enough to be one"\n')
    config.chmod(0o666)
    found = configuration.permissions(Settings(data=data), config)
    assert [finding.fix for finding in found] == [
        f"chmod 700 {data}",
        f"chmod 600 {data / 'wallet.key'}",
        f"chmod 600 {config}",
    ]
    assert [finding.state for finding in found] == ["warning", "warning", "failure"]
    for finding in found:
        os.chmod(finding.fix.split()[2], int(finding.fix.split()[1], 8))
    assert states(configuration.permissions(Settings(data=data), config)) == {"ok"}


def catalog(folder: Path, *models: Offered, provider: str = KEYED) -> Path:
    return write_catalog(folder / "catalog", BASE, list(models), provider=provider)


def test_a_faulty_catalog_is_named_with_file_and_line(tmp_path: Path) -> None:
    directory = catalog(tmp_path, Offered("a/one", provider="acme"))
    file = directory / "models" / "a" / "one.toml"
    file.write_text(file.read_text().replace("context = 100000", "context = 0"))
    snapshot, found = offers.catalog(directory, {}, TODAY, {})
    assert snapshot is None
    assert f"{file}:2: context" in one(found, "failure").message
    assert offers.catalog(tmp_path / "none", {}, TODAY, {})[1][0].state == "failure"


def test_old_prices_and_models_that_retire_are_listed(tmp_path: Path) -> None:
    directory = catalog(tmp_path, Offered("a/one", provider="acme"), Offered("a/two", provider="acme"))
    file = directory / "models" / "a" / "one.toml"
    file.write_text("retires = 2026-12-01\n" + file.read_text().replace("2026-11-01\n", "2026-08-01\n"))
    _, found = offers.catalog(directory, {"ACME_API_KEY": "k"}, TODAY, {})
    by_check = {finding.check: finding for finding in found if finding.state == "warning"}
    assert "a/one at acme (113 days)" in by_check["prices"].message
    assert "1 of 2" in by_check["prices"].message
    assert "a/one (2026-12-01)" in by_check["retiring"].message
    assert "catalog" not in by_check


@pytest.mark.parametrize(
    ("environ", "demo", "state", "word"),
    [
        ({"ACME_API_KEY": "k"}, True, "ok", "is set"),
        ({}, True, "note", "demo answers"),
        ({}, False, "failure", "no offer can be used"),
        ({"ACME_API_KEY": "k\n"}, True, "warning", "blanks"),
    ],
)
def test_a_providers_key_is_set_or_not(
    tmp_path: Path, environ: dict[str, str], demo: bool, state: str, word: str
) -> None:
    snapshot, _ = offers.catalog(catalog(tmp_path, Offered("a/one", provider="acme")), environ, TODAY, {})
    assert snapshot is not None
    found = one(offers.providers(snapshot, environ, demo_when_empty=demo), state)
    assert word in found.message
    assert "k\n" not in found.message


def test_a_database_is_looked_at_and_not_made(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data")
    assert storage.database(settings).state == "ok"
    assert not settings.data.exists()
    Database(settings.data / FILE).close()
    found = storage.database(settings)
    assert found.state == "ok"
    assert all(word in found.message for word in ("writable", "WAL", "schema", "sound"))


def test_a_data_folder_that_is_a_file_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    found = storage.database(Settings(data=tmp_path / "data"))
    assert (found.state, found.fix) == ("failure", "name a folder with --data or ROUTER_DATA")


def test_a_database_that_a_service_writes_is_no_trouble(tmp_path: Path) -> None:
    database = Database(tmp_path / FILE)
    with database.transaction():
        assert "written by a service" in storage.database(Settings(data=tmp_path)).message
    database.close()


def damaged(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)


def of_a_newer_router(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()


def without_wal(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()


@pytest.mark.parametrize("spoil", [damaged, of_a_newer_router, without_wal])
def test_a_database_that_cannot_be_used_is_a_failure(tmp_path: Path, spoil: object) -> None:
    assert callable(spoil)
    Database(tmp_path / FILE).close()
    spoil(tmp_path / FILE)
    found = storage.database(Settings(data=tmp_path))
    assert found.state == "failure"
    assert found.fix.startswith("upgrade this router" if spoil is of_a_newer_router else "make the folder")


def test_the_classifier_is_read_and_a_broken_one_found(tmp_path: Path) -> None:
    assert service.classifier().state in ("ok", "note")
    for file in ARTEFACT.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / WEIGHTS_FILE
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert service.classifier(tmp_path).state == "failure"


def test_payments_say_what_is_on_and_warn_of_a_test_network() -> None:
    assert states(payments(Settings())) == {"ok"}
    testing = Settings(
        x402_pay_to="0x" + "a1" * 20,
        x402_facilitator="https://facilitator.test",
        x402_network="eip155:84532",
    )
    assert "test network" in one(payments(testing), "warning").message


def test_a_wallets_cap_for_a_request_above_that_for_the_day_is_a_warning() -> None:
    capped = Settings(wallet_cap_request_usd=Decimal(10), wallet_cap_day_usd=Decimal(5))
    assert "WALLET_CAP_DAY_USD" in one(payments(capped), "warning").fix
