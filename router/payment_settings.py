"""The settings of wallet payments: selling by x402 and MPP, and paying upstreams that ask."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

import msgspec
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode

MIN_SECRET_BYTES = 32
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_NETWORK = re.compile(r"eip155:[1-9][0-9]{0,17}", re.ASCII)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110's token
_UNQUOTABLE = re.compile(r'["\\]|Payment\s', re.IGNORECASE)
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
_NO_URL = "it must be an https:// URL (http:// on this machine alone)"
_URL_TEXT = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+", re.ASCII)  # RFC 3986
_SCHEMES = ("upto", "exact")
_METHODS = ("evm", "tempo")


class PaymentSettings(BaseSettings):
    """Hold what the operator set for payments; none of them turns anything on but the first of each block."""

    x402_pay_to: str | None = Field(None, description="address that x402 payments go to; turns x402 on")
    x402_facilitator: str | None = Field(
        None,
        description="URL of the facilitator that verifies and settles, such as https://x402.org/facilitator",
    )
    x402_network: str = Field("eip155:8453", description="network of x402 and of MPP's evm, by CAIP-2")
    x402_asset: str | None = Field(None, description="token that is taken there; default USDC")
    x402_schemes: Annotated[tuple[str, ...], NoDecode] = Field(
        _SCHEMES, description="upto charges what was used, exact the quoted bound"
    )
    x402_asset_name: str | None = Field(None, description="EIP-712 name of a token that is not built in")
    x402_asset_version: str | None = Field(None, description="EIP-712 version of it")
    x402_asset_decimals: int | None = Field(
        None, ge=0, le=18, description="decimals of it; it is taken at 1 USD"
    )
    facilitator_headers: Annotated[dict[str, SecretStr], NoDecode] = Field(
        {}, description='headers for the facilitator as JSON, such as {"authorization": "Bearer ..."}'
    )
    mpp_secret: SecretStr | None = Field(
        None, description="32 bytes or more that sign MPP challenges; turns MPP on"
    )
    mpp_realm: str = Field(
        "llm-router", description="realm of the challenges; the service's host name is a good one"
    )
    mpp_methods: Annotated[tuple[str, ...], NoDecode] = Field(_METHODS, description="evm, tempo")
    mpp_pay_to: str | None = Field(None, description="address that MPP payments go to; default that of x402")
    mpp_tempo_rpc: str | None = Field(None, description="RPC of Tempo, such as https://rpc.tempo.xyz")
    mpp_tempo_chain_id: int = Field(4_217, gt=0, description="chain of Tempo; 42431 is its test network")
    mpp_tempo_currency: str | None = Field(None, description="TIP-20 token that is taken on Tempo")
    public_url: str | None = Field(
        None, description="the service's own address as payers know it; default the one that was asked"
    )
    payment_min_usd: Decimal = Field(
        Decimal("0"), ge=0, le=1_000, description="the least that a wallet is asked for one request"
    )
    payment_max_usd: Decimal = Field(
        Decimal("10"), gt=0, le=100_000, description="the most that a wallet may owe for one upto request"
    )
    payment_open_usd: Decimal = Field(
        Decimal("20"),
        gt=0,
        le=1_000_000,
        description="the most that one payer's unsettled requests may come to",
    )
    wallet_key: SecretStr | None = Field(
        None,
        description="private key that pays upstreams; default wallet.key in data, made when first needed",
    )
    wallet_cap_request_usd: Decimal = Field(
        Decimal("0.5"), ge=0, le=100_000, description="the most that the wallet pays for one request"
    )
    wallet_cap_day_usd: Decimal = Field(
        Decimal("5"), ge=0, le=1_000_000, description="the most that the wallet pays in a day (UTC)"
    )
    wallet_rpc: SecretStr | None = Field(None, description="RPC that tells the wallet's balances")

    @field_validator("x402_schemes", "mpp_methods", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(x.strip() for x in value.split(",") if x.strip()) if isinstance(value, str) else value

    @field_validator("x402_schemes", mode="after")
    @classmethod
    def _known_schemes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _known(value, _SCHEMES)

    @field_validator("mpp_methods", mode="after")
    @classmethod
    def _known_methods(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _known(value, _METHODS)

    @field_validator("mpp_realm", mode="after")
    @classmethod
    def _realm(cls, value: str) -> str:
        if not is_quotable(value):
            raise ValueError(
                "it must be plain ASCII without quotes, backslashes or the word Payment before a space; the"
                " service's host name is a good one"
            )
        return value

    @field_validator("facilitator_headers", mode="before")
    @classmethod
    def _headers(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            headers = msgspec.json.decode(value.strip() or "{}", type=dict[str, str])
        except msgspec.MsgspecError:
            raise ValueError(
                'it must be a JSON object of texts, as in {"authorization": "Bearer ..."}'
            ) from None
        for name, text in headers.items():
            if _HEADER_NAME.fullmatch(name) is None:
                raise ValueError(f"{name!r} cannot be the name of a header")
            if not text.isascii() or not text.isprintable():
                raise ValueError(f"the value of {name!r} must be plain ASCII in one line")
        return headers

    @field_validator("x402_pay_to", "x402_asset", "mpp_pay_to", "mpp_tempo_currency", mode="after")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if not value or not value.strip():
            return None
        address = value.strip()
        if _ADDRESS.fullmatch(address) is None:
            raise ValueError("it must be an address: 0x and 40 hexadecimal digits")
        if not address[2:].strip("0"):
            raise ValueError("it is the zero address: what is paid to it is lost")
        if not _has_its_capitals(address):
            raise ValueError(
                "its capitals are not those of this address (EIP-55), so a digit of it may be wrong: copy it"
                " again from your wallet; an address in small letters is not checked"
            )
        return address

    @field_validator("x402_network", mode="after")
    @classmethod
    def _network(cls, value: str) -> str:
        if _NETWORK.fullmatch(value) is None:
            raise ValueError(
                "it must be an EVM network by CAIP-2: eip155:8453 (Base), eip155:84532 (Base Sepolia)"
            )
        return value

    @field_validator("x402_asset_name", "x402_asset_version", mode="after")
    @classmethod
    def _blank_text_is_none(cls, value: str | None) -> str | None:
        return value or None

    @field_validator("payment_min_usd", "payment_max_usd", "payment_open_usd", mode="after")
    @classmethod
    def _in_nano_dollars(cls, value: Decimal) -> Decimal:
        if value.scaleb(9) % 1:
            raise ValueError("it may have 9 decimals at most")
        return value

    @field_validator("mpp_tempo_rpc", mode="after")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        return None if not value or not value.strip() else _safe_url(value.strip())

    @field_validator("x402_facilitator", "public_url", mode="after")
    @classmethod
    def _base_url(cls, value: str | None) -> str | None:
        if value and ("?" in value or "#" in value):
            raise ValueError("it must end before any ? or #: paths are put behind it")
        return None if not value or not value.strip() else _safe_url(value.strip())

    @field_validator("wallet_rpc", mode="after")
    @classmethod
    def _secret_url(cls, value: SecretStr | None) -> SecretStr | None:
        text = "" if value is None else value.get_secret_value().strip()
        return SecretStr(_safe_url(text)) if text else None

    @field_validator("mpp_secret", mode="after")
    @classmethod
    def _long(cls, value: SecretStr | None) -> SecretStr | None:
        text = "" if value is None else value.get_secret_value().strip()
        if text and len(text.encode()) < MIN_SECRET_BYTES:
            raise ValueError(
                f"it must be {MIN_SECRET_BYTES} bytes or more, as `openssl rand -hex 32` makes them"
            )
        return SecretStr(text) if text else None

    @field_validator("wallet_key", mode="after")
    @classmethod
    def _blank_is_none(cls, value: SecretStr | None) -> SecretStr | None:
        text = "" if value is None else value.get_secret_value().strip()
        return SecretStr(text) if text else None

    @model_validator(mode="after")
    def _check_selling(self) -> Self:
        if self.x402_pay_to is not None and self.x402_facilitator is None:
            raise ValueError(
                "x402 is switched on by ROUTER_X402_PAY_TO and needs ROUTER_X402_FACILITATOR, the URL of who"
                " verifies and settles payments, such as https://x402.org/facilitator for Base Sepolia"
            )
        if self.mpp_secret is not None and (self.mpp_pay_to or self.x402_pay_to) is None:
            raise ValueError(
                "MPP is switched on by ROUTER_MPP_SECRET and needs ROUTER_MPP_PAY_TO, the address to pay"
            )
        if self.mpp_secret is not None and not self.usable_mpp_methods:
            raise ValueError(
                "MPP is switched on by ROUTER_MPP_SECRET, and none of ROUTER_MPP_METHODS can be used: evm"
                " needs ROUTER_X402_FACILITATOR, tempo needs ROUTER_MPP_TEMPO_RPC"
            )
        if self.payment_min_usd > self.payment_max_usd:
            raise ValueError(
                f"ROUTER_PAYMENT_MIN_USD ({self.payment_min_usd:f}) is more than ROUTER_PAYMENT_MAX_USD"
                f" ({self.payment_max_usd:f}): `upto` could never be offered"
            )
        return self

    @property
    def usable_mpp_methods(self) -> tuple[str, ...]:
        """Return the methods of MPP that have what they need."""
        needs = {"evm": self.x402_facilitator, "tempo": self.mpp_tempo_rpc}
        return tuple(method for method in self.mpp_methods if needs[method] is not None)

    @property
    def sells(self) -> bool:
        """Tell whether a wallet can pay for requests here."""
        return self.x402_pay_to is not None or self.mpp_secret is not None


def is_quotable(text: str) -> bool:
    """Say whether a text can stand in a challenge of MPP for every client.

    mppx 0.5.12 takes the scheme's name for a new challenge wherever white space follows it.
    """
    return bool(text) and text.isascii() and text.isprintable() and _UNQUOTABLE.search(text) is None


def _has_its_capitals(address: str) -> bool:
    """Say whether the capitals of an address are its checksum (EIP-55); one of a single case has none."""
    digits = address[2:]
    if digits in (digits.lower(), digits.upper()):
        return True
    from eth_hash.auto import keccak  # slow to import, and only sellers need it

    marks = keccak(digits.lower().encode()).hex()
    return all(
        digit.isupper() == (int(mark, 16) > 7)
        for digit, mark in zip(digits, marks, strict=False)
        if digit.isalpha()
    )


def _known(value: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    odd = [word for word in value if word not in known]
    if odd or not value:
        raise ValueError(f"it must be {' or '.join(known)}, or both: {','.join(known)}")
    return tuple(dict.fromkeys(value))


def _safe_url(value: str) -> str:
    """Return an address that money may be trusted to: https, or this machine. Raises ValueError."""
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError(_NO_URL) from None
    loopback = parts.hostname in _LOOPBACK
    if not parts.hostname or (parts.scheme != "https" and not (parts.scheme == "http" and loopback)):
        raise ValueError(_NO_URL)
    if _URL_TEXT.fullmatch(value) is None:
        raise ValueError("it holds a character that no URL has: write it as %XX")
    return value.rstrip("/")
