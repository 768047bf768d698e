"""Read public price lists: litellm's price map and genai-prices, each as its package ships it.

litellm: one JSON object, model -> fields, USD per token, tiers in suffixes (`..._above_200k_tokens`) or in
`tiered_pricing`. genai-prices: providers with models, USD per million tokens, tiers and conditions inside; a
list (version 1) or an object with `providers` (version 2). litellm is never imported, and of genai-prices
only its data, which is Python.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from router.catalog.snapshot import Feature

LITELLM_FILE = "model_prices_and_context_window_backup.json"
_MILLION = 1_000_000
_DIGITS = Decimal("0.000001")  # of a price in a catalog; litellm's floats carry noise far below it
_NOISE = Decimal("1e-9")
_PROVIDERS = {  # where a list calls a provider by another name than the shipped catalog
    "gemini": "google",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "dashscope": "alibaba",
    "moonshot": "moonshotai",
    "xiaomi_mimo": "xiaomi",
    "x-ai": "xai",
}
_LITELLM_PRICES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
}
_LITELLM_TIER = re.compile(rf"({'|'.join(_LITELLM_PRICES)})_above_(\d+)k_tokens")
_LITELLM_FEATURES: dict[str, tuple[Feature, ...]] = {
    "supports_function_calling": ("tools",),
    "supports_tool_choice": ("forced_tools",),
    "supports_response_schema": ("json_schema", "json_mode"),
    "supports_reasoning": ("reasoning",),
}
_GENAI_PRICES = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
}


class UnreadableList(Exception):
    """A price list is not there or not in a known form; the message names the fix."""


class _Skip(Exception):
    """An entry cannot become an offer; the message says why."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Change some prices under a condition, written as in a catalog file."""

    condition: tuple[tuple[str, str], ...]
    prices: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True)
class Listing:
    """One model at one provider as a list has it; prices in USD per million tokens."""

    key: str
    provider: str
    upstream: str
    prices: Mapping[str, Decimal]
    context: int
    max_output: int | None = None
    name: str | None = None
    rules: tuple[Rule, ...] = ()
    image: bool = False
    features: tuple[Feature, ...] | None = None
    retires: date | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry that no offer can be made of, and the reason."""

    key: str
    reason: str


@dataclass
class PriceList:
    """What a list says: `source` names it with its version, `as_of` is the day that its prices are of."""

    source: str
    as_of: date
    listings: list[Listing] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def read_price_list(where: str, as_of: date | None) -> PriceList:
    """Read `litellm` or `genai-prices` where it is installed, or a JSON file of either.

    Without `as_of` the day of the file is taken. Raises `UnreadableList`.
    """
    read = _json_data
    if where == "litellm":
        file = _package("litellm") / LITELLM_FILE
        source = f"litellm {importlib.metadata.version('litellm')}"
    elif where == "genai-prices":
        file, read = _package("genai_prices") / "data.py", _python_data
        source = f"genai-prices {importlib.metadata.version('genai-prices')}"
    else:
        file, source = Path(where), Path(where).name
    try:
        day = as_of or datetime.fromtimestamp(file.stat().st_mtime, UTC).date()
        data = read(file)
    except OSError as error:
        raise UnreadableList(f"{file} cannot be read: {error.strerror}") from None
    found = PriceList(source, day)
    providers = data.get("providers") if isinstance(data, dict) else data
    if isinstance(providers, list):
        _collect(found, _genai_entries(providers), day)
    elif isinstance(data, dict) and any(
        isinstance(e, dict) and "litellm_provider" in e for e in data.values()
    ):
        _collect(found, _litellm_entries(data), day)
    else:
        raise UnreadableList(f"{file} is neither litellm's price map nor the data of genai-prices")
    return found


def _package(name: str) -> Path:
    """Find a package's folder without importing it. Raises `UnreadableList` where it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        package = name.replace("_", "-")
        raise UnreadableList(
            f"{package} is not installed beside the router: `uv run --with {package} router catalog import`, "
            "`pip install` it, or name its JSON file: --from FILE"
        )
    return Path(spec.submodule_search_locations[0])


