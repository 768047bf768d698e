"""The operator's files as pydantic models: provider, model with its offers, policy.

Strict: no field is converted from another type and no unknown field passes. What the words mean is in
`models_catalog/README.md`. Prices are USD per million tokens, read as Decimal so that 0.0028 stays exact.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError

from router.catalog.snapshot import Feature, Mode, OutputLimit

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MAX_PRICE_USD_PER_MILLION = 100_000
_MAX_FACTOR = 1_000
_SHORTEST_SECRET = 15
_MAX_MAGNITUDE = 30  # powers of ten; keeps exact arithmetic on an operator's typing error cheap
_OWN_HEADERS = frozenset({"authorization", "host", "content-length", "content-type", "transfer-encoding"})
_UTC = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")
_MINUTES_A_DAY = 24 * 60


def parse_utc(window: str) -> tuple[int, int]:
    """Turn "01:00-04:00" into minutes of the day (end exclusive, may wrap); ValueError when malformed."""
    match = _UTC.fullmatch(window)
    if match is None:
        raise ValueError('a window looks like "01:00-04:00"')
    from_h, from_m, to_h, to_m = (int(part) for part in match.groups())
    start, end = from_h * 60 + from_m, to_h * 60 + to_m
    if max(from_m, to_m) > 59 or start >= _MINUTES_A_DAY or end > _MINUTES_A_DAY:
        raise ValueError("a window lies between 00:00 and 24:00")
    if start == end:
        raise ValueError('a window may not be empty; leave out "utc" for the whole day')
    return start, end


def parse_days(days: str) -> frozenset[int]:
    """Turn "mon-fri" or "sat,sun" into weekdays (Monday = 0); ValueError when malformed."""
    found: set[int] = set()
    for part in days.lower().split(","):
        first, _, last = part.strip().partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError('days look like "mon-fri" or "sat,sun"')
        start, end = DAYS.index(first), DAYS.index(last or first)
        found.update(day % 7 for day in range(start, end + 1 if end >= start else end + 8))
    return frozenset(found)


def _number(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise PydanticCustomError("number", "write a number without quotes, such as 0.80")
    number = Decimal(value)
    if not number.is_finite() or abs(number.adjusted()) > _MAX_MAGNITUDE:
        raise PydanticCustomError("number", "write a number of a usual size")
    return number


def _is_finer(value: Decimal, digits: int) -> bool:
    """Say whether a number has more digits after the point; exact, unlike Decimal arithmetic."""
    return int(10**digits) % value.as_integer_ratio()[1] != 0


def _price(value: Decimal) -> Decimal:
    if value < 0:
        raise PydanticCustomError("price", "a price may not be negative")
    if value > MAX_PRICE_USD_PER_MILLION:
        raise PydanticCustomError("price", "above 100,000 USD per million tokens; prices are per million")
    if _is_finer(value, 6):
        raise PydanticCustomError("price", "at most 6 digits after the point (1 pico-USD per token)")
    return value


def _millionths(value: Decimal) -> Decimal:
    if not 0 < value <= _MAX_FACTOR or _is_finer(value, 6):
        said = "write a factor above 0 and up to 1,000, with at most 6 digits after the point"
        raise PydanticCustomError("factor", said)
    return value


def _time_value(value: Decimal) -> Decimal:
    if not 0 <= value <= _MAX_FACTOR or _is_finer(value, 9):
        raise PydanticCustomError("usd", "write 0 to 1,000 USD, with at most 9 digits after the point")
    return value


def _window(value: str) -> str:
    try:
        parse_utc(value)
    except ValueError as error:
        raise PydanticCustomError("utc", f'malformed window "{value}": {error}') from None
    return value


def _days(value: str) -> str:
    try:
        parse_days(value)
    except ValueError as error:
        raise PydanticCustomError("days", f'malformed days "{value}": {error}') from None
    return value


def _key_env(value: str) -> str:
    # The value is not repeated: it may be a key that was pasted here by mistake.
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", value) or _looks_like_key(value):
        raise PydanticCustomError(
            "key_env", "write the name of an environment variable, such as NOVITA_API_KEY, never the key"
        )
    return value


def _looks_like_key(value: str) -> bool:
    """Tell gsk_4hY... and hf_aBc..., which could be names too: what is taken for one is told to clients."""
    secret = max(value.split("_"), key=len)  # names are words between underscores
    mixed = value.upper() != value and re.search(r"[A-Z0-9]", secret) is not None
    return mixed and len(secret) >= _SHORTEST_SECRET


def _base_url(value: str) -> str:
    try:
        url = urlsplit(value)
        port_is_valid = url.port is None or url.port > 0
    except ValueError:
        raise PydanticCustomError("base_url", "not an address") from None
    if url.scheme not in {"http", "https"} or not url.hostname or not port_is_valid:
        raise PydanticCustomError("base_url", "write an http or https address")
    if not value.isascii() or any(c.isspace() for c in value):
        raise PydanticCustomError("base_url", "write an address in ASCII without blanks")
    if "@" in url.netloc:
        raise PydanticCustomError("base_url", "no user or password in the address; use key_env")
    if "?" in value or "#" in value:
        raise PydanticCustomError("base_url", "no query and no fragment in the address")
    if _link_local(url.hostname):
        raise PydanticCustomError("base_url", "link-local addresses are refused (cloud metadata lives there)")
    return value.rstrip("/")


def _link_local(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_link_local


def _headers(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or not re.fullmatch(r"[ -~]*", text):
            raise PydanticCustomError("headers", f"not an HTTP header in printable ASCII: {name!r}")
        if name.lower() in _OWN_HEADERS:
            raise PydanticCustomError(
                "headers", f'"{name}" is set by the router; the key\'s variable is named in key_env'
            )
    return value


_Decimal = Annotated[
    Decimal,
    BeforeValidator(_number),
    PlainSerializer(float, when_used="json"),
    WithJsonSchema({"type": "number", "minimum": 0}),
]
Number = Annotated[_Decimal, Field(ge=0)]
Points = Annotated[_Decimal, Field(ge=0, le=100)]
Seconds = Annotated[_Decimal, Field(gt=0, le=86_400)]
PriceNumber = Annotated[_Decimal, AfterValidator(_price)]
Factor = Annotated[_Decimal, AfterValidator(_millionths)]
Count = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Modality = Literal["text", "image", "audio", "video", "file"]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class LimitsTable(_File):
    """Bound what may run at once and per minute."""

    concurrency: Count | None = None
    rpm: Count | None = None
    tpm: Count | None = None


class TimeoutTable(_File):
    """Bound the phases of a call, in seconds."""

    connect: Seconds | None = None
    first_byte: Seconds | None = None
    idle: Seconds | None = None


class ProviderFile(_File):
    """Describe who serves offers: providers/NAME.toml."""

    name: Name
    base_url: Annotated[str, AfterValidator(_base_url)]
    key_env: Annotated[str, AfterValidator(_key_env)] | None = None
    protocol: Literal["openai"] = "openai"
    timeout_s: TimeoutTable = TimeoutTable()
    limits: LimitsTable = LimitsTable()
    pays: Literal["key", "x402", "mpp", "none"] | None = None
    pay_to: Name | None = None
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = Field(default_factory=dict)
    transport: Literal["fast", "stock"] = "fast"
    output_limit: OutputLimit = "max_tokens"


class PriceTable(_File):
    """Hold USD per million tokens."""

    input: PriceNumber
    output: PriceNumber
    cache_read: PriceNumber | None = None
    cache_write: PriceNumber | None = None


class RuleTable(_File):
    """Change some prices under a condition; a later rule wins per key."""

    above_input: Count | None = None
    utc: Annotated[str, AfterValidator(_window)] | None = None
    days: Annotated[str, AfterValidator(_days)] | None = None
    starts: AwareDatetime | None = None
    input: PriceNumber | None = None
    output: PriceNumber | None = None
    cache_read: PriceNumber | None = None
    cache_write: PriceNumber | None = None
    multiply: Factor | None = None


class SpeedTable(_File):
    """Expect a speed until the router has measured one."""

    ttft_s: Seconds | None = None
    tok_s: Annotated[_Decimal, Field(gt=0, le=1_000_000)] | None = None


class OfferTable(_File):
    """Describe a model at one provider; what is left out is the model's."""

    provider: Name
    model: Annotated[str, Field(pattern=r"^[!-~]+$", max_length=200)]
    price: PriceTable
    price_as_of: date | None = None
    when: list[RuleTable] = Field(default_factory=list)
    charge: PriceTable | None = None
    speed: SpeedTable = SpeedTable()
    limits: LimitsTable = LimitsTable()
    free: bool = False
    enabled: bool = True
    context: Count | None = None
    max_output: Count | None = None
    input: Annotated[list[Modality], Field(min_length=1)] | None = None
    features: list[Feature] | None = None


