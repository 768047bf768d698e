import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.cli.init_starter import settings_file
from router.doctor.configuration import placed
from router.settings import Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder and without the variables of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ROUTER_{name.upper()}", raising=False)


def write(text: str, name: str = "router.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def fault(config: Path | None = None, **flags: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(config, **flags)
    return str(caught.value)


def test_nothing_has_to_be_set() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.catalog) == ("127.0.0.1", 8402, None)
    assert (settings.data, settings.log, settings.error_code) == (Path(".router"), "text", "status")
    assert settings.cors_origins == ()
    assert not settings.asks_for_key


def test_the_flag_goes_before_the_variable_and_the_variable_before_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write('port = 1001\nhost = "127.0.0.2"\nattempts = 7')
    monkeypatch.setenv("ROUTER_PORT", "1002")
    monkeypatch.setenv("ROUTER_HOST", "127.0.0.3")
    settings = load_settings(host="127.0.0.4", port=None)
    assert (settings.host, settings.port, settings.attempts) == ("127.0.0.4", 1002, 7)


def test_a_file_that_was_named_is_read_in_place_of_the_usual_one() -> None:
    write("port = 1001")
    assert load_settings(write("port = 1003", "other.toml")).port == 1003
    assert load_settings().port == 1001


def test_a_file_that_was_named_must_exist() -> None:
    assert fault(Path("nowhere.toml")) == "nowhere.toml does not exist"


def test_each_wrong_setting_is_named_with_its_variable() -> None:
    text = fault(write('port = 99999\nlog = "loud"\naccess = "maybe"'))
    assert [line.split(": ")[0] for line in text.splitlines()] == [
        "port (ROUTER_PORT)",
        "access (ROUTER_ACCESS)",
        "log (ROUTER_LOG)",
    ]


@pytest.mark.parametrize(
    "flags",
    [{"port": -1}, {"port": "x"}, {"attempts": 0}, {"deadline_s": 0}, {"max_body_mib": 0}, {"grace_s": -1}],
)
def test_numbers_have_bounds(flags: dict[str, Any]) -> None:
    (name,) = flags
    assert fault(**flags).startswith(f"{name} (ROUTER_{name.upper()}): ")


def test_an_unknown_setting_in_the_file_is_named() -> None:
    said = "prot: no such setting; did you mean port? docs/operations.md lists them"
    assert fault(write("prot = 1")) == said
    assert fault(write("zzz = 1")) == "zzz: no such setting; docs/operations.md lists them"


def test_broken_toml_is_said_with_its_file_and_line() -> None:
    text = fault(write("port = = 1"))
    assert text.startswith("router.toml: ")
    assert "line 1" in text


def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_CORS_ORIGINS", "https://a.example, https://b.example,")
    assert load_settings().cors_origins == ("https://a.example", "https://b.example")
    write('cors_origins = ["https://c.example"]')
    monkeypatch.delenv("ROUTER_CORS_ORIGINS")
    assert load_settings().cors_origins == ("https://c.example",)


def test_an_origin_has_a_scheme_and_no_slash_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_CORS_ORIGINS", "https://a.example/,app://obsidian.md,*,null")
    assert load_settings().cors_origins == ("https://a.example", "app://obsidian.md", "*", "null")
    monkeypatch.setenv("ROUTER_CORS_ORIGINS", "a.example")
    assert "as https://a.example" in fault()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("router.example", False),
        ("localhost.example", False),
    ],
)
def test_loopback_is_open_and_all_else_asks_for_a_key(host: str, loopback: bool) -> None:
    settings = load_settings(host=host)
    assert (settings.loopback, settings.asks_for_key) == (loopback, not loopback)


def test_access_may_be_paid_on_loopback_and_open_elsewhere_only_on_purpose() -> None:
    assert load_settings(access="paid").asks_for_key
    text = fault(access="open", host="0.0.0.0")
    assert "--insecure-open" in text
    assert "ROUTER_ACCESS=paid" in text
    assert not load_settings(access="open", host="0.0.0.0", insecure_open=True).asks_for_key


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 5


@pytest.mark.parametrize("url", ["mysql://me:hunter2@host/db", "me:hunter2@host", "postgresql:me:hunter2"])
def test_another_database_is_refused_with_the_fix_and_without_its_password(url: str) -> None:
    text = fault(database_url=url)
    assert text.startswith("database_url (ROUTER_DATABASE_URL): it must begin with postgresql://")
    assert "hunter2" not in text


def test_the_password_of_the_database_is_not_shown() -> None:
    settings = load_settings(database_url="postgres://me:hunter2@host/db")
    assert settings.storage_url == "postgres://me:hunter2@host/db"
    assert "hunter2" not in repr(settings)
    assert load_settings(database_url=" ").storage_url is None


@pytest.mark.parametrize("url", ["http://me:hunter2@host", "me:hunter2@host", "redis:hunter2"])
def test_another_shared_store_is_refused_with_the_fix_and_without_its_password(url: str) -> None:
    text = fault(shared_url=url)
    assert text.startswith("shared_url (ROUTER_SHARED_URL): it must begin with redis://, rediss://")
    assert "hunter2" not in text


def test_every_setting_reaches_a_worker() -> None:
    settings = load_settings(
        shared_url="redis://:hunter2@host/1",
        admin_key="the operator's",
        cors_origins="https://a.example,https://b.example",
        workers=3,
        data="here",
        demo=True,
    )
    told = msgspec.msgpack.decode(msgspec.msgpack.encode(settings.plain()))
    there = Settings(**told)
    assert there.plain() == settings.plain()
    assert (there.redis_url, there.workers) == ("redis://:hunter2@host/1", 3)
    assert "hunter2" not in repr(settings)


def test_a_byte_order_mark_before_the_file_is_passed_over() -> None:
    Path("router.toml").write_bytes(b"\xef\xbb\xbfport = 1001\r\n")
    assert load_settings().port == 1001


@pytest.mark.parametrize("name", ["ROUTER_PORT", "router_port", "ROUTER_PROT"])
def test_a_variable_in_the_file_is_told_how_it_is_written_there(name: str) -> None:
    write(f'log = "json"\n{name} = 1001')
    assert "did you mean port? In a file names are in lower case, without ROUTER_" in (said := fault())
    assert placed(SettingsError(said), None, {})[0].startswith("router.toml:2: ")


def test_an_empty_variable_is_nothing_where_nothing_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CATALOG", "ACCESS", "ADMIN_KEY", "DATABASE_URL", "X402_ASSET_DECIMALS", "WALLET_RPC"):
        monkeypatch.setenv(f"ROUTER_{name}", "")
    settings = load_settings()
    assert (settings.catalog, settings.access, settings.admin_key) == (None, None, None)
    assert (settings.x402_asset_decimals, settings.storage_url) == (None, None)


@pytest.mark.parametrize(
    ("name", "told"), [("PORT", "8402"), ("WORKERS", "1"), ("LOG", "text"), ("DATA", ".router")]
)
def test_an_empty_variable_elsewhere_is_told_its_default(
    monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    monkeypatch.setenv(f"ROUTER_{name}", " " if name == "DATA" else "")
    assert "it is empty" in (said := fault())
    assert said.endswith(f"leave it out for {told}")


def test_every_line_of_the_starter_file_may_be_switched_on() -> None:
    write(re.sub(r"(?m)^#(\w+ = )", r"\1", settings_file()))
    assert load_settings().plain() == Settings().plain()