def _json_data(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes(), parse_float=Decimal)
    except ValueError as error:
        raise UnreadableList(f"{file} is not JSON: {error}") from None


def _python_data(file: Path) -> list[Any]:
    """Return genai-prices' providers as plain tables."""
    try:
        found = importlib.import_module("genai_prices.data").providers
        return [dataclasses.asdict(provider) for provider in found]
    except (ImportError, AttributeError, TypeError) as error:
        said = (
            f"{file} is not in the known form ({error}); give the project's prices/data.json with --from FILE"
        )
        raise UnreadableList(said) from None


_Entry = tuple[str, str, Mapping[str, Any], bool]


def _collect(found: PriceList, entries: Iterable[_Entry], day: date) -> None:
    """Turn entries into listings; an entry that says the same once more is dropped."""
    known: dict[tuple[str, str], Listing] = {}
    for key, provider, entry, is_litellm in entries:
        try:
            listing = (_litellm if is_litellm else _genai)(key, provider, entry, day)
        except _Skip as skip:
            found.skipped.append(Skipped(key, str(skip)))
            continue
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as odd:
            found.skipped.append(Skipped(key, f"its entry has a form that is not known here ({odd!r})"))
            continue
        first = known.setdefault((listing.provider, listing.upstream), listing)
        if first is listing:
            found.listings.append(listing)
        elif first.prices != listing.prices:
            said = f"{first.key} is the same model there at another price; compare them"
            found.skipped.append(Skipped(key, said))


def _litellm_entries(data: Mapping[str, Any]) -> Iterator[_Entry]:
    for key, entry in data.items():
        if key != "sample_spec" and isinstance(entry, dict) and entry.get("mode") == "chat":
            yield key, str(entry.get("litellm_provider")), entry, True


def _litellm(key: str, provider: str, entry: Mapping[str, Any], day: date) -> Listing:
    prices = {
        name: _usd(entry[field], _MILLION) for field, name in _LITELLM_PRICES.items() if _given(entry, field)
    }
    tiers: dict[int, dict[str, Decimal]] = {}
    for field_name, value in entry.items():
        match = _LITELLM_TIER.fullmatch(field_name)
        if match is not None and value is not None:
            tiers.setdefault(int(match[2]) * 1_000, {})[_LITELLM_PRICES[match[1]]] = _usd(value, _MILLION)
    for tier in entry.get("tiered_pricing") or ():
        start = _count(tier.get("range", [0])[0])
        told = {name: _usd(tier[f], _MILLION) for f, name in _LITELLM_PRICES.items() if _given(tier, f)}
        if start:
            tiers.setdefault(start, told)
        else:
            prices = told | prices
    retires = entry.get("deprecation_date")
    features = (f for flag, found in _LITELLM_FEATURES.items() if entry.get(flag) is True for f in found)
    return Listing(
        key=key,
        provider=_PROVIDERS.get(provider, provider),
        upstream=key.removeprefix(f"{provider}/"),
        prices=_checked(prices),
        context=_context(entry.get("max_input_tokens") or entry.get("max_tokens")),
        max_output=_count(entry.get("max_output_tokens")),
        rules=tuple(Rule((("above_input", f"{at:_}"),), tiers[at]) for at in sorted(tiers)),
        image=entry.get("supports_vision") is True,
        features=tuple(features),
        retires=_in_future(retires, day) if isinstance(retires, str) else None,
    )


def _in_future(text: str, day: date) -> date:
    try:
        retires = date.fromisoformat(text)
    except ValueError:
        raise _Skip(f"its deprecation_date {text[:20]!r} is no date") from None
    if retires <= day:
        raise _Skip(f"deprecated on {retires}")
    return retires