class QualityTable(_File):
    """Rate a model from 0 to 100 per category, on one scale for the whole catalog."""

    simple: Points | None = None
    coding: Points | None = None
    reasoning: Points | None = None
    vision: Points | None = None
    source: Annotated[str, Field(min_length=1)]
    as_of: date | None = None


class ModelHead(_File):
    """Describe a model without its offers."""

    name: Name
    open_weights: bool = False
    context: Count
    max_output: Count | None = None
    input: Annotated[list[Modality], Field(min_length=1)]
    features: list[Feature] = Field(default_factory=list)
    retires: date | None = None
    quality: QualityTable | None = None


class ModelFile(ModelHead):
    """Describe a model and everyone who offers it: models/MAKER/MODEL.toml."""

    offers: list[OfferTable] = Field(default_factory=list)


class BandTable(_File):
    """Hold how many quality points below the best a mode may go."""

    quality: Points = Decimal(0)
    balanced: Points = Decimal(5)
    cost: Points = Decimal(15)


class BandsTable(_File):
    """Hold the bands of each category."""

    simple: BandTable = BandTable()
    coding: BandTable = BandTable()
    reasoning: BandTable = BandTable()
    vision: BandTable = BandTable()


class ExpectedTable(_File):
    """Expect so many output tokens per category until the router has measured them."""

    simple: Count = 250
    coding: Count = 900
    reasoning: Count = 1_500
    vision: Count = 300


