"""Turn checked tables into the frozen catalog: exact integers, offers complete, each fault at its line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from urllib.parse import urlsplit

from router.catalog.faults import Report, Source, did_you_mean
from router.catalog.lines import FieldPath
from router.catalog.local import (
    DEFAULT_TOK_S,
    DEFAULT_TTFT_S,
    LOCAL_PORTS,
    LocalServer,
    is_loopback,
    local_program,
)
from router.catalog.schema import (
    LimitsTable,
    ModelHead,
    OfferTable,
    PriceTable,
    ProviderFile,
    RuleTable,
    parse_days,
    parse_utc,
)
from router.catalog.snapshot import (
    CATEGORIES,
    PICO_USD_PER_TOKEN_AT_1_USD_PER_MILLION,
    Feature,
    Limits,
    Model,
    Offer,
    Price,
    PriceRule,
    Provider,
    Timeouts,
)

STALE_PRICE_DAYS = 90
RETIRES_SOON_DAYS = 30
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_PRICE_KEYS = ("input", "output", "cache_read", "cache_write")


@dataclass(frozen=True, slots=True)
class World:
    """Hold what lies around the files: variables, day, local servers, and the providers read so far.

    `unpayable` says in one sentence what keeps the wallet from paying; None: nothing does.
    `provider_names` holds every provider that has a file, also one whose file is faulty.
    """

    environ: Mapping[str, str]
    today: date
    local: Mapping[str, LocalServer]
    local_ports: Mapping[int, str] = field(default_factory=lambda: LOCAL_PORTS)
    providers: Mapping[str, Provider] = field(default_factory=dict)
    provider_names: frozenset[str] = frozenset()
    unpayable: str | None = None


def build_provider(name: str, table: ProviderFile, source: Source, report: Report) -> Provider:
    """Return the provider of one file."""
    pays = table.pays or ("key" if table.key_env else "none")
    if pays == "key" and table.key_env is None:
        report.fault(source, ("pays",), 'pays = "key" needs key_env, the name of the key\'s variable')
    if table.pay_to is not None and pays not in {"x402", "mpp"}:
        report.fault(source, ("pay_to",), 'pay_to pins the payee of pays = "x402" or "mpp" only')
    elif table.pay_to is not None and _ADDRESS.fullmatch(table.pay_to) is None:
        report.fault(source, ("pay_to",), "an address is 0x and 40 hexadecimal digits")
    given = table.timeout_s.model_dump(exclude_none=True)
    return Provider(
        name=name,
        title=table.name,
        base_url=table.base_url,
        key_env=table.key_env,
        timeouts=Timeouts(**{phase: float(seconds) for phase, seconds in given.items()}),
        limits=_limits(table.limits),
        pays=pays,
        pay_to=table.pay_to,
        headers=tuple((header.lower(), text) for header, text in table.headers.items()),
        transport=table.transport,
        output_limit=table.output_limit,
    )


def build_model(model_id: str, source: Source, world: World, report: Report) -> Model | None:
    """Return the model of one file with its offers; None when its own fields are faulty."""
    raw_offers = source.data.get("offers", [])
    head = report.parse(ModelHead, source, {k: v for k, v in source.data.items() if k != "offers"})
    if not isinstance(raw_offers, list) or not all(isinstance(raw, dict) for raw in raw_offers):
        report.fault(source, ("offers",), "write each offer below its own [[offers]]")
        raw_offers = []
    tables: list[tuple[int, OfferTable]] = []
    for index, raw in enumerate(raw_offers):
        table = report.parse(OfferTable, source, raw, ("offers", index))
        _check_provider(raw.get("provider"), ("offers", index, "provider"), source, world, report)
        if table is not None:
            _check_offer(table, ("offers", index), source, world, report)
            tables.append((index, table))
    _check_duplicates(tables, source, report)
    if head is None:
        return None
    _check_head(head, source, world, report)
    if not raw_offers:
        report.warn(source, (), "no [[offers]]: nobody serves this model")
    offers = [
        _offer(model_id, head, table, world) for _, table in tables if table.provider in world.providers
    ]
    for index, table in tables:
        _check_against_model(head, table, ("offers", index), source, report)
    return _model(model_id, head, offers, source.file)


def _model(model_id: str, head: ModelHead, offers: list[Offer], file: str) -> Model:
    rated = {category: getattr(head.quality, category, None) for category in CATEGORIES}
    return Model(
        id=model_id,
        name=head.name,
        open_weights=head.open_weights,
        context=head.context,
        max_output=min(head.max_output or head.context, head.context),
        input=frozenset(head.input),
        features=frozenset(head.features),
        retires=head.retires,
        quality={category: float(points) for category, points in rated.items() if points is not None},
        offers=tuple(offers),
        file=file,
    )


def _check_provider(name: object, path: FieldPath, source: Source, world: World, report: Report) -> None:
    if isinstance(name, str) and name not in world.provider_names and not report.is_faulty(source, path):
        hint = did_you_mean(name, world.provider_names)
        report.fault(source, path, f'unknown provider "{name}"{hint}')


def _check_duplicates(tables: list[tuple[int, OfferTable]], source: Source, report: Report) -> None:
    first: dict[tuple[str, str], int] = {}
    for index, table in tables:
        key = (table.provider, table.model)
        if key in first:
            said = (
                f'"{table.model}" at "{table.provider}" is offers[{first[key]}] already; remove one of them'
            )
            report.fault(source, ("offers", index), said)
        first.setdefault(key, index)


def _check_head(head: ModelHead, source: Source, world: World, report: Report) -> None:
    if head.max_output is not None:
        _check_output(head.max_output, head.context, ("max_output",), source, report)
    if head.quality is not None and head.quality.vision is not None and "image" not in head.input:
        said = 'a vision quality needs "image" in input'
        report.fault(source, ("quality", "vision"), said)
    if head.retires is not None and head.retires > world.today:
        days = (head.retires - world.today).days
        if days <= RETIRES_SOON_DAYS:
            when = "tomorrow" if days == 1 else f"in {days} days"
            report.warn(source, ("retires",), f"retires {when}; its offers go off on {head.retires}")
    elif head.retires is not None:
        report.warn(source, ("retires",), f"retired on {head.retires}; its offers are off")


def _check_output(max_output: int, context: int, path: FieldPath, source: Source, report: Report) -> None:
    if max_output > context:
        report.fault(source, path, f"max_output {max_output:_} is above the context of {context:_} tokens")
    elif max_output == context:
        said = "max_output equals the context, which leaves no token for a prompt; usually a placeholder"
        report.warn(source, path, said)


def _check_against_model(
    head: ModelHead, table: OfferTable, path: FieldPath, source: Source, report: Report
) -> None:
    context = table.context or head.context
    if context > head.context:
        said = f"context {context:_} is above the model's {head.context:_}"
        report.fault(source, (*path, "context"), said)
    if table.max_output is not None:
        _check_output(table.max_output, context, (*path, "max_output"), source, report)
    for word in table.input or ():
        if word not in head.input:
            report.fault(source, (*path, "input"), f'"{word}" is not in the model\'s input')


def _check_offer(table: OfferTable, path: FieldPath, source: Source, world: World, report: Report) -> None:
    price = table.price
    free = (price.input == 0, price.output == 0)
    if all(free) and not table.free:
        report.fault(source, (*path, "price"), "input and output are 0: write free = true if that is meant")
    elif table.free and not all(free):
        report.fault(source, (*path, "free"), "free = true, but the price is not 0")
    elif any(free) and not all(free):
        which = "input" if free[0] else "output"
        report.warn(source, (*path, "price", which), f"{which} costs 0 and the other does not; is it meant?")
    _check_cache(price.input, price.cache_read, (*path, "price", "cache_read"), source, report)
    if table.charge is not None:
        charge = table.charge
        _check_cache(charge.input, charge.cache_read, (*path, "charge", "cache_read"), source, report)
    _check_rules(table, path, source, report)
    if table.price_as_of is None:
        return
    age = (world.today - table.price_as_of).days
    if age > STALE_PRICE_DAYS:
        report.warn(source, (*path, "price_as_of"), f"the price is {age} days old; check it at the provider")
    elif age < -1:  # it may be tomorrow already where the operator is
        report.warn(source, (*path, "price_as_of"), f"{table.price_as_of} is {-age} days ahead; mistyped?")


def _check_cache(
    full: Decimal, cache_read: Decimal | None, path: FieldPath, source: Source, report: Report
) -> None:
    if cache_read is not None and cache_read > full:
        report.fault(source, path, f"cache_read {cache_read} is above input {full}")


def _check_rules(table: OfferTable, path: FieldPath, source: Source, report: Report) -> None:
    highest: dict[tuple[object, ...], int] = {}
    for index, rule in enumerate(table.when):
        here = (*path, "when", index)
        prices = {key: getattr(rule, key) for key in _PRICE_KEYS}
        if not report.is_faulty(source, here):
            _check_rule_is_whole(rule, here, source, report)
        if prices["input"] == 0 and prices["output"] == 0 and not table.free:
            report.fault(
                source, here, "input and output are 0: only an offer with free = true may cost nothing"
            )
        full = table.price.input if rule.input is None else rule.input
        cached = table.price.cache_read if rule.cache_read is None else rule.cache_read
        if rule.input is not None or rule.cache_read is not None:
            _check_cache(full, cached, here, source, report)
        if rule.above_input is None:
            continue
        tier = (rule.utc, rule.days, rule.starts)
        if rule.above_input <= highest.get(tier, 0):
            said = (
                f"tiers must ascend: {rule.above_input:_} comes after {highest[tier]:_} (a later rule wins)"
            )
            report.fault(source, (*here, "above_input"), said)
        highest[tier] = max(rule.above_input, highest.get(tier, 0))


def _check_rule_is_whole(rule: RuleTable, path: FieldPath, source: Source, report: Report) -> None:
    if rule.multiply is None and all(getattr(rule, key) is None for key in _PRICE_KEYS):
        report.fault(source, path, "changes nothing: give a price or multiply")
    if all(value is None for value in (rule.above_input, rule.utc, rule.days, rule.starts)):
        report.fault(source, path, "holds always: give above_input, utc, days or starts")


def _offer(model_id: str, head: ModelHead, table: OfferTable, world: World) -> Offer:
    context = table.context or head.context
    features: frozenset[Feature] = frozenset(head.features if table.features is None else table.features)
    speed = table.speed
    return Offer(
        model=model_id,
        provider=table.provider,
        upstream_model=table.model,
        price=_price(table.price),
        when=tuple(_rule(rule, table.price) for rule in table.when),
        charge=None if table.charge is None else _price(table.charge),
        context=context,
        max_output=min(table.max_output or head.max_output or context, context),
        input=frozenset(head.input if table.input is None else table.input),
        features=features,
        ttft_s=DEFAULT_TTFT_S if speed.ttft_s is None else float(speed.ttft_s),
        tok_s=DEFAULT_TOK_S if speed.tok_s is None else float(speed.tok_s),
        limits=_limits(table.limits),
        free=table.free,
        unusable=_unusable(head, table, world),
        price_as_of=table.price_as_of,
        local=local_program(world.providers[table.provider], world.local_ports) is not None,
    )


def _unusable(head: ModelHead, table: OfferTable, world: World) -> str | None:
    """Say in one sentence what keeps an offer from being used; None when nothing does."""
    if not table.enabled:
        return "set enabled = true in its catalog file"
    if head.retires is not None and head.retires <= world.today:
        return f"retired on {head.retires}"
    provider = world.providers[table.provider]
    if provider.key_env is not None and not world.environ.get(provider.key_env):
        return f"set {provider.key_env}"
    if provider.pays in ("x402", "mpp"):
        return _unpayable(provider, world)
    if provider.key_env is not None:
        return None
    program = local_program(provider, world.local_ports)
    if program is None:
        return None
    server = world.local.get(provider.name)
    if server is None:
        return f"nothing answers on {urlsplit(provider.base_url).netloc} (start {program})"
    if server.serves(table.model):
        return None
    fix = f"run: ollama pull {table.model}" if program == "Ollama" else f"load it in {program}"
    return f'{provider.name} has no model "{table.model}" ({fix})'


def _unpayable(provider: Provider, world: World) -> str | None:
    """Say what keeps a provider from being paid by the wallet."""
    url = urlsplit(provider.base_url)
    if url.scheme != "https" and not is_loopback(url.hostname or ""):
        return (
            "write its base_url with https://, since money is not sent over a connection that others can read"
        )
    return world.unpayable


def _pico(usd_per_million: Decimal) -> int:
    """Turn USD per million tokens into pico-USD per token; the schema has checked that it is whole."""
    return int(usd_per_million * PICO_USD_PER_TOKEN_AT_1_USD_PER_MILLION)


def _price(table: PriceTable) -> Price:
    return Price(
        input=_pico(table.input),
        output=_pico(table.output),
        cache_read=_pico(table.input if table.cache_read is None else table.cache_read),
        cache_write=_pico(table.input if table.cache_write is None else table.cache_write),
    )


def _rule(rule: RuleTable, price: PriceTable) -> PriceRule:
    """Return a rule; where the offer has no price of its own for the cache, the cache follows the input."""
    given = {key: getattr(rule, key) for key in _PRICE_KEYS}
    for key in ("cache_read", "cache_write"):
        if given[key] is None and getattr(price, key) is None:
            given[key] = rule.input
    return PriceRule(
        above_input=rule.above_input,
        utc=None if rule.utc is None else parse_utc(rule.utc),
        days=None if rule.days is None else parse_days(rule.days),
        starts=rule.starts,
        multiply_ppm=None if rule.multiply is None else _pico(rule.multiply),
        **{key: None if value is None else _pico(value) for key, value in given.items()},
    )


def _limits(table: LimitsTable) -> Limits:
    return Limits(concurrency=table.concurrency, rpm=table.rpm, tpm=table.tpm)