def _genai_entries(providers: Iterable[Mapping[str, Any]]) -> Iterator[_Entry]:
    for provider in providers:
        for entry in provider.get("models", ()):
            yield f"{provider['id']}/{entry['id']}", str(provider["id"]), entry, False


def _genai(key: str, provider: str, entry: Mapping[str, Any], day: date) -> Listing:
    if entry.get("deprecated"):
        raise _Skip("deprecated")
    told = entry.get("prices")
    prices: dict[str, Decimal] = {}
    rules: list[Rule] = []
    for conditional in told if isinstance(told, list) else [{"prices": told}]:
        base, tiers = _genai_prices(conditional.get("prices"))
        condition = _genai_condition(conditional.get("constraint"), day)
        if condition is None:  # holds since a day that has passed: it takes the place of all before it
            prices, rules = base, tiers
        else:
            rules += [
                Rule(condition, base),
                *(Rule((*condition, *tier.condition), tier.prices) for tier in tiers),
            ]
    return Listing(
        key=key,
        provider=_PROVIDERS.get(provider, provider),
        upstream=str(entry["id"]),
        prices=_checked(prices),
        context=_context(entry.get("context_window")),
        name=entry.get("name"),
        rules=tuple(rules),
    )


def _genai_prices(told: Any) -> tuple[dict[str, Decimal], list[Rule]]:
    if not isinstance(told, Mapping):
        raise _Skip("its prices have a form that is not known here")
    base: dict[str, Decimal] = {}
    tiers: dict[int, dict[str, Decimal]] = {}
    for field_name, name in _GENAI_PRICES.items():
        value = told.get(field_name)
        if isinstance(value, Mapping):
            base[name] = _usd(value["base"])
            for tier in value["tiers"]:
                tiers.setdefault(int(tier["start"]), {})[name] = _usd(tier["price"])
        elif value is not None:
            base[name] = _usd(value)
    return base, [Rule((("above_input", f"{at:_}"),), tiers[at]) for at in sorted(tiers)]


def _genai_condition(constraint: Any, day: date) -> tuple[tuple[str, str], ...] | None:
    """Return the condition as catalog fields; None where it holds always on that day."""
    if not constraint:
        return None
    if constraint.get("start_date") is not None:
        starts = date.fromisoformat(str(constraint["start_date"]))
        return None if starts <= day else (("starts", f"{starts}T00:00:00Z"),)
    start, end = (str(constraint.get(name)) for name in ("start_time", "end_time"))
    clock = re.compile(r"(\d\d:\d\d):00(?:Z|\+00:00)?")
    from_, to = clock.fullmatch(start), clock.fullmatch(end)
    if from_ is None or to is None:
        raise _Skip("it has a price of which the condition is not known here")
    return (("utc", f'"{from_[1]}-{to[1]}"'),)


def _given(entry: Mapping[str, Any], name: str) -> bool:
    return entry.get(name) is not None


def _usd(value: Any, times: int = 1) -> Decimal:
    """Return USD per million tokens, exact to the six digits of a catalog. Raises `_Skip`."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not Decimal(value).is_finite():
        raise _Skip("a price is not a number")
    exact = Decimal(value) * times
    rounded = exact.quantize(_DIGITS) if exact < _MILLION else exact
    if abs(exact - rounded) > _NOISE:
        raise _Skip(f"its price {exact:f} is finer than six digits after the point")
    return rounded


def _checked(prices: Mapping[str, Decimal]) -> Mapping[str, Decimal]:
    if "input" not in prices or "output" not in prices:
        raise _Skip("it has no price per token")
    if not prices["input"] and not prices["output"]:
        raise _Skip("its price is 0, which lists also write for an unknown one")
    if min(prices.values()) < 0:
        raise _Skip("a price is negative")
    return prices


def _count(value: Any) -> int | None:
    """Return a positive whole number; lists also have texts and 256000.0."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value != int(value):
        return None
    return int(value) if value > 0 else None


def _context(value: Any) -> int:
    context = _count(value)
    if context is None:
        raise _Skip("the list does not say its context")
    return context
