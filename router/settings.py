"""All settings in one frozen object: `router.toml`, then the environment, then the command line."""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Iterable
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from router.payment_settings import PaymentSettings

DEFAULT_PORT = 8402
DEFAULT_CONFIG = Path("router.toml")
ENV_PREFIX = "ROUTER_"


class SettingsError(Exception):
    """A setting is wrong; the message names it and the fix, a line each."""


class _File(TomlConfigSettingsSource):
    """The settings file; some editors begin it with a byte order mark."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        return tomllib.loads(file_path.read_text(encoding="utf-8-sig"))


class Settings(PaymentSettings):
    """Hold what the operator set; each name is also an environment variable `ROUTER_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(DEFAULT_PORT, ge=0, le=65_535, description="port to listen on; 0 takes a free one")
    catalog: Path | None = Field(None, description="folder of the catalog; default models_catalog/ here")
    data: Path = Field(Path(".router"), description="folder of the database")
    database_url: SecretStr | None = Field(
        None, description="postgresql://USER:PASSWORD@HOST/NAME, shared by replicas; default SQLite in data"
    )
    shared_url: SecretStr | None = Field(
        None, description="redis://:PASSWORD@HOST:6379/0: limits, sessions and speeds shared by replicas"
    )
    access: Literal["open", "paid"] | None = Field(
        None,
        description="open asks for no key; default open on loopback, paid elsewhere and where wallets pay",
    )
    admin_key: SecretStr | None = Field(None, description="key of the admin routes, which are off without it")
    log: Literal["json", "text"] = Field("text", description="form of the log on standard error")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins that browsers may call from, separated by commas; none by default"
    )
    error_code: Literal["status", "name"] = Field(
        "status", description="name puts the error's name into code, for strictly typed SDKs"
    )
    max_body_mib: int = Field(32, ge=1, le=1_024, description="largest request body")
    max_connections: int = Field(10_000, ge=1, description="connections served at once; more get 503")
    client_stall_s: float = Field(
        60.0, gt=0, description="seconds after which a client that takes nothing of its answer is cut off"
    )
    attempts: int = Field(3, ge=1, le=10, description="offers tried for one request")
    deadline_s: float = Field(600.0, gt=0, description="the longest a request may take to begin its answer")
    workers: int = Field(1, ge=1, le=256, description="processes that serve; limits stay exact over them")
    grace_s: int = Field(30, ge=0, description="seconds that running answers have to end at a stop")
    ledger_sync: Literal["interval", "hold"] = Field(
        "interval", description="hold: a hold that needs credit waits for the disk; interval: every 0.1 s"
    )
    idempotency_mib: int = Field(
        4, ge=0, le=64, description="largest answer kept for a retry with its Idempotency-Key; 0 keeps none"
    )
    decision_log_mib: int = Field(
        2_048, ge=0, description="disk for past decisions, which `router replay` reads; 0 keeps none"
    )
    otlp_endpoint: str | None = Field(
        None,
        validation_alias=AliasChoices("otlp_endpoint", "ROUTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        description="OTLP receiver of traces and metrics, as http://127.0.0.1:4318; needs the extra otel",
    )
    otlp_sample: float = Field(1.0, ge=0, le=1, description="share of new traces that are sent")
    history_requests: int = Field(
        1_000_000,
        ge=0,
        description="requests kept for the pages, one by one, 0.9 GB; 0 keeps none, nor figures",
    )
    keep_prompts: bool = Field(
        False,
        description="keep the words of requests and answers beside their row, for the operator's page alone",
    )
    demo: bool = Field(False, description="serve from the built-in demo provider only")
    insecure_open: bool = Field(False, description="allow open access on a public address")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_blanks(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Take an empty text for nothing where nothing is the default: `ROUTER_CATALOG=` is no folder."""
        optional = {name for name, field in cls.model_fields.items() if field.default is None}
        return {
            name: value
            for name, value in values.items()
            if not (name in optional and isinstance(value, str) and not value.strip())
        }

    @field_validator("data", mode="before")
    @classmethod
    def _check_data(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.strip():
            raise ValueError("it is empty, which would be this folder; leave it out for .router")
        return value

    @field_validator("host", mode="after")
    @classmethod
    def _check_host(cls, value: str) -> str:
        host = value.strip().removeprefix("[").removesuffix("]")
        if not host:
            raise ValueError("it is empty; leave it out for 127.0.0.1, or set 0.0.0.0 for others too")
        if "/" in host or host.count(":") == 1 or "]" in host:
            raise ValueError(
                f"{value!r} is more than an address; the port is a setting of its own, ROUTER_PORT"
            )
        return host

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(x.strip() for x in value.split(",") if x.strip()) if isinstance(value, str) else value

    @field_validator("cors_origins", mode="after")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin not in ("*", "null") and "://" not in origin:
                raise ValueError(f"{origin!r} is no origin: write it with its scheme, as https://{origin}")
        return tuple(origin.rstrip("/") for origin in value)  # browsers name theirs without a slash

    @field_validator("admin_key", "database_url", "shared_url", mode="after")
    @classmethod
    def _none_when_blank(cls, value: SecretStr | None) -> SecretStr | None:
        key = "" if value is None else value.get_secret_value().strip()
        return SecretStr(key) if key else None

    @field_validator("otlp_endpoint", mode="after")
    @classmethod
    def _check_otlp(cls, value: str | None) -> str | None:
        if value is None or not value.strip():
            return None
        parts = urlsplit(value.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it must be the URL of an OTLP/HTTP receiver, as in http://127.0.0.1:4318")
        return value.strip()

    @field_validator("database_url", mode="after")
    @classmethod
    def _check_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError(
                "it must begin with postgresql:// or postgres://, as in"
                " postgresql://USER:PASSWORD@HOST:5432/NAME; leave it out for SQLite in the data folder"
            )
        try:
            _ = None if value is None else urlsplit(value.get_secret_value()).port
        except ValueError:
            raise ValueError(
                "it is not a valid URL: write special characters of its user and password as %XX, such as %2F"
                " for /, %40 for @ and %23 for #"
            ) from None
        return value

    @field_validator("shared_url", mode="after")
    @classmethod
    def _check_shared_url(cls, value: SecretStr | None) -> SecretStr | None:
        schemes = ("redis://", "rediss://", "unix://")
        if value is not None and not value.get_secret_value().startswith(schemes):
            raise ValueError(
                "it must begin with redis://, rediss:// (TLS) or unix://, as in"
                " redis://:PASSWORD@HOST:6379/0; leave it out where there is one machine"
            )
        return value

    @model_validator(mode="after")
    def _check_access(self) -> Settings:
        if self.access == "open" and not self.loopback and not self.insecure_open:
            raise ValueError(
                f"access is open and the address {self.host} is public: anyone could spend your money. "
                "Use ROUTER_ACCESS=paid and `router keys create`, or pass --insecure-open"
            )
        return self

    @property
    def loopback(self) -> bool:
        """Tell whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def storage_url(self) -> str | None:
        """Return the database's URL with its password, None for SQLite."""
        return None if self.database_url is None else self.database_url.get_secret_value()

    @property
    def redis_url(self) -> str | None:
        """Return the URL of what replicas share, with its password; None where there is one machine."""
        return None if self.shared_url is None else self.shared_url.get_secret_value()

    @property
    def asks_for_key(self) -> bool:
        """Tell whether a request without a key is refused."""
        return (self.access or ("open" if self.loopback and not self.sells else "paid")) == "paid"

    def plain(self) -> dict[str, Any]:
        """Return every value with its secrets, as another process takes them: `Settings(**plain)`."""
        return {name: _plain(getattr(self, name)) for name in type(self).model_fields}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the command line first, then the environment, then the file."""
        return (init_settings, env_settings, _File(settings_cls))


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    return str(value) if isinstance(value, Path | Decimal) else value


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Read the settings; `flags` are those of the command line, None where not given.

    Raises `SettingsError` that names each wrong setting.
    """
    if config is not None and not config.is_file():
        raise SettingsError(f"{config} does not exist")

    class _FromFile(Settings):
        model_config = SettingsConfigDict(**{**Settings.model_config, "toml_file": config or DEFAULT_CONFIG})

    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return _FromFile(**given)
    except ValidationError as faults:
        raise SettingsError("\n".join(_said(fault) for fault in faults.errors())) from None
    except ValueError as fault:  # the TOML itself
        raise SettingsError(f"{config or DEFAULT_CONFIG}: {fault}") from None


def unknown_variables(environ: Iterable[str]) -> dict[str, str]:
    """Return the names that look like settings and are none, each with the fix: they do nothing."""
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    found = {}
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name not in known:
            near = get_close_matches(name, sorted(known), n=1, cutoff=0.6)
            found[name] = f"did you mean {near[0]}? Else unset it" if near else "unset it"
    return found


def _near(name: str) -> str:
    plain = name.lower().removeprefix(ENV_PREFIX.lower())
    near = get_close_matches(plain, list(Settings.model_fields), n=1, cutoff=0.6)
    if near and plain != name:
        return f"did you mean {near[0]}? In a file names are in lower case, without {ENV_PREFIX}; "
    return f"did you mean {near[0]}? " if near else ""


def _said(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    text = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"{name}: no such setting; {_near(name)}docs/operations.md lists them"
    if fault["input"] == "" and fault["type"] != "value_error":
        text = f"it is empty; leave it out for {Settings.model_fields[name].default}"
    return f"{name} (ROUTER_{name.upper()}): {text}" if name else text
