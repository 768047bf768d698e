"""The catalog as the program reads it: frozen, in integers, swapped whole by one reference.

Prices are integer pico-USD per token (1 USD per million tokens = 1,000,000 pico-USD per token), so a price
of 0.0028 USD per million is exactly 2,800. `router.catalog.files` makes a snapshot from the operator's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal

Category = Literal["simple", "coding", "reasoning", "vision"]
CATEGORIES: tuple[Category, ...] = ("simple", "coding", "reasoning", "vision")
Mode = Literal["cost", "balanced", "quality", "nitro", "floor"]
MODES: tuple[Mode, ...] = ("cost", "balanced", "quality", "nitro", "floor")
Feature = Literal["tools", "forced_tools", "json_schema", "json_mode", "reasoning"]
OutputLimit = Literal["max_tokens", "max_completion_tokens", "none"]

PICO_USD_PER_TOKEN_AT_1_USD_PER_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Fault:
    """Point at one thing that is wrong; `line` counts from 1, `path` is the field ("" = the whole file)."""

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:"
        return f"{where} {self.path}: {self.message}" if self.path else f"{where} {self.message}"


@dataclass(frozen=True, slots=True)
class Price:
    """Hold what a token costs, in pico-USD; `cache_read` and `cache_write` default to `input`."""

    input: int
    output: int
    cache_read: int
    cache_write: int


@dataclass(frozen=True, slots=True)
class PriceRule:
    """Change some prices under a condition; a later rule wins per key.

    `above_input` is met by prompts of more tokens than that; `utc` is a window in minutes of the day
    (end exclusive, may wrap around midnight; no window = all day); `days` holds weekdays (Monday = 0)
    of the window's start; `starts` is the first moment at which the rule holds. A price of None stays
    as it is; `multiply_ppm` scales all prices (1,000,000 = unchanged).
    """

    above_input: int | None = None
    utc: tuple[int, int] | None = None
    days: frozenset[int] | None = None
    starts: datetime | None = None
    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    multiply_ppm: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Bound what may run at once or per minute; None is no bound."""

    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Bound each phase of an upstream call, in seconds."""

    connect: float = 5.0
    first_byte: float = 120.0
    idle: float = 60.0


@dataclass(frozen=True, slots=True)
class Provider:
    """Describe who serves offers: address, the name of the key's variable, time-outs, limits.

    `output_limit` is the field that bounds an answer there; `none`: the router sends no bound of its own.
    """

    name: str
    title: str
    base_url: str
    key_env: str | None
    timeouts: Timeouts
    limits: Limits
    pays: Literal["key", "x402", "mpp", "none"]
    pay_to: str | None
    headers: tuple[tuple[str, str], ...]
    transport: Literal["fast", "stock"] = "fast"
    output_limit: OutputLimit = "max_tokens"


@dataclass(frozen=True, slots=True)
class Offer:
    """One model at one provider, with everything a decision needs resolved into it.

    `unusable` is None, or one sentence that says which setting is missing. `when` rules apply to `price`;
    `charge` is the customer's price where it is not price x markup. `local` marks an offer of a model server
    that was found on this machine: without a rating, `auto` uses it only when no rated offer can serve.
    """

    model: str
    provider: str
    upstream_model: str
    price: Price
    when: tuple[PriceRule, ...]
    charge: Price | None
    context: int
    max_output: int
    input: frozenset[str]
    features: frozenset[str]
    ttft_s: float
    tok_s: float
    limits: Limits
    free: bool
    unusable: str | None
    price_as_of: date | None
    local: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Identify the offer across reloads: (provider, upstream model)."""
        return (self.provider, self.upstream_model)


@dataclass(frozen=True, slots=True)
class Model:
    """Describe a model of the catalog; `quality` has 0-100 per category, one scale for all models.

    `discovered` marks a model that a local server named and no file describes.
    """

    id: str
    name: str
    open_weights: bool
    context: int
    max_output: int
    input: frozenset[str]
    features: frozenset[str]
    retires: date | None
    quality: dict[Category, float]
    offers: tuple[Offer, ...]
    file: str
    discovered: bool = False

    @property
    def usable_or_all(self) -> tuple[Offer, ...]:
        """Return the offers that can be used; where none can, all: what they would cost is known."""
        return tuple(offer for offer in self.offers if offer.unusable is None) or self.offers


@dataclass(frozen=True, slots=True)
class Policy:
    """Hold the operator's choices of policy.toml; `bands` are quality points below the best, per mode.

    `output_tokens` bounds the answers of requests that have no bound of their own.
    """

    mode: Mode = "balanced"
    bands: dict[Category, dict[Literal["quality", "balanced", "cost"], float]] = field(default_factory=dict)
    time_value_nusd_per_s: int = 100_000
    markup_ppm: int = 1_000_000
    baseline: str | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    expected_output_tokens: dict[Category, int] = field(default_factory=dict)
    queue_s: float = 0.0
    output_tokens: int | None = None
    session_idle_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole catalog at one revision (12 hex of the content of its files).

    `warnings` are what works and is probably not meant. `replaced` holds the prices of the revision before,
    by (model, provider, upstream model), so that a moved price stays visible until the next edit.
    """

    revision: str
    models: dict[str, Model]
    providers: dict[str, Provider]
    policy: Policy
    files: int
    warnings: tuple[Fault, ...]
    replaced: Mapping[tuple[str, str, str], Price] = field(default_factory=dict)
    # What has been worked out from these models once, by the name of the module that did; no part of the
    # value, and not taken along by `dataclasses.replace`.
    memo: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