class SessionsTable(_File):
    """Say how long a conversation keeps its place."""

    idle_s: Seconds = Decimal(600)


class QueueTable(_File):
    """Say how long a request may wait for a full offer, and how much an answer without a bound may write."""

    queue_s: Annotated[_Decimal, Field(ge=0, le=600)] = Decimal(0)
    output_tokens: Count | None = None


class PolicyFile(_File):
    """Hold the operator's choices: policy.toml."""

    mode: Mode = "balanced"
    bands: BandsTable = BandsTable()
    time_value_usd_per_s: Annotated[_Decimal, AfterValidator(_time_value)] = Decimal("0.0001")
    markup: Factor = Decimal(1)
    baseline: Name | None = None
    aliases: dict[str, str] = Field(default_factory=dict)
    sessions: SessionsTable = SessionsTable()
    limits: QueueTable = QueueTable()
    expected_output_tokens: ExpectedTable = ExpectedTable()


class _Numbers(GenerateJsonSchema):
    """Write Decimal defaults as numbers, which is what the files hold."""

    def encode_default(self, dft: Any) -> Any:
        return float(dft) if isinstance(dft, Decimal) else super().encode_default(dft)


KINDS: Mapping[str, type[BaseModel]] = {"model": ModelFile, "provider": ProviderFile, "policy": PolicyFile}


def schema_text(kind: str) -> str:
    """Return the JSON Schema of a kind of file, as `schema/KIND.json` of the shipped catalog holds it.

    Draft 7, the newest that the TOML plugins of editors (taplo, tombi) understand.
    """
    schema = KINDS[kind].model_json_schema(schema_generator=_Numbers)
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **schema}, indent=2) + "\n"
